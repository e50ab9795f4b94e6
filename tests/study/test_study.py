"""The shared budget is kept exactly, also when workers join late, die, or are slow."""

import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from conftest import SRC, wait_until
from hpsearch.errors import Preempted, SearchError, TakenOverError, UserError
from hpsearch.jobs.diagnosis import Diagnosis
from hpsearch.study.leases import Worker
from hpsearch.study.replay import explain, replay
from hpsearch.study.trial_end import TrialEnd
from hpsearch.study.worker_process import this_process
from hpsearch.trials.attempt import Attempt, GivenBackError
from short_trials import SPACE, ShortTrials
from small_study import study_in, suggested

optuna.logging.set_verbosity(optuna.logging.WARNING)


def states(study):
    return [(t.state.name, t.user_attrs.get("reason")) for t in study.trials()]


def test_the_budget_is_spent_exactly_and_what_others_hold_is_theirs(tmp_path):
    one, other = study_in(tmp_path, n_trials=2), study_in(tmp_path, n_trials=2)
    trials = [one.claim(), other.claim()]
    assert one.claim() is None
    assert one.has_work_in_progress()
    for study, trial in zip((one, other), trials, strict=True):
        study.complete(trial, 1.0)
    assert one.claim() is None
    assert not one.has_work_in_progress()
    assert one.n_spent() == 2


def test_a_failed_trial_gives_its_place_to_another_and_too_many_end_the_search(tmp_path):
    study = study_in(tmp_path, n_trials=1)
    study.fail(study.claim(), TrialEnd.ERROR, "ValueError: a bug")
    with pytest.raises(
        SearchError, match=r"1 trials failed, more than budget.max_failures=0: ValueError: a bug"
    ):
        study.claim()


def kill_claimed(study):
    """Let a claimed trial look as if its worker had died."""
    trial = study.claim()
    params = suggested(trial)
    me = Worker.this()
    study.write(trial, {"worker": str(Worker(me.place, 2**22 + 1, me.started))})
    return trial, params


def test_a_dead_workers_trial_is_tried_again_with_its_ticket_and_its_values(tmp_path):
    study = study_in(tmp_path)
    _, params = kill_claimed(study)
    again = study.claim()
    assert states(study)[0] == ("FAIL", "killed")
    assert (again.number, again.user_attrs["ticket"], again.user_attrs["retry_of"]) == (1, 0, 0)
    assert suggested(again) == params
    assert study.claim().user_attrs["ticket"] == 1


def release(folder, barrier):
    study = study_in(folder)
    barrier.wait()
    study.release_dead()


def test_workers_that_find_one_dead_trial_at_once_try_it_again_once(tmp_path):
    study, context = study_in(tmp_path), multiprocessing.get_context("fork")
    for _ in range(5):
        kill_claimed(study)
        barrier = context.Barrier(8)
        workers = [context.Process(target=release, args=(tmp_path, barrier)) for _ in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0] * 8
    after = [t.user_attrs["retry_after"] for t in study.trials() if "retry_after" in t.user_attrs]
    assert len(after) == len(set(after)) == 5
    assert [state for state, _ in states(study)].count("WAITING") == 1


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_silent_worker_counts_as_dead_only_when_its_lease_is_over_or_it_is_seen_gone(
    tmp_path, elsewhere
):
    study = study_in(tmp_path, lease_s=30.0)
    trial = study.claim()
    me = Worker.this()
    if elsewhere:
        study.write(trial, {"worker": str(Worker("another@1", 1, me.started))})
    assert [t.state for t in study.release_dead()] == [TrialState.RUNNING]
    study.write(trial, {"lease": time.time() - 1})
    assert study.release_dead()[0].state == TrialState.FAIL


