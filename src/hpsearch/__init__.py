"""hpsearch searches the hyperparameters of Keras models and records every trial in MLflow.

`from hpsearch import Search` is the Python interface.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpsearch.cli.api import Search

__all__ = ["Search"]
__version__ = "0.2.0"


def __getattr__(name: str) -> object:
    """Import `Search` on first use, so that other modules do not have to wait for Hydra."""
    if name != "Search":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hpsearch.cli.api import Search  # noqa: PLC0415

    return Search
