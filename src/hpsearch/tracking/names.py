"""The names of registered models and their aliases.

This module imports neither Keras nor MLflow, so that a wrong name is answered at once.
"""

from __future__ import annotations

from hpsearch.errors import ConfigError

# The alias of the cheapest good model, by the cost that is searched.
CHEAPEST = {"latency_ms": "fastest", "n_parameters": "smallest"}


def check_name(key: str, name: str | None) -> None:
    """Raise ConfigError for a name that no registered model can have in MLflow.

    Args:
        key: The setting that holds the name, for the message.
        name: The name.
    """
    if name is None:
        raise ConfigError(f"{key} must be a name, but is null.")
    if set("/:?#@") & set(name) or set("'\"") <= set(name):
        raise ConfigError(
            f"{key} names a registered model too, so it must have none of / : ? # @ and only one "
            f"kind of quotation marks, but is {name}."
        )