def test_a_lease_is_renewed_while_the_trial_runs(tmp_path):
    lease_s = 1.5
    study = study_in(tmp_path, lease_s=lease_s)
    trial = study.claim()
    first_end = time.time() + lease_s
    with study.lease(trial).kept() as lease:
        wait_until(
            lambda: study.trials()[0].user_attrs.get("lease", 0) > first_end + lease_s,
            "a renewal after the end of the first lease",
        )
        assert study.release_dead()[0].state == TrialState.RUNNING
        assert not lease.is_lost.is_set()


def test_a_worker_that_was_taken_for_dead_leaves_the_trial_to_the_other(tmp_path):
    zombie, other = study_in(tmp_path), study_in(tmp_path)
    trial = zombie.claim()
    zombie.report(trial, 1.0, 1)
    other.fail(other.trials()[0], TrialEnd.KILLED, "its lease was over")
    with pytest.raises(TakenOverError):
        zombie.report(trial, 1.0, 2)
    zombie.optuna.pruner = optuna.pruners.SuccessiveHalvingPruner(
        min_resource=1
    )  # it writes down what it sees
    with pytest.raises(TakenOverError):
        zombie.should_stop(trial, 1)
    with pytest.raises(TakenOverError):
        zombie.complete(trial, 1.0)
    assert zombie.fail(trial, TrialEnd.ERROR, "late") is False
    assert states(other)[0] == ("FAIL", "killed")


def test_retries_end(tmp_path):
    trials = ShortTrials(f"journal:{tmp_path}/study.log", tmp_path)
    study = trials.open_study(trials.open_storage())
    object.__setattr__(study.budget, "max_retries", 2)
    for _ in range(3):
        kill_claimed(study)
    assert study.claim().user_attrs["ticket"] == 1
    assert [s for s, _ in states(study)] == ["FAIL", "FAIL", "FAIL", "RUNNING"]


def test_constraints_are_stored_in_the_order_of_their_names(tmp_path):
    study = study_in(tmp_path)
    trial = study.claim()
    study.constrain(trial, dict.fromkeys("hgfedcba", 1.0))
    study.constrain(trial, {"a": 2.0})
    assert list(study.trials()[0].constraints.items()) == [(name, 1.0) for name in "abcdefgh"]


def test_one_worker_concludes(tmp_path, monkeypatch):
    one, other = study_in(tmp_path), study_in(tmp_path)
    monkeypatch.setattr(other, "worker", Worker("another@1", 1, 0.0))
    assert one.claim_conclusion()
    assert one.claim_conclusion()
    assert not other.claim_conclusion()


def test_numbers_of_a_search_that_was_killed_equal_those_of_one_that_was_not(tmp_path):
    def run(study, kills):
        params = []
        while (trial := study.claim()) is not None:
            drawn = suggested(trial)
            if trial.number in kills:
                study.fail(trial, TrialEnd.INTERRUPTED, "Ctrl-C")
                continue
            params.append((trial.user_attrs["ticket"], drawn))
            study.complete(trial, drawn["learning_rate"])
        return params

    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = run(study_in(tmp_path / "whole", n_trials=12), ())
    assert run(study_in(tmp_path / "killed", n_trials=12), (2, 3, 9)) == whole
    assert replay((study := study_in(tmp_path / "killed")).optuna, study.sampler).differing == []


@pytest.mark.parametrize("n_before", [2, 7])
def test_a_trial_that_was_killed_between_two_draws_can_be_replayed_too(tmp_path, n_before):
    study = study_in(tmp_path, n_trials=20)
    for _ in range(n_before):
        trial = study.claim()
        study.complete(trial, suggested(trial)["momentum"])
    killed = study.claim()
    rate = killed.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
    study.fail(killed, TrialEnd.KILLED, "its worker died")
    assert suggested(study.claim())["learning_rate"] == rate
    result = replay(study.optuna, study.sampler)
    assert (result.n_same, result.differing) == (n_before + 2, [])


class XlaRuntimeError(RuntimeError):
    """As JAX raises it, which tests may lack: the reason stands in its text alone."""


