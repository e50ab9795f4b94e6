"""Keep the settings of MLflow that hold for a whole process, while a search sets its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_ID")


@contextmanager
def mlflow_settings_kept() -> Iterator[None]:
    """Restore the tracking URI, the registry URI and the experiment of this process at the end.

    MLflow is not imported here. Where nothing else has imported it, it has no settings yet.
    """
    variables = _without_variables()
    uris = _uris()
    _set_variables(variables)
    try:
        yield
    finally:
        mlflow = sys.modules.get("mlflow")
        if mlflow is not None:
            mlflow.set_tracking_uri(uris[0])
            mlflow.set_registry_uri(uris[1])
        _set_variables(variables)


def _without_variables() -> dict[str, str | None]:
    """Remove the environment variables, and return their values."""
    return {name: os.environ.pop(name, None) for name in _VARIABLES}


def _set_variables(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _uris() -> tuple[str | None, str | None]:
    """Return the URIs that were set by calls of MLflow's functions; None where none was.

    The environment variables must be absent, since MLflow returns them as if they had been set.
    """
    mlflow: Any = sys.modules.get("mlflow")
    if mlflow is None:
        return None, None
    tracking = None
    if mlflow.is_tracking_uri_set():
        tracking = mlflow.get_tracking_uri()
    registry = mlflow.get_registry_uri()
    if registry == mlflow.get_tracking_uri():  # MLflow takes the tracking URI where none is set
        registry = None
    return tracking, registry
