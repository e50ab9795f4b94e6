"""The storages of studies: a SQLite file, a journal file, or a PostgreSQL database.

A journal file is for shared file systems, PostgreSQL for clusters. The storages add to Optuna's
what many workers need: workers that start at the same time create one schema, they wait for a
server that is away for a while, and a process that dies while it writes leaves neither a lock nor
half a line.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._rdb.models import TrialUserAttributeModel
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.storages.journal import BaseJournalBackend
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.command_form import installing
from hpsearch.errors import ConfigError, StorageError, first_line
from hpsearch.secrets_in_text import without_secrets
from hpsearch.study.database import CONNECT_TIMEOUT_S, is_url, why_not
from hpsearch.study.fast_reader import read_trials
from hpsearch.study.journal_file import FileLock, JournalFile
from hpsearch.study.waiting import Outage, impatient, patient


@contextmanager
def storage_errors(place: str) -> Iterator[None]:
    """Raise StorageError with one sentence for any error that a storage raises in the block.

    Args:
        place: The path or URL of the storage.
    """
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError) as error:
        raise StorageError(_sentence(place, error)) from error


def _sentence(place: str, error: BaseException) -> str:
    """Return a sentence that says why a storage cannot be used, and what helps."""
    if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__:
        error = error.__cause__
    path = place.removeprefix("sqlite:///")
    if "://" in path:
        cause = why_not(place, error)
        return without_secrets(f"The study storage {place} cannot be used: {cause}.")
    cause = first_line(getattr(error, "orig", None) or error)
    if isinstance(error, TimeoutError) or "database is locked" in cause:
        return (
            f"The study storage {path} cannot be used: {cause}; end the process that keeps it "
            "locked, or wait for its end."
        )
    return (
        f"The study storage {path} cannot be used ({cause}); storage.path must name a file in a "
        "folder that can be written."
    )


class _SharedRdb(RDBStorage):
    """Optuna's relational storage, which waits while the database is away.

    Args:
        url: The URL of the database.
        exclusively: Returns a lock that keeps out all other workers of the same database.
        patience_s: Seconds for which a call is repeated while the database is away.
        engine: Arguments of SQLAlchemy's `create_engine`.

    Attributes:
        outage: Says that the database is away, and that it is back.
    """

    def __init__(
        self,
        url: str,
        exclusively: Callable[[], AbstractContextManager[object]],
        patience_s: float,
        engine: Mapping[str, object],
    ) -> None:
        self.exclusively = exclusively
        self.patience_s = patience_s
        self.outage = Outage(partial(_sentence, url))
        with impatient, exclusively():
            super().__init__(url, engine_kwargs=dict(engine))
        # Optuna would keep its connections until the end of the process.
        weakref.finalize(self, self.engine.dispose)

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """Return trials like Optuna's method, which makes an object of each row."""
        with _create_scoped_session(self.scoped_session) as session:
            return read_trials(
                session,
                study_id,
                states,
                included_trial_ids,
                trial_id_greater_than,
            )

    def set_trial_user_attrs(
        self,
        trial_id: int,
        attrs: Mapping[str, object],
    ) -> None:
        """Set attributes of a trial, all of them or none."""
        with _create_scoped_session(self.scoped_session, True) as session:
            for key, value in attrs.items():
                self._set_trial_attr_without_commit(
                    session,
                    TrialUserAttributeModel,
                    trial_id,
                    key,
                    value,
                )


# Optuna's cache calls the methods that are named here.
for _name in (
    *BaseStorage.__abstractmethods__,
    "set_trial_user_attrs",
    "_create_new_trial",
    "_set_trial_param",
    "_get_trials",
    "_get_best_trial_id",
):
    setattr(_SharedRdb, _name, patient(getattr(_SharedRdb, _name)))