class ResourceExhaustedError(Exception):
    """As TensorFlow raises it, with node and operation before the text."""


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (MemoryError(), TrialEnd.OUT_OF_MEMORY),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4 bytes."),
            TrialEnd.OUT_OF_MEMORY,
        ),
        (ValueError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"), TrialEnd.OUT_OF_MEMORY),
        (XlaRuntimeError("RESOURCE_EXHAUSTED: Failed to allocate 8 bytes"), TrialEnd.OUT_OF_MEMORY),
        (ResourceExhaustedError(None, None, "OOM when allocating tensor"), TrialEnd.OUT_OF_MEMORY),
        (OSError(12, "Cannot allocate memory"), TrialEnd.OUT_OF_MEMORY),
        (ValueError("bug"), TrialEnd.ERROR),
        (OSError(28, "full"), TrialEnd.ERROR),
    ],
)
def test_an_error_that_nobody_foresaw_is_an_error_or_a_lack_of_memory(error, end):
    assert Attempt.end_of(error) == end


def test_a_signal_is_heeded_where_nothing_is_lost_and_at_the_latest_after_the_grace():
    with pytest.raises(Preempted) as caught, this_process.heeding_signals(30.0):  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        this_process.leave_if_asked()
    assert (str(caught.value), caught.value.exit_status) == ("SIGTERM asked this worker to go", 143)
    begin = time.monotonic()
    with pytest.raises(Preempted), this_process.heeding_signals(0.2):  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    assert time.monotonic() - begin < 5
    this_process.leave_if_asked()


def test_the_signal_then_goes_to_who_waited_for_it_before():
    seen = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: seen.append(number))
    try:
        with pytest.raises(Preempted), this_process.heeding_signals(30.0):  # noqa: PT012
            os.kill(os.getpid(), signal.SIGUSR2)
            this_process.leave_if_asked()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert seen == [signal.SIGUSR2]
    assert this_process.slurm_job is None


