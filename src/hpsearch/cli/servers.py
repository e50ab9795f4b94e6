"""Check the servers and files that a job will use, before Keras is imported or anything is made."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hpsearch.errors import ConfigError, UserError
from hpsearch.study.worker_process import this_process

# A server that is well answers within this time.
_TIMEOUT_S = 3.0


def check_servers(config: Mapping[str, Any], say: Callable[[str], object]) -> None:
    """Check the MLflow store and the study storage of a composed configuration.

    A part of another class than conf names is not checked. A process that continues the work of
    another one waits for what is away, as that one would have.

    Args:
        config: The configuration of any job.
        say: Called with a sentence where the check waits for a lock.

    Raises:
        UserError: One of them cannot be used. The sentence says why, and what helps.
    """
    check_storage: Callable[..., None] = _check_storage
    if "budget" not in config:  # the job only reads studies
        check_storage = _check_storage_to_read
    checks = {"tracking": _check_tracking, "storage": check_storage}
    for key, check in checks.items():
        part = config.get(key)
        if isinstance(part, DictConfig):
            part = OmegaConf.to_container(part, resolve=True)
        if isinstance(part, Mapping) and str(part.get("_target_")).startswith("hpsearch."):
            settings = {str(name): value for name, value in part.items()}
            _patiently(check, settings, say)


def _patiently(
    check: Callable[..., None],
    part: Mapping[str, Any],
    say: Callable[[str], object],
) -> None:
    """Check a part; a process that continues the work of another one tries it again for a while."""
    patience_s = float(part.get("patience_s") or 0.0)
    deadline = time.monotonic()
    if this_process.n_restarts(os.getpid()):
        deadline += patience_s
    while True:
        try:
            return check(part, patience_s, say)
        except UserError as error:
            if isinstance(error, ConfigError) or time.monotonic() >= deadline:
                raise
        time.sleep(1.0)


def _check_storage(
    part: Mapping[str, Any],
    patience_s: float,
    say: Callable[[str], object],
    table: str | None = "studies",
) -> None:
    # Importing these takes time that a typo must not cost.
    from hpsearch.study.database import check_database  # noqa: PLC0415
    from hpsearch.study.sqlite_file import check_file, check_folder  # noqa: PLC0415
    from hpsearch.study.storage import check_postgres, storage_errors  # noqa: PLC0415

    url = part.get("url")
    path = part.get("path")
    if url is not None:
        check_postgres(str(url), "storage.url", "postgresql+psycopg://USER@HOST:PORT/DATABASE")
        with storage_errors(str(url)):
            check_database(str(url), table)
    elif path is not None:
        with storage_errors(str(path)):
            if "timeout_s" in part:  # SQLite has locks of its own
                check_file(Path(path), patience_s, say)
            else:
                check_folder(Path(path))


def _check_storage_to_read(
    part: Mapping[str, Any],
    patience_s: float,
    say: Callable[[str], object],
) -> None:
    if "url" in part:
        _check_storage(part, patience_s, say, table=None)


def _check_tracking(
    part: Mapping[str, Any],
    patience_s: float,
    say: Callable[[str], object],
) -> None:
    from hpsearch.tracking.store import Store  # noqa: PLC0415

    store = Store(part.get("uri"), part.get("experiment"))
    store.check(_TIMEOUT_S, patience_s, say)
