"""hpsearch: MLflow-tracked hyperparameter search for Keras. `from hpsearch import Search` is its
Python interface.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpsearch.cli.api import Search

__all__ = ["Search"]


def __getattr__(name: str) -> Any:
    """Import `Search` when it is asked for: other parts must not wait for Hydra."""
    if name != "Search":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hpsearch.cli.api import Search  # noqa: PLC0415

    return Search
