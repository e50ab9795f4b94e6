"""hpsearch searches the hyperparameters of Keras models and records every trial in MLflow.

`hpsearch.search(build_model, x, y)` searches from Python. `hpsearch.Search` does the same with the
words of a command line. Importing hpsearch before Keras lets Keras take the backend that is
installed.
"""

from typing import TYPE_CHECKING

from hpsearch.backend import choose_backend

if TYPE_CHECKING:
    from hpsearch.cli.api import Search, search

__all__ = ["Search", "search"]
__version__ = "0.2.0"

# Keras takes a backend when it is first imported, in a program often right after hpsearch.
choose_backend()


def __getattr__(name: str) -> object:
    """Import the interface on first use, so that other modules do not have to wait for Hydra."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hpsearch.cli import api  # noqa: PLC0415

    return getattr(api, name)