@pytest.fixture
def tracked(tmp_path, monkeypatch, mlflow_tables):
    """A finished study of six trials with its runs."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_EXPERIMENT_ID",
        "MLFLOW_EXPERIMENT_NAME",
        "MLFLOW_RUN_ID",
    ):
        monkeypatch.delenv(name, raising=False)
    shutil.copy(mlflow_tables, tmp_path)
    trials = ShortTrials(f"journal:{tmp_path}/study.log", tmp_path, n_trials=6, epoch_s=0.0)
    study, tracking, parent = trials.open()
    while (trial := study.claim()) is not None:
        trials.run(study, tracking, parent, trial)
    assert tracking.spool.drain(60)
    parent.end("FINISHED")
    yield trials, study, tracking, parent
    tracking.close(60)


def findings(tracked):
    _, study, tracking, parent = tracked
    return Diagnosis(study, tracking, parent, SPACE, queue=frozenset()).findings()


def test_the_doctor_finds_and_repairs_what_disagrees(tracked):
    _, study, tracking, parent = tracked
    assert findings(tracked) == []
    client = tracking.client
    client.delete_run(tracking.find_child(parent, 0).info.run_id)
    client.set_terminated(tracking.find_child(parent, 1).info.run_id, "FAILED")
    client.update_run(parent.run_id, status="RUNNING")
    object.__setattr__(study.budget, "n_trials", 7)
    lost = study.claim()
    study.write(lost, {"job": "99_1"})
    texts = [f.text for f in findings(tracked)]
    assert len([t for t in texts if "SLURM job 99_1 is over" in t]) == 1
    assert len([t for t in texts if t == "Trial 0 has no MLflow run."]) == 1
    assert (
        len(
            [
                t
                for t in texts
                if t.startswith("Trial 1 is") and t.endswith("its MLflow run FAILED.")
            ]
        )
        == 1
    )
    while found := [f for f in findings(tracked) if f.repair is not None]:
        for finding in found:
            finding.repair()
    assert findings(tracked) == []
    assert tracking.find_child(parent, 0).data.params.keys() == {"learning_rate", "momentum"}
    assert study.trials()[6].state == TrialState.FAIL


def test_the_doctor_explains(tracked):
    _, study, _, _ = tracked
    trials = study.trials()
    assert {t.state for t in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    for t in trials:
        text = " ".join(explain(study.optuna, study.sampler, SPACE, t.number))
        assert "Computed again from that, they are the same." in text
        if t.state == TrialState.PRUNED:
            assert f"It was pruned at epoch {t.last_step} " in text
        else:
            assert f"It finished with {t.value:.4g}." in text
    with pytest.raises(UserError, match="There is no trial 99 in study short; it has 0 to 5"):
        list(explain(study.optuna, study.sampler, SPACE, 99))


@pytest.fixture
def attempt(tracked):
    """An attempt at a seventh trial of the study, and a list that its end is appended to."""
    _, study, tracking, parent = tracked
    object.__setattr__(study.budget, "n_trials", 7)
    ended = []
    attempt = Attempt(
        study.claim(),
        study=study,
        tracking=tracking,
        parent=parent,
        ended=lambda *how: ended.append(how),
        deadline=math.inf,
    )
    return attempt, ended


def test_an_error_in_a_trial_is_recorded_on_both_sides(tracked, attempt):
    _, study, tracking, parent = tracked
    attempt, ended = attempt
    with attempt.kept():
        raise MemoryError("no more")
    assert tracking.spool.drain(60)
    ((outcome, _),) = ended
    assert outcome.startswith(
        "failed: There was not enough memory: give a smaller training.batch_size"
    )
    assert ". MemoryError: no more (" in outcome
    run = tracking.find_child(parent, attempt.number)
    assert (run.info.status, run.data.tags["hpsearch.end"]) == ("FAILED", "out_of_memory")
    assert states(study)[-1] == ("FAIL", "out_of_memory")


def test_a_trial_that_a_slot_gives_back_is_tried_again(tracked, attempt):
    _, study, tracking, parent = tracked
    attempt, _ = attempt
    with pytest.raises(GivenBackError), attempt.kept():
        raise GivenBackError("another slot ended the search: too many failures")
    run = tracking.find_child(parent, attempt.number)
    assert (run.info.status, run.data.tags["hpsearch.end"]) == ("KILLED", "interrupted")
    assert states(study)[-2:] == [("FAIL", "interrupted"), ("WAITING", None)]


def test_a_trial_that_is_taken_over_while_it_draws_is_no_failure_of_its_own(tracked, attempt):
    trials, *_ = tracked
    attempt, ended = attempt
    trial = attempt.trial
    other = trials.open_study(trials.open_storage())
    with attempt.kept():
        other.fail(other.trials()[trial.number], TrialEnd.KILLED, "its lease was over")
        suggested(trial)
    assert ended == [
        (
            f"failed: another worker took trial {trial.number} over, since nothing was heard of "
            f"this one",
            None,
        )
    ]
    assert states(other)[-2:] == [("FAIL", "killed"), ("WAITING", None)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["journal", "postgres"])
def test_chaos(kind, tmp_path, request):
    place = (
        "journal"
        if kind == "journal"
        else request.getfixturevalue("postgres_server").new_database("chaos")
    )
    run_bench(
        "chaos", tmp_path, "--storage", place, "--trials", "30", "--kills", "12", "--epoch-s", "0.1"
    )


@pytest.mark.slow
def test_suggestions_of_1_2_and_8_workers_are_replayed_and_a_resumed_study_equals_a_whole(tmp_path):
    said = run_bench("replay", tmp_path, "--trials", "30")
    assert "13 trials and 11 more of a new process equal 24 in one go." in said


def run_bench(name, tmp_path, *words):
    script = Path(__file__).parents[2] / "bench" / f"{name}.py"
    command = [sys.executable, str(script), *words, "--out", str(tmp_path / f"{name}.json")]
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
