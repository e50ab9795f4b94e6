"""Trials that take too long, or hang, end as timed_out, and the search goes on."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from conftest import SRC
from hpsearch.errors import Preempted
from hpsearch.study.leases import Worker
from hpsearch.study.worker_process import this_process
from hpsearch.trials.watchdog import TrialTimedOutError, Watch


def no_hang():
    pytest.fail("it was taken for hanging")


def test_a_block_in_time_is_left_alone():
    hung = []
    with Watch(0.2, 0.2, lambda: hung.append("the first")):
        pass
    with Watch(None, 0.0, lambda: hung.append("the second")) as watch:
        watch.epoch()
    time.sleep(0.5)
    assert hung == []


def test_the_end_of_an_epoch_ends_it():
    with pytest.raises(TrialTimedOutError), Watch(0.05, 60.0, no_hang) as watch:  # noqa: PT012
        for _ in range(100):
            time.sleep(0.02)
            watch.epoch()


def test_the_main_thread_is_woken_by_a_signal():
    begin = time.monotonic()
    with this_process.heeding_signals(30.0):
        for _ in range(2):
            with pytest.raises(TrialTimedOutError), Watch(0.2, 10.0, no_hang):
                time.sleep(60)
        time.sleep(1.2)
    assert time.monotonic() - begin < 10


def test_a_cluster_that_asks_meanwhile_is_still_heeded():
    with pytest.raises(Preempted), this_process.heeding_signals(0.3):  # noqa: PT012
        with pytest.raises(TrialTimedOutError), Watch(0.2, 10.0, no_hang):
            time.sleep(60)
        os.kill(os.getpid(), signal.SIGTERM)
        with Watch(60.0, 10.0, no_hang):
            pass
        time.sleep(60)


def test_another_thread_is_interrupted_at_its_next_line():
    ended = []

    def loop():
        try:
            with Watch(0.2, 10.0, no_hang):
                while True:
                    time.sleep(0.01)
        except TrialTimedOutError as error:
            ended.append(error)

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join(10)
    assert len(ended) == 1


def test_what_does_not_end_is_told_where_it_hangs():
    told, lock = [], threading.Lock()
    lock.acquire()

    def wait():
        watch = Watch(0.1, 0.2, lambda: told.append(watch.place))
        with watch:
            lock.acquire()

    threading.Thread(target=wait, daemon=True).start()
    deadline = time.monotonic() + 10
    while not told and time.monotonic() < deadline:
        time.sleep(0.05)
    assert told[0].startswith("wait (")


def test_where_a_process_hung_the_next_try_does_not_begin(tmp_path):
    trace = tmp_path / "0.hang"
    with Watch(10.0, 1.0, no_hang, trace):
        assert trace.read_text() == ""
    assert not trace.exists()
    trace.write_text("Timeout (0:00:42)!")
    with pytest.raises(TrialTimedOutError), Watch(10.0, 1.0, no_hang, trace):
        pytest.fail("it began")


AGAIN = """
import os, sys
from hpsearch.study.leases import Worker
from hpsearch.study.worker_process import this_process
this_process.remember()
this_process.keep("kept=1")
before = this_process.n_restarts(os.getpid())
deadline, word = this_process.deadline(50.0), os.environ["WORD"]
print(before, os.getpid(), sys.argv[1:], deadline, Worker.this(), word)
if before < 2:
    os.environ["WORD"] = "changed"
    os.chdir("/")
    this_process.restart()
