"""Suggestions depend only on the root seed, the study, the ticket and the history."""

from functools import partial

import optuna
import pytest
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState

from hpsearch.space.space import Space
from hpsearch.study.history import History, as_ranges, from_ranges
from hpsearch.study.pruners import Hyperband
from hpsearch.study.sampling import Grid, Qmc, SeededSampler, ticket

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = Space({"x": {"low": 0.0, "high": 1.0}, "kind": {"choices": ["a", "b"]}})
SAMPLERS = {
    "tpe": (partial(TPESampler, n_startup_trials=3), True),
    "random": (RandomSampler, True),
    "qmc": (partial(Qmc, scramble=True, warn_independent_sampling=False), False),
    "grid": (partial(Grid, SPACE, 3), False),
}


def sampler_of(name, root_seed=1):
    make, per_trial = SAMPLERS[name]
    return SeededSampler(make=make, root_seed=root_seed, per_trial=per_trial)


def study_of(sampler, storage=None, name="s"):
    return optuna.create_study(
        study_name=name, storage=storage, sampler=sampler, load_if_exists=True
    )


def suggest(trial):
    return trial.suggest_float("x", 0, 1), trial.suggest_categorical("kind", ["a", "b"])


def drawn(study, n):
    points = []
    for _ in range(n):
        trial = study.ask()
        x, kind = suggest(trial)
        points.append((x, kind))
        study.tell(trial, (x - 0.3) ** 2 + (kind == "a"))
    return points


@pytest.mark.parametrize("name", SAMPLERS)
def test_five_trials_and_a_new_process_that_goes_on_equal_twelve_in_one_go(name):
    storage = optuna.storages.InMemoryStorage()
    resumed = drawn(study_of(sampler_of(name), storage), 5) + drawn(
        study_of(sampler_of(name), storage), 1
    )
    assert resumed == drawn(study_of(sampler_of(name)), 6)


@pytest.mark.parametrize("name", ["tpe", "random", "qmc"])
def test_another_root_seed_or_study_draws_other_points(name):
    first = drawn(study_of(sampler_of(name)), 5)
    assert first != drawn(study_of(sampler_of(name, root_seed=2)), 5)
    assert first != drawn(study_of(sampler_of(name), name="another"), 5)


@pytest.mark.parametrize("name", SAMPLERS)
def test_two_workers_at_once_draw_different_points(name):
    storage = optuna.storages.InMemoryStorage()
    drawn(study_of(sampler_of(name), storage), 1)
    trials = [study_of(sampler_of(name), storage).ask() for _ in range(5)]
    points = [suggest(trial) for trial in trials]
    assert len(set(points)) == 5


def test_a_grid_of_six_points_takes_each_once_and_is_then_exhausted():
    sampler = sampler_of("grid")
    points = drawn(study_of(sampler), 6)
    assert sorted(points) == [(x, kind) for x in (0.0, 0.5, 1.0) for kind in ("a", "b")]
    assert not sampler.is_exhausted(5)
    assert sampler.is_exhausted(6)
    assert isinstance(sampler.of_ticket("s", 0), Grid)


def trial_of(number, **attrs):
    trial = optuna.trial.create_trial(state=TrialState.FAIL, user_attrs=attrs)
    trial.number = number
    return trial


@pytest.mark.parametrize(
    ("attrs", "expected"),
    [
        ([{}, {}, {}], [0, 1, 2]),
        (
            [{}, {"ticket": 0, "retry_of": 0}, {}],
            [0, 0, 1],
        ),  # a retry has its first try's ticket, the next goes on
        (
            [{}, {"reason": "surplus"}, {}],
            [0, 1, 1],
        ),  # a surplus trial never ran: the next one has its ticket
        ([{}, {"reason": "error"}, {}], [0, 1, 2]),  # a failed one keeps its own
    ],
)
def test_tickets(attrs, expected):
    trials = [trial_of(number, **each) for number, each in enumerate(attrs)]
    assert [ticket(trial, trials) for trial in trials] == expected


def test_a_killed_trial_leaves_its_bracket_to_its_retry():
    study = study_of(sampler_of("tpe"))
    study.pruner = Hyperband(min_resource=1, max_resource=27, reduction_factor=3)
    trial = study.ask()
    trial.should_prune()  # Optuna's Hyperband makes its brackets when it is asked first
    first, retry, killed = trial_of(4), trial_of(9, ticket=4), trial_of(4, reason="killed")
    brackets = [study.pruner._get_bracket_id(study, t) for t in (first, retry, killed)]
    assert brackets == [3, 3, -1]
    assert study.pruner._get_bracket_id(study, trial_of(9)) == 0  # without the ticket of the first


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([3], "3"), ([0, 1, 2, 4], "0-2,4"), ([7, 5, 6, 9, 10], "5-7,9-10")],
)
def test_ranges_there_and_back(numbers, text):
    assert as_ranges(numbers) == text
    assert from_ranges(text) == sorted(numbers)


def test_a_recorded_history_tells_what_ran_then_whatever_has_become_of_it():
    study = study_of(sampler_of("tpe"))
    done, running = study.ask(), study.ask()
    suggest(done)
    study.tell(done, 1.0)
    running.suggest_float("x", 0, 1)
    record = History.now(study).record()
    assert record == {"finished": "0", "running": {"x": "1"}}
    running.suggest_categorical("kind", ["a", "b"])
    running.report(0.5, 1)
    study.tell(running, 2.0)
    study.ask()
    then = History.of(record, study.get_trials()).trials
    assert [(t.number, t.state, list(t.params)) for t in then] == [
        (0, TrialState.COMPLETE, ["x", "kind"]),
        (1, TrialState.RUNNING, ["x"]),
    ]
    assert (then[1].value, then[1].intermediate_values) == (None, {})
