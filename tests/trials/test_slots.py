"""Trials of many slots, each in a thread of its own: what one does, or suffers, is no other's
affair.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from hpsearch.errors import SearchError, TakenOverError
from hpsearch.study.pruners import Hyperband
from hpsearch.study.replay import replay
from hpsearch.study.study import number_of
from hpsearch.study.trial_end import TrialEnd
from hpsearch.trials.attempt import GivenBackError
from hpsearch.trials.objective import Objective
from hpsearch.trials.worker import run_trials
from small_study import study_in, suggested
from workplace import Workplace


def told(study):
    """Return the values of each trial, by Optuna's number."""
    return {t.number: t.intermediate_values for t in study.trials()}


@pytest.fixture
def away(monkeypatch):
    """A switch: while it is set, no value reaches the storage."""
    from optuna.storages import JournalStorage  # noqa: PLC0415 (what a study in a journal writes through)

    switch, write = threading.Event(), JournalStorage.set_trial_intermediate_value

    def unless_away(*args):
        if switch.is_set():
            raise OperationalError("away", None, Exception("connection refused"))
        write(*args)

    monkeypatch.setattr(JournalStorage, "set_trial_intermediate_value", unless_away)
    return switch


def test_two_trials_whose_epochs_interleave_keep_their_own_values(tmp_path):
    study = study_in(tmp_path)
    trials = [study.claim(), study.claim()]
    for epoch in (1, 2, 3):
        for trial in trials:
            study.report(trial, trial.number + epoch / 10, epoch)
    assert told(study) == {0: {1: 0.1, 2: 0.2, 3: 0.3}, 1: {1: 1.1, 2: 1.2, 3: 1.3}}


def test_threads_that_report_at_once_lose_nothing_and_mix_nothing_up(tmp_path):
    study, n_trials, n_epochs = study_in(tmp_path, n_trials=8), 8, 20
    trials = [study.claim() for _ in range(n_trials)]

    def run(trial):
        for epoch in range(1, n_epochs + 1):
            study.report(trial, float(trial.number), epoch)
        study.complete(trial, float(trial.number))

    with ThreadPoolExecutor(n_trials) as pool:
        list(pool.map(run, trials))
    wanted = {
        number: dict.fromkeys(range(1, n_epochs + 1), float(number)) for number in range(n_trials)
    }
    assert told(study) == wanted


def test_values_of_an_outage_arrive_with_their_own_trial(tmp_path, away):
    study = study_in(tmp_path)
    one, other, failing = (study.claim() for _ in range(3))
    away.set()
    for trial in (one, other, failing):
        study.report(trial, float(trial.number), 1)
    study.report(one, 7.0, 2)
    assert told(study) == {0: {}, 1: {}, 2: {}}
    away.clear()
    study.fail(failing, TrialEnd.ERROR, "a bug")
    study.report(other, 8.0, 2)
    assert told(study) == {0: {}, 1: {1: 1.0, 2: 8.0}, 2: {}}
    study.complete(one, 7.0)
    assert told(study)[0] == {1: 0.0, 2: 7.0}
    study.complete(other, 8.0)
    assert study._unsent == {}


def test_a_trial_that_is_taken_over_takes_no_other_trials_values_with_it(tmp_path, away):
    study, elsewhere = study_in(tmp_path), study_in(tmp_path)
    lost, mine = study.claim(), study.claim()
    away.set()
    study.report(lost, 1.0, 1)
    study.report(mine, 2.0, 1)
    away.clear()
    elsewhere.fail(elsewhere.trials()[0], TrialEnd.KILLED, "its lease was over")
    with pytest.raises(TakenOverError):
        study.report(lost, 1.5, 2)
    study.report(mine, 2.5, 2)
    again = study.claim()
    study.report(again, 3.0, 1)
    assert told(study) == {0: {}, 1: {1: 2.0, 2: 2.5}, 2: {1: 3.0}}


def test_what_is_suggested_does_not_depend_on_who_claims_meanwhile(tmp_path):
    (tmp_path / "alone").mkdir()
    alone, many = study_in(tmp_path / "alone"), study_in(tmp_path)
    wanted = []
    for _ in range(4):
        trial = alone.claim()
        wanted.append(suggested(trial))
    trials = [many.claim() for _ in range(4)]
    assert [suggested(trial) for trial in reversed(trials)] == wanted[::-1]
    for trial in trials:
        many.complete(trial, 1.0)
    assert replay(many.optuna, many.sampler).differing == []
    assert many.sampler._prepared == {}


def test_hyperband_has_all_its_brackets_before_two_slots_ask_at_once():
    pruner = Hyperband(1, 27, 3)
    assert pruner._n_brackets == len(pruner._pruners) == 4


class TwoSlots:
    """As much of an objective as slots need: trial 0 trains on and on, trial 1 ends the search."""

    def __init__(self, error):
        self.told, self.raised = [], []
        self.trainer = SimpleNamespace(n_slots=2, stop=self.told.append)
        self.study, self.deadline, self.error = None, float("inf"), error
        self._numbers, self._stopped = iter(range(2)), None
        self._first_runs = threading.Event()

    stop, leave_if_stopped = Objective.stop, Objective.leave_if_stopped

    def claim(self):
        return next(self._numbers)

    def run(self, number):
        if number == 1:
            self._first_runs.wait(10)
            raise self.error
        self._first_runs.set()
        try:
            while True:
                time.sleep(0.01)
                self.leave_if_stopped()
        except BaseException as error:
            self.raised.append(error)
            raise


@pytest.mark.parametrize(
    ("error", "kind"),
    [(SearchError("too many failures"), GivenBackError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_when_one_slot_ends_the_search_the_others_give_their_trials_back(error, kind):
    objective = TwoSlots(error)
    with pytest.raises(type(error)):
        run_trials(objective)
    assert [type(e) for e in objective.raised] == [kind]
    assert [type(e) for e in objective.told] == [kind]


# In float32 rounding alone parts two trainings of so deep a net within an epoch.
FUSED = ("arch=selu", "data=digits", "sampler=random", "pruner=none", "budget.n_trials=6")
FUSED += ("training.epochs=2", "training.precision=float64")


@pytest.mark.slow
def test_each_trial_of_a_search_in_four_slots_is_the_one_that_it_is_alone(workplace, tmp_path):
    """Through the command, on JAX, with the net that the README begins with."""
    pytest.importorskip("jax")
    found = {}
    for name, words in (("fused", ("trainer=fused", "trainer.n_slots=4")), ("alone", ())):
        place = Workplace(tmp_path / name)
        place.folder.mkdir()
        done = place.run(*FUSED, *words, KERAS_BACKEND="jax")
        assert done.returncode == 0, done.stdout + done.stderr
        found[name] = {number_of(t): t for t in place.study("digits-selu").trials}
    assert sorted(found["fused"]) == sorted(found["alone"]) == list(range(6))
    apart = {1: [], 2: []}
    for number, trial in found["fused"].items():
        alone = found["alone"][number]
        assert trial.state == TrialState.COMPLETE, trial.user_attrs
        assert trial.params == alone.params
        for epoch, value in trial.intermediate_values.items():
            apart[epoch].append(abs(value / alone.intermediate_values[epoch] - 1))
    assert max(apart[1]) < 1e-6
    assert sorted(apart[2])[2] < 1e-6, (
        "only high learning rates make large differences of small ones"
    )
