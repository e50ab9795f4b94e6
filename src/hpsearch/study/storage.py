"""Where studies are kept: SQLite (one file), a journal file (shared file systems), PostgreSQL
(clusters).

What Optuna's own storages lack for many workers is added here: workers that start at once make one
schema, a server that is away for a while is waited for, and a process that dies while it writes
leaves neither a lock nor half a line.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._rdb.models import TrialUserAttributeModel
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.storages.journal import BaseJournalBackend
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.errors import ConfigError, StorageError
from hpsearch.study.fast_reader import read_trials
from hpsearch.study.journal_file import FileLock, JournalFile
from hpsearch.study.retry import impatient, patient

SETUP_LOCK = 0x68707365  # PostgreSQL's advisory locks are numbers: the letters `hpse`
CONNECT_TIMEOUT_S = 5
Lock = Callable[[], AbstractContextManager[None]]


def without_password(text: str) -> str:
    """Return `text` with the password of every URL in it blanked."""
    return re.sub(r"(?<=://)([^:/@\s]*):[^@\s]*@", r"\1:***@", text)


@contextmanager
def storage_errors(place: str) -> Iterator[None]:
    """Turn what a storage raises into one sentence that says where and what."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError) as error:
        cause = (
            str(getattr(error, "orig", None) or error.__cause__ or error).strip().splitlines()[0]
        )
        raise StorageError(
            f"The study storage {without_password(place)} cannot be used "
            f"({without_password(cause)}); storage.path "
            "must name a file in a folder that can be written, or storage.url a running PostgreSQL "
            "server."
        ) from error


class SharedRdb(RDBStorage):
    """Optuna's relational storage; `exclusively` holds all other workers of the same database off."""

    def __init__(
        self, url: str, exclusively: Lock, patience_s: float, engine_kwargs: dict[str, Any]
    ) -> None:
        self.exclusively, self.patience_s = exclusively, patience_s
        with impatient(), exclusively():
            super().__init__(url, engine_kwargs=engine_kwargs)
        weakref.finalize(
            self, self.engine.dispose
        )  # Optuna leaves its connections to the end of the process

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """As Optuna's, which makes an object of each row."""
        with _create_scoped_session(self.scoped_session) as session:
            return read_trials(session, study_id, states, included_trial_ids, trial_id_greater_than)

    def set_trial_user_attrs(self, trial_id: int, attrs: Mapping[str, Any]) -> None:
        """Set several attributes at once, all or none."""
        with _create_scoped_session(self.scoped_session, True) as session:
            for key, value in attrs.items():
                self._set_trial_attr_without_commit(
                    session, TrialUserAttributeModel, trial_id, key, value
                )


for _name in (
    *BaseStorage.__abstractmethods__,
    *(
        "set_trial_user_attrs",
        "_create_new_trial",
        "_set_trial_param",
        "_get_trials",
        "_get_best_trial_id",
    ),  # Optuna's cache calls these
):
    setattr(SharedRdb, _name, patient(getattr(SharedRdb, _name)))


class SharedJournal(JournalStorage):
    """Optuna's storage in a journal; `exclusively` holds all other workers of the same file off."""

    def __init__(self, backend: BaseJournalBackend, exclusively: Lock) -> None:
        self.exclusively = exclusively
        super().__init__(backend)

    def set_trial_user_attrs(self, trial_id: int, attrs: Mapping[str, Any]) -> None:
        """Set several attributes at once, all or none."""
        with self._thread_lock:
            log: dict[str, Any] = {
                "op_code": JournalOperation.SET_TRIAL_USER_ATTR,
                "trial_id": trial_id,
            }
            log["worker_id"] = self._replay_result.worker_id
            self._backend.append_logs(
                [{**log, "user_attr": {key: value}} for key, value in attrs.items()]
            )
            self._sync_all()

    def _sync_all(self) -> None:
        """Optuna stops at the first line that it refuses, and would refuse the next at the next
        read.
        """
        try:
            self._sync_with_backend()
        except optuna.exceptions.UpdateFinishedTrialError:
            with suppress(optuna.exceptions.UpdateFinishedTrialError):
                self._sync_all()
            raise


SharedStorage = SharedRdb | SharedJournal


def sqlite(path: str, timeout_s: float, patience_s: float) -> SharedStorage:
    """Return a storage in the SQLite file `path`; a writer waits `timeout_s` seconds for another
    one.
    """
    with storage_errors(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        engine = {"connect_args": {"timeout": timeout_s}}
        return SharedRdb(f"sqlite:///{path}", FileLock(path), patience_s, engine)


def journal(path: str, patience_s: float) -> SharedStorage:
    """Return a storage in the append-only file `path`, safe on NFS."""
    with storage_errors(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        return SharedJournal(JournalFile(path, patience_s), FileLock(path + ".setup"))


def postgres(url: str, patience_s: float) -> SharedStorage:
    """Return a storage in a PostgreSQL database, `postgresql+psycopg://user@host:port/database`.

    Raises:
        ConfigError: The URL holds a password, which would be seen in process lists and records.
    """
    if without_password(url) != url:
        raise ConfigError(
            f"storage.url={without_password(url)} must not hold the password, which everybody on "
            f"this machine can see "
            "there; put it into PGPASSWORD or ~/.pgpass instead."
        )
    if not url.startswith("postgresql+psycopg://"):
        raise ConfigError(
            f"storage.url must read postgresql+psycopg://USER@HOST:PORT/DATABASE, but is {url}."
        )
    with storage_errors(url):
        # One connection for a worker, and a second while its lease is renewed: a server has 100 as
        # it comes.
        engine: dict[str, Any] = {"pool_pre_ping": True, "pool_size": 1, "max_overflow": 1}
        engine["connect_args"] = {"connect_timeout": CONNECT_TIMEOUT_S}
        return SharedRdb(url, AdvisoryLock(url, patience_s), patience_s, engine)


class AdvisoryLock:
    """A lock of a PostgreSQL database, which the server frees when its holder's connection ends."""

    def __init__(self, url: str, patience_s: float) -> None:
        self.patience_s = patience_s
        self._engine = sqlalchemy.create_engine(
            url, poolclass=sqlalchemy.NullPool, isolation_level="AUTOCOMMIT"
        )

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold the lock while the block runs."""
        with self._acquired():
            yield

    @patient
    def _acquired(self) -> sqlalchemy.Connection:
        connection = self._engine.connect()
        connection.execute(sqlalchemy.text("SELECT pg_advisory_lock(:key)"), {"key": SETUP_LOCK})
        return connection
