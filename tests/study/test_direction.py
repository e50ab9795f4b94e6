"""Which of two values is better, in both directions."""

import math

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.study import StudyDirection

from hpsearch.study.direction import Direction
from hpsearch.study.study import best_trial, ranked

DOWN, UP = Direction.MINIMIZE, Direction.MAXIMIZE
VALUES = st.floats(allow_nan=False, allow_infinity=False)


def test_less_is_better_where_a_metric_is_minimized_and_more_where_it_is_maximized():
    assert DOWN.is_better(1.0, than=2.0)
    assert not DOWN.is_better(2.0, than=1.0)
    assert UP.is_better(2.0, than=1.0)
    assert not UP.is_better(1.0, than=2.0)
    assert (DOWN.better, UP.better) == ("less", "more")
    assert (DOWN.as_loss(0.25), UP.as_loss(0.25)) == (0.25, -0.25)


@pytest.mark.parametrize("direction", Direction)
def test_equal_values_and_nan_are_not_better(direction):
    assert not direction.is_better(1.0, than=1.0)
    assert not direction.is_better(math.nan, than=1.0)
    assert not direction.is_better(1.0, than=math.nan)


@given(VALUES, VALUES)
def test_one_of_two_different_values_is_better_and_the_directions_disagree(one, other):
    assert DOWN.is_better(one, other) == UP.is_better(other, one)
    assert DOWN.is_better(one, other) == (one < other)
    assert UP.as_loss(UP.as_loss(one)) == one


@pytest.mark.parametrize("direction", Direction)
def test_optuna_and_the_setting_have_the_same_words(direction):
    assert Direction(str(direction)) is direction
    study = optuna.create_study(direction=str(direction))
    assert Direction.of(study) is direction
    assert study.direction == StudyDirection[direction.upper()]
    both = optuna.create_study(directions=[str(direction), "minimize"])
    assert Direction.of(both) is direction


def test_trials_are_ranked_by_direction_the_earliest_of_equals_first():
    study = optuna.create_study()
    for value in (2.0, 1.0, 3.0, 1.0):
        study.tell(study.ask(), value)
    study.ask()
    assert [t.number for t in ranked(study.trials, DOWN)] == [1, 3, 0, 2]
    assert [t.number for t in ranked(study.trials, UP)] == [2, 0, 1, 3]
    assert best_trial(study.trials, UP).value == 3.0
    assert best_trial([], UP) is None
