"""Read a storage of studies that another program made with Optuna, and leave it as it is.

A SQLite file is copied first, because Optuna writes to each database that it opens, and because
the tables of an earlier version of Optuna have to be changed before they can be read.
"""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.errors import ConfigError, StorageError, first_line
from hpsearch.study.storage import without_password

_FORMS = "a SQLite file, a journal file or postgresql+psycopg://USER@HOST:PORT/DATABASE"


@contextmanager
def other_storage(place: str) -> Iterator[BaseStorage]:
    """Open a storage for reading while the block runs.

    Args:
        place: The path of a SQLite or journal file, `sqlite:///PATH`, or the URL of a PostgreSQL
            database.

    Raises:
        ConfigError: `place` is none of these, does not exist, holds a password, or was made by a
            version of Optuna whose tables cannot be read.
        StorageError: The storage cannot be read.
    """
    shown = without_password(place)
    path = place.removeprefix("sqlite:///")
    try:
        if "://" in path:
            with _postgres(path) as storage:
                yield storage
        elif _is_sqlite(path):
            with _copy_of_sqlite(path) as storage:
                yield storage
        else:
            yield JournalStorage(JournalFileBackend(path))
    except (
        SQLAlchemyError,
        sqlite3.Error,
        optuna.exceptions.StorageInternalError,
        OSError,
        KeyError,
        ValueError,
    ) as error:
        original = getattr(error, "orig", None) or error.__cause__ or error
        cause = without_password(first_line(original))
        raise StorageError(
            f"The storage {shown} (study.warm_storage) cannot be read ({cause}); it must be "
            f"{_FORMS} that Optuna has made."
        ) from error


def _is_sqlite(path: str) -> bool:
    """Return True for a SQLite file and False for a journal file.

    Raises:
        ConfigError: There is no such file, or it is another one.
    """
    if not Path(path).is_file():
        raise ConfigError(f"There is no file {path} (study.warm_storage); give {_FORMS}.")
    with open(path, "rb") as file:
        start = file.readline(100_000)
    if start.startswith(b"SQLite format 3\0"):
        return True
    try:
        is_journal = "op_code" in json.loads(start)
    except (ValueError, TypeError):
        is_journal = False
    if not is_journal:
        raise ConfigError(
            f"The file {path} (study.warm_storage) is no storage of Optuna; give {_FORMS}."
        )
    return False


@contextmanager
def _copy_of_sqlite(path: str) -> Iterator[BaseStorage]:
    folder = tempfile.mkdtemp(prefix="hpsearch-")
    try:
        copy = Path(folder) / "copy.db"
        address = f"{Path(path).absolute().as_uri()}?mode=ro"
        with (
            closing(sqlite3.connect(address, uri=True)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
        storage = RDBStorage(f"sqlite:///{copy}", skip_compatibility_check=True)
        try:
            if _is_older(path, storage):
                _upgrade(storage)
            yield storage
        finally:
            storage.engine.dispose()
    finally:
        shutil.rmtree(folder)


@contextmanager
def _postgres(url: str) -> Iterator[BaseStorage]:
    shown = without_password(url)
    if not url.startswith("postgresql+psycopg://"):
        raise ConfigError(f"study.warm_storage must be {_FORMS}, but is {shown}.")
    address = sqlalchemy.make_url(url)
    if address.password is not None or "password" in address.query:
        raise ConfigError(
            "study.warm_storage must not hold the password, which everybody on this machine can "
            "see there; put it into PGPASSWORD or ~/.pgpass instead."
        )
    options = "-c default_transaction_read_only=on"
    engine = {
        "connect_args": {"connect_timeout": 5, "options": options},
        "poolclass": sqlalchemy.NullPool,
    }
    storage = RDBStorage(
        url,
        engine,
        skip_compatibility_check=True,
        skip_table_creation=True,
    )
    try:
        if _is_older(shown, storage):
            raise ConfigError(
                f"The storage {shown} (study.warm_storage) has the tables of an earlier version of "
                f"Optuna; change them with: optuna storage upgrade --storage {shown}"
            )
        yield storage
    finally:
        storage.engine.dispose()


def _is_older(place: str, storage: RDBStorage) -> bool:
    """Return whether an earlier version of Optuna has made the tables of a storage.

    Raises:
        ConfigError: A later version has made them.
    """
    version = storage.get_current_version()
    if version not in storage.get_all_versions():
        raise ConfigError(
            f"The storage {place} (study.warm_storage) has tables of version {version}, which "
            f"Optuna {optuna.__version__} does not know; read it with a later version of Optuna."
        )
    return version != storage.get_head_version()


def _upgrade(storage: RDBStorage) -> None:
    """Change the tables of a storage to those of this version of Optuna.

    Alembic would configure the logging of this process anew if the root logger had no handler.
    Optuna warns of the distributions of its earlier versions, which it replaces here.
    """
    handler = logging.NullHandler()
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            storage.upgrade()
    finally:
        root.removeHandler(handler)
