"""A client of an MLflow store that raises one sentence where the store cannot be asked."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from hpsearch.tracking.absent import is_answer
from hpsearch.tracking.store import Store


class StoreClient(MlflowClient):
    """MLflow's client, each of whose methods may raise TrackingError besides.

    MLflow's own error stays where it is an answer of the store, such as that a run does not exist.
    A database file that another process keeps locked is waited for.

    Args:
        store: The store.
        patience_s: How long a lock is waited for, in seconds.
    """

    def __init__(self, store: Store, patience_s: float) -> None:
        super().__init__(store.uri, registry_uri=store.uri)
        self._store = store
        self._patience_s = patience_s

    def __getattribute__(self, name: str) -> Any:
        """Return an attribute; a public method turns errors into sentences."""
        found = super().__getattribute__(name)
        if name.startswith("_") or not callable(found):
            return found
        return partial(self._asked, found)

    def _asked(
        self,
        method: Callable[..., Any],
        *args: object,
        **keywords: object,
    ) -> Any:
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return method(*args, **keywords)
            except (MlflowException, requests.RequestException) as error:
                if isinstance(error, MlflowException) and is_answer(error):
                    raise
                # A transaction that met a lock has changed nothing.
                is_locked = "database is locked" in str(error)
                if not is_locked or time.monotonic() > deadline:
                    raise self._store.fault(error) from error
                time.sleep(0.1)
            self._store.check(10.0, self._patience_s, logging.getLogger(__name__).warning)
