"""The mean of models of one recipe, worked out by hand, and members that cannot be used."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from hpsearch.alternatives.ensemble import Ensemble
from hpsearch.errors import ModelError
from hpsearch.mc_dropout.prediction import McDropout

SETTINGS = McDropout(
    n_samples=2, shared_masks=False, seed=0, batch_size=64, memory_mb=64, from_logits=False
)
INPUTS = np.zeros((5, 2), np.float32)


def net(*outputs):
    """Return a model that returns the same for all inputs."""
    constant = keras.layers.Dense(len(outputs), kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((2,)), constant])
    constant.bias.assign(outputs)
    return model


def ensemble(*members, shown=INPUTS):
    return Ensemble(members, SETTINGS, 1.5, "Trained by hand.", shown)


def test_the_prediction_is_the_mean_of_the_members():
    found = ensemble(net(0.5, 0.3, 0.2), net(0.1, 0.1, 0.8))
    np.testing.assert_allclose(found.predict(INPUTS), np.full((5, 3), [0.3, 0.2, 0.5]), atol=1e-7)
    np.testing.assert_array_equal(found.predict(INPUTS, seed=7), found.predict(INPUTS))
    assert found.is_random is False
    assert (found.needs, found.made_in_s, found.how) == ("2 trainings", 1.5, "Trained by hand.")


def test_a_member_whose_outputs_are_not_finite_is_left_out_and_said():
    found = ensemble(net(0.5, 0.5), net(np.nan, 0.5), net(0.1, 0.9))
    assert len(found.members) == 2
    np.testing.assert_allclose(found.predict(INPUTS)[0], [0.3, 0.7], atol=1e-7)
    assert found.how == "Trained by hand. Left out for outputs that are not finite: 1."
    assert found.needs == "3 trainings"


def test_one_member_is_no_ensemble():
    with pytest.raises(ModelError, match="two members, but 1 of 2 has finite outputs"):
        ensemble(net(0.5, 0.5), net(np.inf, 0.5))


def test_a_member_that_fails_later_is_told_and_not_averaged():
    found = ensemble(net(0.5, 0.5), net(np.nan, 0.5), shown=None)
    with pytest.raises(ModelError, match="NaN or infinite"):
        found.predict(INPUTS)
