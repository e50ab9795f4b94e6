"""What a model costs: measured, kept within limits, searched as a second objective, drawn as a
front.
"""

import keras
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import TPESampler

from hpsearch.errors import ConfigError, InfeasibleError
from hpsearch.space.space import Space
from hpsearch.study.budget import Budget
from hpsearch.study.direction import Direction
from hpsearch.study.replay import replay
from hpsearch.study.sampling import SeededSampler
from hpsearch.study.storage import journal
from hpsearch.study.study import SharedStudy, best_trial, number_of
from hpsearch.study.trial_end import TrialEnd
from hpsearch.study_report.pareto import Front
from hpsearch.study_report.searched import Outcome, Searched
from hpsearch.trials.costs import Costs

optuna.logging.set_verbosity(optuna.logging.WARNING)
NONE = {"latency_ms": None, "n_parameters": None}


def costs(second_objective=None, tolerance=0.1, **constraints):
    return Costs(second_objective, NONE | constraints, tolerance, n_images=1, n_repeats=3)


def model_of(n_units):
    return keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(n_units)]
    )


def test_only_what_is_asked_for_is_measured():
    model = model_of(10)
    assert costs().of(model) == {}
    assert costs(n_parameters=1000).of(model) == {"n_parameters": 16 * 10 + 10}
    found = costs("latency_ms").of(model)
    assert found.keys() == {"latency_ms"}
    assert 0 < found["latency_ms"] < 10_000


def test_a_limit_is_exceeded_by_a_share_of_it_and_kept_when_it_is_met():
    limited = costs(n_parameters=170)
    assert limited.excess({"n_parameters": 170.0}) == {"n_parameters": 0.0}
    limited.check({"n_parameters": 170.0})
    assert limited.excess({"n_parameters": 255.0}) == {"n_parameters": 0.5}
    with pytest.raises(
        InfeasibleError, match=r"^n_parameters 255 is above costs.constraints.n_parameters=170$"
    ):
        limited.check({"n_parameters": 255.0})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"second_objective": "latency"}, "There is no cost 'latency'. Did you mean 'latency_ms'?"),
        ({"n_parameter": 3}, "There is no cost 'n_parameter'. Did you mean 'n_parameters'?"),
        (
            {"latency_ms": 0},
            "Expected costs.constraints.latency_ms to be a number above 0; received 0.",
        ),
        ({"latency_ms": "5 ms"}, "received '5 ms'"),
        ({"tolerance": -0.1}, "costs.tolerance"),
    ],
)
def test_an_impossible_setting_is_a_sentence(given, sentence):
    with pytest.raises(ConfigError) as caught:
        costs(**given)
    assert sentence in str(caught.value)


def study_of(*values, directions=("minimize", "minimize")):
    study = optuna.create_study(directions=list(directions))
    for pair in values:
        study.add_trial(optuna.create_trial(values=list(pair)))
    return study


# Losses and milliseconds: 0 is beaten by 1 in both, 3 by 2 in one with equal loss, the others by
# none.
LOSSES = ((1.2, 9.0), (1.0, 8.0), (1.05, 4.0), (1.05, 5.0), (2.0, 1.0))


def searched_of(study, tolerance=0.0):
    config = {"costs": {"second_objective": "latency_ms", "tolerance": tolerance}}
    return Searched("s", study, Space({}), "val/loss", Direction.of(study), config, "")


def test_the_front_holds_what_no_other_beats_in_both():
    assert [t.number for t in Front(searched_of(study_of(*LOSSES))).trials] == [1, 2, 4]
    accuracies = [(1 / loss, ms) for loss, ms in LOSSES]
    maximized = study_of(*accuracies, directions=("maximize", "minimize"))
    assert [t.number for t in Front(searched_of(maximized)).trials] == [1, 2, 4]


@pytest.mark.parametrize(
    ("tolerance", "number"), [(0.0, 1), (0.04, 1), (0.06, 2), (0.9, 2), (1.0, 4)]
)
def test_the_cheapest_is_nearly_as_good_as_the_best(tolerance, number):
    assert Front(searched_of(study_of(*LOSSES), tolerance)).cheapest.number == number


