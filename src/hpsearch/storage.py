"""Where studies are kept: SQLite (one file), a journal file (shared file systems), PostgreSQL (clusters)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.errors import StorageError


def without_password(text: str) -> str:
    """Return `text` with the password of every URL in it blanked."""
    return re.sub(r"(?<=://)([^:/@\s]*):[^@\s]*@", r"\1:***@", text)


@contextmanager
def storage_errors(place: str) -> Iterator[None]:
    """Turn what a storage raises into one sentence that says where and what."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError) as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise StorageError(
            f"The study storage {without_password(place)} cannot be used ({without_password(cause)}); "
            "storage.path must name a file in a folder that can be written, and no other program may hold it locked."
        ) from error


def sqlite(path: str, timeout_s: float) -> BaseStorage:
    """Return a storage in the SQLite file `path`; a writer waits `timeout_s` seconds for another one."""
    with storage_errors(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": timeout_s}})


def journal(path: str) -> BaseStorage:
    """Return a storage in the append-only file `path`, safe on NFS."""
    with storage_errors(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(path))


def postgres(url: str) -> BaseStorage:
    """Return a storage in a PostgreSQL database, `postgresql+psycopg://user@host:port/database`."""
    with storage_errors(url):
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
