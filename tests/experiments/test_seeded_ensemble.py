"""Models of one arm from fresh seeds: equal for equal seeds, and without those that diverged."""

from __future__ import annotations

from functools import partial

import keras
import keras_tuner
import numpy as np
import pytest

from hpsearch.experiments.arms import Arm, Workbench
from hpsearch.experiments.seeded_ensemble import train_anew
from hpsearch.training.schedules import Constant
from hpsearch.training.settings import Training
from small_training import SETTINGS, Net, search_data


def arm(arch=Net, bounded=None, **values):
    training = Training(**SETTINGS | {"epochs": 2, "jit_compile": False})
    optimizer = partial(keras.optimizers.AdamW)
    parts = {"arch": partial(arch), "optimizer": optimizer, "training": training}
    return Arm("made", {**parts, "schedule": Constant()}, values, bounded=bounded)


def weights(found):
    return [np.concatenate([w.ravel() for w in model.get_weights()]) for model in found.models]


@pytest.mark.slow
def test_the_same_root_seed_trains_the_same_models_and_another_one_others():
    found, again, others = (train_anew(search_data(), arm(), seed, 2) for seed in (3, 3, 4))
    for mine, same, other in zip(*map(weights, (found, again, others)), strict=True):
        np.testing.assert_array_equal(mine, same)
        assert not np.array_equal(mine, other)
    first, second = weights(found)
    assert not np.array_equal(first, second)
    assert found.diverged == []
    assert found.seconds > 0


@pytest.mark.slow
def test_trainings_that_diverge_leave_no_model_and_are_counted():
    found = train_anew(search_data(), arm(learning_rate=3e38), 0, 2)
    assert found.models == []
    assert len(found.diverged) == 2
    assert keras.config.dtype_policy().name == "float32"


class Decaying(keras_tuner.HyperModel):
    """A HyperModel whose own weight decay has the name of the optimizer's."""

    def __init__(self, optimizer):
        super().__init__()
        self.optimizer = optimizer

    def build(self, hp):
        hp.Float("weight_decay", 0.1, 0.9)
        model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten()])
        model.compile(self.optimizer(learning_rate=0.1), "mse")
        return model


@pytest.mark.parametrize(("bounded", "decay"), [(None, 0.5), (["weight_decay"], 0.5), ([], 0.004)])
def test_only_bounds_set_arguments_of_the_optimizer(bounded, decay):
    made = arm(Decaying, bounded, weight_decay=0.5)
    _, hp, model = Workbench(search_data()).build(made, 0)
    assert model.optimizer.weight_decay == decay
    assert hp.get("weight_decay") == 0.5
