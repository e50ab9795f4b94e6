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
    checks = {"storage": _check_storage, "tracking": _check_tracking}
    if "budget" not in config:  # the job only reads studies
        checks["storage"] = _check_storage_to_read
    for key, check in checks.items():
        part = config.get(key)
        if isinstance(part, DictConfig):
            part = OmegaConf.to_container(part, resolve=True)
        if not isinstance(part, Mapping) or not str(part.get("_target_")).startswith("hpsearch."):
            continue
        patience_s = _seconds(part.get("patience_s"))
        deadline = time.monotonic()
        if this_process.n_restarts(os.getpid()):
            deadline += patience_s
        while True:
            try:
                check(part, patience_s, say)
                break
            except UserError as error:
                if isinstance(error, ConfigError) or time.monotonic() > deadline:
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


def _seconds(value: object) -> float:
    if isinstance(value, int | float):
        return float(value)
    return 0.0