class SharedJournal(JournalStorage):
    """Optuna's storage in a journal.

    Args:
        backend: The journal.
        exclusively: Returns a lock that keeps out all other workers of the same journal.

    Attributes:
        outage: Says that the journal cannot be written, and that it can again.
    """

    def __init__(
        self,
        backend: BaseJournalBackend,
        exclusively: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self.exclusively = exclusively
        self.outage = Outage(str)
        super().__init__(backend)

    def set_trial_user_attrs(
        self,
        trial_id: int,
        attrs: Mapping[str, object],
    ) -> None:
        """Set attributes of a trial, all of them or none."""
        with self._thread_lock:
            log = {
                "op_code": JournalOperation.SET_TRIAL_USER_ATTR,
                "trial_id": trial_id,
                "worker_id": self._replay_result.worker_id,
            }
            logs = []
            for key, value in attrs.items():
                logs.append({**log, "user_attr": {key: value}})
            self._backend.append_logs(logs)
            self._sync_all()

    def _sync_all(self) -> None:
        """Read all new lines, and then raise the error of the first line that Optuna refuses.

        Optuna stops at that line, and would raise the error of the next one at the next read.
        """
        try:
            self._sync_with_backend()
        except optuna.exceptions.UpdateFinishedTrialError:
            with suppress(optuna.exceptions.UpdateFinishedTrialError):
                self._sync_all()
            raise


SharedStorage = _SharedRdb | SharedJournal


def sqlite(
    path: str,
    timeout_s: float,
    patience_s: float,
) -> SharedStorage:
    """Return a storage in a SQLite file, which is created with its folder if it is missing.

    Args:
        path: The file.
        timeout_s: Seconds for which a writer waits for another one.
        patience_s: Seconds for which a call is repeated while the file cannot be used.
    """
    with storage_errors(path):
        folder = Path(path).parent
        folder.mkdir(parents=True, exist_ok=True)
        engine = {"connect_args": {"timeout": timeout_s}}
        return _SharedRdb(
            f"sqlite:///{path}",
            FileLock(path),
            patience_s,
            engine,
        )


def journal(path: str, patience_s: float) -> SharedStorage:
    """Return a storage in an append-only file, which is safe on NFS.

    Args:
        path: The file, which is created with its folder if it is missing.
        patience_s: Seconds for which an append is repeated while the file cannot be written.
    """
    with storage_errors(path):
        folder = Path(path).parent
        folder.mkdir(parents=True, exist_ok=True)
        file = JournalFile(path, patience_s)
        setup = FileLock(path + ".setup")
        storage = SharedJournal(file, setup)
        file.outage = storage.outage = Outage(partial(_sentence, path))
        return storage


def check_postgres(url: str, key: str, forms: str) -> None:
    """Check the URL of a PostgreSQL database before anything connects to it.

    Args:
        url: The URL.
        key: The setting that gives it.
        forms: What the setting may be, for a person.

    Raises:
        ConfigError: The URL holds a password, which process lists and records would show, or it is
            not one of PostgreSQL; or psycopg is not installed.
    """
    shown = without_secrets(url)
    if shown != url:
        raise ConfigError(
            f"{key}={shown} must not hold the password, which everybody on this machine can see "
            "there; put it into PGPASSWORD or ~/.pgpass instead."
        )
    if not url.startswith("postgresql+psycopg://") or not is_url(url):
        raise ConfigError(f"{key}={url} is no URL of PostgreSQL; give {forms}.")
    if find_spec("psycopg") is None:
        raise ConfigError(
            f"{key}={url} needs psycopg, which is not installed: {installing('postgres')}."
        )


def postgres(url: str, patience_s: float) -> SharedStorage:
    """Return a storage in a PostgreSQL database.

    Args:
        url: The database, as `postgresql+psycopg://user@host:port/database`.
        patience_s: Seconds for which a call is repeated while the server is away.

    Raises:
        ConfigError: The URL holds a password or is not one of PostgreSQL, or psycopg is not
            installed.
    """
    check_postgres(url, "storage.url", "postgresql+psycopg://USER@HOST:PORT/DATABASE")
    with storage_errors(url):
        # A worker has one connection, and a second one while it renews its lease. A server allows
        # 100 connections unless it is configured otherwise.
        engine = {
            "pool_pre_ping": True,
            "pool_size": 1,
            "max_overflow": 1,
            "connect_args": {"connect_timeout": CONNECT_TIMEOUT_S},
        }
        return _SharedRdb(
            url,
            AdvisoryLock(url, patience_s),
            patience_s,
            engine,
        )


def to_read(make: partial[SharedStorage]) -> BaseStorage:
    """Return a storage that a job reads; where its file does not exist, an empty one without file.

    Args:
        make: Returns the storage, and would make its file.
    """
    path = make.keywords.get("path")
    if path is not None and not Path(path).exists():
        return optuna.storages.InMemoryStorage()
    return make()


class AdvisoryLock:
    """A lock of a PostgreSQL database, which the server frees when the holder's connection ends.

    Args:
        url: The URL of the database.
        patience_s: Seconds for which a worker tries to connect while the server is away.
    """

    def __init__(self, url: str, patience_s: float) -> None:
        self.patience_s = patience_s
        self._engine = sqlalchemy.create_engine(
            url,
            poolclass=sqlalchemy.NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": CONNECT_TIMEOUT_S},
        )

    @patient
    def __call__(self) -> sqlalchemy.Connection:
        """Take the lock, and return the connection, which holds it as long as it is open."""
        connection = self._engine.connect()
        key = 0x68707365  # the letters `hpse`: PostgreSQL's advisory locks have numbers
        take = sqlalchemy.text("SELECT pg_advisory_lock(:key)")
        connection.execute(take, {"key": key})
        return connection
