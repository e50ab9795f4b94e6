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
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import NoReturn

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.errors import ConfigError, StorageError, first_line
from hpsearch.secrets_in_text import without_secrets
from hpsearch.study.storage import check_postgres

_FORMS = "a SQLite file, a journal file or postgresql+psycopg://USER@HOST:PORT/DATABASE"
_LOCK_TIMEOUT_S = 5


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
    with ExitStack() as opened:
        with reading_errors(place):
            storage = opened.enter_context(_opened(place.removeprefix("sqlite:///")))
        yield storage


@contextmanager
def reading_errors(place: str) -> Iterator[None]:
    """Raise StorageError with one sentence for any error of reading another program's storage.

    Optuna asserts what stands in a journal, and takes its types for granted.

    Args:
        place: The path or URL of the storage.
    """
    shown = without_secrets(place)
    try:
        yield
    except (
        SQLAlchemyError,
        sqlite3.Error,
        optuna.exceptions.StorageInternalError,
        OSError,
        AssertionError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        original = getattr(error, "orig", None) or error.__cause__ or error
        cause = first_line(original)
        raise StorageError(
            f"The storage {shown} (study.warm_storage) cannot be read ({cause}); it must be "
            f"{_FORMS} that Optuna has made."
        ) from error


def same_place(place: str | None) -> str | None:
    """Return one spelling for all spellings of a storage: an absolute path or a URL; or None."""
    if not place:
        return None
    path = place.removeprefix("sqlite:///")
    if "://" in path:
        return without_secrets(path)
    return str(Path(path).resolve())


def _opened(path: str) -> AbstractContextManager[BaseStorage]:
    if "://" in path:
        return _postgres(path)
    if _is_sqlite(path):
        return _copy_of_sqlite(path)
    return nullcontext(JournalStorage(JournalFileBackend(path)))


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
        _refuse(path)
    return False


def _refuse(path: str) -> NoReturn:
    raise ConfigError(
        f"The file {path} (study.warm_storage) is no storage of Optuna; give {_FORMS}."
    )


@contextmanager
def _copy_of_sqlite(path: str) -> Iterator[BaseStorage]:
    folder = tempfile.mkdtemp(prefix="hpsearch-")
    try:
        copy = Path(folder) / "copy.db"
        _copy_sqlite(path, copy)
        storage = RDBStorage(f"sqlite:///{copy}", skip_compatibility_check=True)
        try:
            if _is_older(path, storage):
                _upgrade(storage)
            yield storage
        finally:
            storage.engine.dispose()
    finally:
        shutil.rmtree(folder)


def _copy_sqlite(path: str, copy: Path) -> None:
    """Copy a SQLite file with what its write-ahead log holds.

    Raises:
        ConfigError: Optuna has not made the file.
        sqlite3.Error: The file is damaged, or another program keeps it locked.
    """
    source_path = _without_new_neighbours(Path(path).absolute(), copy.parent)
    address = f"{source_path.as_uri()}?mode=ro"
    with (
        closing(sqlite3.connect(address, timeout=_LOCK_TIMEOUT_S, uri=True)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        # `backup` would wait for a lock for ever. Reading gives up, and once this transaction has
        # read, no other program can lock the file until it ends.
        source.execute("BEGIN")
        names = {name for (name,) in source.execute("SELECT name FROM sqlite_master")}
        if not names >= {"studies", "version_info"}:
            _refuse(path)
        source.backup(target)


def _without_new_neighbours(path: Path, folder: Path) -> Path:
    """Return a file with the content of a SQLite file, beside which reading leaves no new files.

    A file with a write-ahead log is read by means of a file `-shm`, which SQLite makes if it is
    missing. It is missing while no program has the file open, so the file can be copied then.

    Args:
        path: The absolute path of the SQLite file.
        folder: The folder of the copy.
    """
    with path.open("rb") as file:
        has_log = file.read(20)[18:] == b"\x02\x02"
    if not has_log or Path(f"{path}-shm").exists():
        return path
    copy = folder / "source.db"
    shutil.copyfile(path, copy)
    log = Path(f"{path}-wal")
    if log.exists():
        shutil.copyfile(log, f"{copy}-wal")
    return copy


@contextmanager
def _postgres(url: str) -> Iterator[BaseStorage]:
    check_postgres(url, "study.warm_storage", _FORMS)
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
        if _is_older(url, storage):
            raise ConfigError(
                f"The storage {url} (study.warm_storage) has the tables of an earlier version of "
                f"Optuna; change them with: optuna storage upgrade --storage {url}"
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
