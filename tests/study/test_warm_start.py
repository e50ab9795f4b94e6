"""A study begins with the usable values of the best trials of another study."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from hpsearch.errors import ConfigError
from hpsearch.space.space import Space
from hpsearch.study.replay import replay
from hpsearch.study.study import number_of
from hpsearch.study.warm_start import WARM_START, Asked, WarmStart
from small_study import study_in, suggested

RATE, MOMENTUM = FloatDistribution(1e-4, 1e-1, log=True), FloatDistribution(0.8, 0.99)
ASKED = Asked(
    frozenset({"learning_rate", "momentum"}), {"learning_rate": RATE, "momentum": MOMENTUM}
)
NO_BOUNDS = Space({})


@pytest.fixture
def studies(tmp_path):
    """A storage with a finished study `old`, and the study `short` that may start from it."""
    study = study_in(tmp_path, n_trials=5)
    old = optuna.create_study(study_name="old", storage=study.storage)
    for number, loss in enumerate((0.5, 0.1, 0.3)):
        params = {"learning_rate": 1e-3 * (number + 1), "momentum": 0.9, "pooling": "avg"}
        distributions = {
            "learning_rate": RATE,
            "momentum": MOMENTUM,
            "pooling": CategoricalDistribution(["avg"]),
        }
        old.add_trial(optuna.create_trial(params=params, distributions=distributions, value=loss))
    optuna.create_study(study_name="empty", storage=study.storage)
    return study


def warm(study, n_trials=2, space=NO_BOUNDS, asked=ASKED):
    WarmStart.of("old", study.storage, n_trials).begin(study, space, asked)


def test_the_best_are_tried_first_the_rest_is_drawn_and_all_can_be_replayed(studies):
    warm(studies)
    assert studies.optuna.user_attrs[WARM_START] == {"study": "old", "trials": [1, 2]}
    trials = []
    while (trial := studies.claim()) is not None:
        studies.complete(trial, suggested(trial)["learning_rate"])
        trials.append(trial)
    assert [t.params["learning_rate"] for t in trials[:2]] == [2e-3, 3e-3]
    assert [t.user_attrs.get(WARM_START) for t in trials] == ["old #1", "old #2", None, None, None]
    assert [number_of(t) for t in trials] == [0, 1, 2, 3, 4]
    result = replay(studies.optuna, studies.sampler)
    assert (result.n_same, result.differing) == (5, [])


def test_what_a_bound_does_not_hold_is_drawn_instead(studies):
    narrow = Space(
        {"learning_rate": {"low": 1e-4, "high": 2.5e-3, "scale": "log"}, "momentum": 0.9}
    )
    asked = Asked(ASKED.names, {"learning_rate": FloatDistribution(1e-4, 2.5e-3, log=True)})
    warm(studies, 3, narrow, asked)
    fixed = [t.system_attrs["fixed_params"] for t in studies.trials()]
    assert fixed == [{"learning_rate": 2e-3}, {"learning_rate": 1e-3}]


def test_a_study_that_goes_on_is_left_as_it_is(studies):
    warm(studies)
    warm(studies)
    assert len(studies.trials()) == 2


def test_a_study_with_trials_is_not_started_again(studies):
    suggested(studies.claim())
    with pytest.raises(
        ConfigError, match=r"Study short was begun without a warm start; give study.name=NAME"
    ):
        warm(studies)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("odl", r"There is no study odl in the storage to start from .* Did you mean 'old'\?"),
        ("empty", "No trial of study empty has finished"),
    ],
)
def test_what_nothing_can_start_from_is_a_sentence(studies, name, sentence):
    with pytest.raises(ConfigError, match=sentence):
        WarmStart.of(name, studies.storage, 3)


def test_a_study_that_asks_for_nothing_of_it_is_refused(studies):
    with pytest.raises(
        ConfigError, match="Of the best trials of old nothing lies within the space of study short"
    ):
        warm(studies, asked=Asked(frozenset({"width"}), {}))
