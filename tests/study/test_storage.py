"""Storages for many workers: schema, journal, passwords, and servers that are away."""

import gc
import json
import multiprocessing
import sqlite3
import threading
import time

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from hpsearch.errors import ConfigError, StorageError
from hpsearch.study import storage
from hpsearch.study.journal_file import FileLock, JournalFile
from hpsearch.study.waiting import impatient, patient


def opened(kind, tmp_path):
    if kind == "sqlite":
        return storage.sqlite(str(tmp_path / "study.db"), timeout_s=30, patience_s=30)
    return storage.journal(str(tmp_path / "study.log"), patience_s=30)


def test_a_url_with_a_password_is_refused_without_showing_it():
    with pytest.raises(ConfigError, match="PGPASSWORD") as caught:
        storage.postgres("postgresql+psycopg://me:geheim@localhost/db", patience_s=1)
    assert "geheim" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be used"):
        storage.sqlite(str(tmp_path / "file" / "study.db"), timeout_s=1, patience_s=1)


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_several_attributes_are_set_at_once_and_never_of_a_finished_trial(kind, tmp_path):
    place = opened(kind, tmp_path)
    study = optuna.create_study(storage=place)
    trial = study.ask()
    place.set_trial_user_attrs(trial._trial_id, {"a": 1, "b": [2]})
    assert study.get_trials()[0].user_attrs == {"a": 1, "b": [2]}
    study.tell(trial, state=TrialState.FAIL)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        place.set_trial_user_attrs(trial._trial_id, {"a": 2, "b": [], "c": 0})
    assert study.get_trials()[0].user_attrs == {"a": 1, "b": [2]}


def make_study(kind, tmp_path, barrier):
    barrier.wait()
    place = opened(kind, tmp_path)
    with place.exclusively():
        optuna.create_study(study_name="one", storage=place, load_if_exists=True)


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_ten_workers_that_start_at_once_make_one_study(kind, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(10)
    workers = [
        context.Process(target=make_study, args=(kind, tmp_path, barrier)) for _ in range(10)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 10
    assert [s.study_name for s in opened(kind, tmp_path).get_all_studies()] == ["one"]


class Away:
    """A storage that is away until its nth call."""

    patience_s = 5.0

    def __init__(self, n, error):
        self.n, self.error, self.n_calls = n, error, 0

    @patient
    def call(self):
        self.n_calls += 1
        if self.n_calls < self.n:
            raise self.error
        return self.n_calls


LOCKED = OperationalError("UPDATE", {}, sqlite3.OperationalError("database is locked"))


def test_a_storage_that_is_away_is_waited_for():
    assert Away(4, LOCKED).call() == 4


@pytest.mark.parametrize(
    "error", [ValueError("a mistake"), optuna.exceptions.UpdateFinishedTrialError()]
)
def test_a_mistake_is_not_waited_for(error):
    with pytest.raises(type(error)):
        Away(2, error).call()


def test_the_impatient_do_not_wait():
    begin = time.monotonic()
    with impatient, pytest.raises(OperationalError):
        Away(2, LOCKED).call()
    assert time.monotonic() - begin < 1


def test_patience_ends():
    away = Away(10**9, LOCKED)
    away.patience_s = 0.3
    with pytest.raises(OperationalError):
        away.call()


def test_half_a_line_at_the_end_of_a_journal_is_dropped_by_the_next_who_writes(tmp_path):
    path = tmp_path / "journal"
    journal = JournalFile(str(path), patience_s=1)
    journal.append_logs([{"a": 1}])
    with open(path, "ab") as file:
        file.write(b'{"b": 2, "half of a l')
    journal.append_logs([{"c": 3}, {"d": 4}])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"a": 1},
        {"c": 3},
        {"d": 4},
    ]
    assert list(JournalFile(str(path), patience_s=1).read_logs(0)) == [{"a": 1}, {"c": 3}, {"d": 4}]


def test_a_full_disk_leaves_whole_lines_and_is_waited_for(tmp_path):
    """/dev/full cannot be truncated, so a small limit on a file's size stands for a full disk."""
    path = tmp_path / "journal"
    context = multiprocessing.get_context("fork")
    worker = context.Process(target=fill, args=(path,))
    worker.start()
    worker.join(30)
    assert worker.exitcode == 0
    assert path.read_bytes().endswith(b"\n")
    numbers = [json.loads(line)["number"] for line in path.read_bytes().splitlines()]
    assert numbers == [0, 1, 2, 3, 4, 5, 6, -1]  # number 7 did not fit, and left no part of itself


def fill(path):
    import resource  # noqa: PLC0415 (in the child alone)
    import signal  # noqa: PLC0415

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    journal = JournalFile(str(path), patience_s=0.2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    for number in range(7):
        journal.append_logs([{"number": number, "text": "x" * 100}])
    with pytest.raises(OSError, match=r"File too large|No space"):
        journal.append_logs([{"number": 7, "text": "x" * 1000}])
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, resource.RLIM_INFINITY))
    journal.append_logs([{"number": -1}])


def test_a_lock_is_free_when_its_holder_dies(tmp_path):
    context = multiprocessing.get_context("fork")
    holds = context.Event()
    holder = context.Process(target=hold, args=(tmp_path / "f", holds))
    holder.start()
    assert holds.wait(20)
    holder.kill()
    holder.join()
    with FileLock(str(tmp_path / "f"))():
        pass


def hold(path, holds):
    with FileLock(str(path))():
        holds.set()
        time.sleep(60)


def test_a_lock_holds_off_other_threads_too(tmp_path):
    lock, inside, most = FileLock(str(tmp_path / "f")), [], []

    def work():
        for _ in range(20):
            with lock():
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1


def test_connections_are_closed_when_nobody_needs_the_storage_any_more(tmp_path):
    place = opened("sqlite", tmp_path)
    assert place.get_all_studies() == []
    pool = place.engine.pool
    assert pool.checkedin() > 0
    del place
    gc.collect()
    assert pool.checkedin() == 0


@pytest.mark.slow
def test_ten_workers_on_an_empty_postgres_and_a_server_that_is_away_for_a_while(postgres_server):
    url = postgres_server.new_database("empty")
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(10)
    workers = [context.Process(target=make_postgres_study, args=(url, barrier)) for _ in range(10)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(90)
    assert [worker.exitcode for worker in workers] == [0] * 10
    place = storage.postgres(url, patience_s=60)
    assert [s.study_name for s in place.get_all_studies()] == ["one"]
    study = optuna.load_study(study_name="one", storage=place)
    trial = study.ask()
    postgres_server.stop()
    again = threading.Timer(5.0, postgres_server.start)
    again.start()
    begin = time.monotonic()
    with impatient, pytest.raises(optuna.exceptions.StorageInternalError):
        trial.report(1.0, 1)
    assert time.monotonic() - begin < 3
    trial.report(2.0, 2)
    study.tell(trial, 3.0)
    again.join()
    assert study.get_trials()[0].intermediate_values == {2: 2.0}
    place.engine.dispose()


def make_postgres_study(url, barrier):
    barrier.wait()
    place = storage.postgres(url, patience_s=60)
    with place.exclusively():
        optuna.create_study(study_name="one", storage=place, load_if_exists=True)