"""


def test_a_process_is_replaced_by_the_same_command_under_the_same_id(tmp_path):
    (tmp_path / "again.py").write_text(AGAIN)
    done = subprocess.run(
        [sys.executable, "again.py", "--quiet", "a=1", "b"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(SRC), "WORD": "given"},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "2"]
    assert len({line.split()[1] for line in lines}) == 1
    assert all(line.endswith("given") for line in lines)
    assert "['--quiet', 'a=1', 'b']" in lines[0]
    assert "['--quiet', 'kept=1', 'a=1', 'b']" in lines[1]
    assert "['--quiet', 'kept=1', 'a=1', 'b']" in lines[2]
    assert len({line.split("] ")[1].split()[0] for line in lines}) == 1, "the deadline moved"


def test_what_a_process_ran_before_it_was_replaced_is_dead(monkeypatch):
    me = Worker.this()
    later = Worker(me.place, me.pid, me.started, 1)
    assert Worker.of(str(me)) == Worker(me.place, me.pid, round(me.started, 2))
    assert Worker.of(str(later)).restarts == 1
    assert not me.is_seen_dead()
    monkeypatch.setattr(
        "psutil.Process.environ", lambda _: {this_process.RESTARTED: f"{me.pid} 1 0"}
    )
    assert me.is_seen_dead()
    assert not later.is_seen_dead()


def test_nothing_but_a_single_command_is_replaced():
    assert not this_process.can_restart()


LIMITS = ("training.epochs=3", "budget.n_trials=2", "budget.trial_timeout_s=10", "budget.grace_s=4")
OWN = ("arch=own", "data=digits", "space=own", "sampler=random", "pruner=none", *LIMITS)


def hanging_search(workplace, how, *words, **env):
    model = "arch._target_=hanging.OwnFit" if "callback" in how else "arch._target_=hanging.Net"
    place = f"{SRC}{os.pathsep}{Path(__file__).parents[1]}"
    bounds = "space.bounds.learning_rate={low: 1e-4, high: 1e-3, scale: log}"
    return workplace.run(*OWN, model, bounds, *words, HANG=how, PYTHONPATH=place, **env)


@pytest.mark.slow
def test_a_search_goes_on_after_each_trial_that_hangs(workplace):
    """The first two hang where only a fresh process helps, the third where a signal does."""
    done = hanging_search(workplace, "build native, callback native, callback holding")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("goes on in a fresh process") == 2
    *hung, one, two = workplace.study("digits-own").trials
    assert [(t.state, t.user_attrs["reason"]) for t in hung] == [(TrialState.FAIL, "timed_out")] * 3
    for trial in hung:
        assert trial.user_attrs["message"].startswith(
            "It took longer than budget.trial_timeout_s=10 seconds: give it"
        )
    assert [one.state, two.state] == [TrialState.COMPLETE] * 2
    runs = {run.data.tags["hpsearch.trial"]: run for run in workplace.runs("trial")}
    statuses = [runs[n].info.status for n in sorted(runs)]
    assert statuses == ["FAILED"] * 3 + ["FINISHED"] * 2
    assert [runs[n].data.tags["hpsearch.end"] for n in ("0", "1", "2")] == ["timed_out"] * 3
    assert len(list((workplace.folder / "outputs").glob("*/*"))) == 1


@pytest.mark.slow
def test_slots_go_on_after_a_trial_that_hangs_in_one_of_them(workplace):
    pytest.importorskip("jax")
    words = ("trainer=fused", "trainer.n_slots=2", "budget.trial_timeout_s=30")
    done = hanging_search(workplace, "build sleep", *words, KERAS_BACKEND="jax")
    assert done.returncode == 0, done.stdout + done.stderr
    trials = workplace.study("digits-own").trials
    assert [t.user_attrs.get("reason") for t in trials].count("timed_out") == 1
    assert {t.user_attrs.get("reason") for t in trials} <= {
        None,
        "timed_out",
        "interrupted",
        "killed",
    }
    assert sum(t.state == TrialState.COMPLETE for t in trials) == 2


@pytest.mark.slow
@pytest.mark.parametrize("way", ["loop"])
def test_a_build_that_hangs_before_the_first_trial_is_a_mistake(workplace, way):
    done = hanging_search(workplace, f"probe {way}", "budget.trial_timeout_s=2")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: A model took longer than budget.trial_timeout_s to build and" in done.stderr
    assert not (workplace.folder / "optuna.db").exists()