def test_the_page_shows_the_front_with_its_aliases():
    for values, marks in ((LOSSES, ["best", "fastest", ""]), (LOSSES[:1], ["best and fastest"])):
        shown = Front(searched_of(study_of(*values), 0.06)).section()
        assert shown.table[0] == ["trial", "val/loss", "latency_ms", ""]
        assert [row[-1] for row in shown.table[1:]] == marks
        assert shown.figures[0].png.startswith(b"\x89PNG")
    rows = searched_of(study_of(*LOSSES)).best_rows(2)
    assert rows == [
        ["trial", "val/loss", "latency_ms", "epochs"],
        ["#1", "1.0000", "8", "0"],
        ["#2", "1.0500", "4", "0"],
    ]


def shared(tmp_path, has_cost, n_trials=12):
    make = lambda seed: TPESampler(seed=seed, n_startup_trials=3)  # noqa: E731
    return SharedStudy.open(
        "s",
        storage=journal(str(tmp_path / "study.log"), patience_s=5),
        sampler=SeededSampler(make=make, root_seed=1, per_trial=True),
        pruner=optuna.pruners.NopPruner(),
        direction=Direction.MINIMIZE,
        budget=Budget(
            n_trials, None, max_failures=0, max_retries=3, lease_s=60, linger=False, grace_s=1
        ),
        has_cost=has_cost,
    )


@pytest.mark.parametrize("has_cost", [False, True])
def test_a_study_with_costs_learns_from_all_ends_and_can_be_replayed(tmp_path, has_cost):
    study = shared(tmp_path, has_cost)
    limits = costs(n_parameters=60)
    while (trial := study.claim()) is not None:
        width, rate = trial.suggest_int("width", 1, 100), trial.suggest_float("rate", 0.0, 1.0)
        excess = limits.excess({"n_parameters": width})
        study.constrain(trial, excess)
        study.constrain(trial, excess)  # as a trial that was paused and goes on
        if excess["n_parameters"] > 0:
            study.prune(trial, TrialEnd.INFEASIBLE)
            continue
        study.report(trial, rate, 1)
        assert not study.should_stop(trial, 1)
        if rate > 0.9:
            study.prune(trial, TrialEnd.DIVERGED)
        else:
            study.complete(trial, *((rate, float(width)) if has_cost else (rate,)))
    trials = study.trials()
    outcome = Outcome.of(trials, Direction.MINIMIZE)
    assert outcome.n_finished + outcome.n_infeasible + outcome.n_diverged == 12
    assert outcome.n_infeasible == sum(t.params["width"] > 60 for t in trials) > 0
    assert f"{outcome.n_infeasible} beyond a constraint" in outcome.counts()
    best = min((t for t in trials if t.state.name == "COMPLETE"), key=lambda t: t.values[0])
    assert best_trial(trials, Direction.MINIMIZE).number == number_of(best)
    assert all(
        t.intermediate_values == {1: t.params["rate"]}
        for t in trials
        if t.constraints["n_parameters"] <= 0
    )
    result = replay(study.optuna, study.sampler)
    assert (result.n_same, result.differing) == (12, [])


def test_a_diverged_trial_does_not_stop_a_search_for_two_objectives(tmp_path):
    study = shared(tmp_path, has_cost=True)
    for number in range(5):
        trial = study.claim()
        rate = trial.suggest_float("rate", 0.0, 1.0)
        study.report(trial, rate, 1)
        if number == 1:
            study.prune(trial, TrialEnd.DIVERGED)
        else:
            study.complete(trial, rate, rate)
    trial = study.claim()
    rate = trial.suggest_float("rate", 0.0, 1.0)
    assert study.trials()[trial.number].params == {"rate": rate}
    assert trial.number == 5
    assert study.trials()[0].distributions == {"rate": FloatDistribution(0.0, 1.0)}
