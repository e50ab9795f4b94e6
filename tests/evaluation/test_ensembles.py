"""The deep ensemble equivalent is measured with members of one recipe, and with no others."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from hpsearch.alternatives.ensemble import Ensemble
from hpsearch.evaluation.ensembles import Ensembles
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.mc_dropout.prediction import McDropout

SETTINGS = McDropout(
    n_samples=4, shared_masks=False, seed=0, batch_size=64, memory_mb=64, from_logits=False
)
PART = Ensembles(n_members=3, n_samples=2)


def net(seed, rate=0.5):
    keras.utils.set_random_seed(seed)
    layers = [
        keras.Input((3,)),
        keras.layers.Dense(16, "relu"),
        keras.layers.Dropout(rate),
        keras.layers.Dense(3, "softmax"),
    ]
    return keras.Sequential(layers)


def examples(seed):
    rng = np.random.default_rng(seed)
    return SimpleNamespace(
        inputs=rng.normal(size=(60, 3)).astype(np.float32),
        targets=rng.integers(0, 3, 60).astype(np.int32),
    )


@pytest.fixture(scope="module")
def evaluated():
    return EvaluatedModel(net(0), SETTINGS, examples(0), examples(1), members=[net(0), net(1)])


@pytest.fixture(scope="module")
def seeded(evaluated):
    ensemble = Ensemble([net(0), net(5), net(6)], SETTINGS, 1.0, "Three nets.")
    return replace(evaluated, alternatives={"ensemble": ensemble})


def test_members_of_one_recipe_give_the_deep_ensemble_equivalent_of_both_predictions(seeded):
    section = PART.examine(seeded)
    assert section.title == "Ensembles of one recipe"
    assert section.metrics.keys() == {
        "test/plain/deep_ensemble_equivalent",
        "test/mc/deep_ensemble_equivalent",
    }
    assert all(1 <= value <= 3 for value in section.metrics.values())
    (curve,) = section.curves.values()
    assert [size for size, _ in curve] == [1, 2, 3]
    assert section.text.startswith("Three nets. By its NLL after temperature scaling, plain")
    assert [row[0] for row in section.table[1:]] == [
        "one model, plain",
        "one model, MC Dropout",
        "ensemble of 3, plain",
    ]


def test_the_whole_ensemble_is_worth_all_its_members(seeded):
    (curve,) = PART.examine(seeded).curves.values()
    whole = seeded.alternatives["ensemble"]
    section = PART.examine(seeded)
    assert section.table[-1][3] == f"{curve[-1][1]:.4f}"
    np.testing.assert_allclose(
        whole.predict(seeded.test.inputs), np.mean(whole.by_member(seeded.test.inputs), axis=0)
    )


def test_a_model_without_dropout_is_compared_by_its_plain_prediction_alone(seeded):
    section = PART.examine(replace(seeded, model=net(0, rate=0.0)))
    assert section.metrics.keys() == {"test/plain/deep_ensemble_equivalent"}


@pytest.mark.slow
def test_the_studys_models_give_no_deep_ensemble_equivalent(evaluated):
    section = PART.examine(evaluated)
    assert section.title == "Ensembles of the study's models"
    assert not any("equivalent" in key for key in section.metrics)
    assert section.metrics.keys() >= {"test/study_ensemble/nll", "test/study_mc_ensemble/nll"}
    assert "worth a deep ensemble of" not in section.text
    assert "uncertainty=ensemble" in section.text


@pytest.mark.slow
def test_no_other_method_predicts_for_each_of_the_studys_models(evaluated):
    asked = []

    def predict(inputs, *, seed=None):
        asked.append(inputs)
        return np.full((len(inputs), 3), 1 / 3)

    other = SimpleNamespace(predict=predict, is_random=False)
    PART.examine(replace(evaluated, alternatives={"laplace": other}))
    assert len(asked) == 2  # once on val and once on test


def test_a_model_without_any_members_has_no_section(evaluated):
    assert PART.examine(replace(evaluated, members=[])) is None
