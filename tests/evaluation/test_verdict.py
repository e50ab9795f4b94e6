"""The verdict on MC Dropout: what its table says is what the comparison of the arms found."""

import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

from hpsearch import metrics
from hpsearch.errors import ConfigError
from hpsearch.evaluation.differences import MEASURES, Difference, compare
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.evaluation.verdict import Verdict
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.seeds import derive

MC_DROPOUT = McDropout(
    n_samples=5, mask="example", seed=3, batch_size=64, memory_mb=64, from_logits=False
)


def settings(**changed):
    return Verdict(**{"level": 0.05, "n_resamples": 200, "n_seeds": 3, "seed": 7} | changed)


@pytest.fixture(scope="module")
def evaluated():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60).astype(np.int32)
    shades = rng.normal(60 + 60 * labels[:, None, None, None], 50, (60, 2, 2, 1))
    images = shades.clip(0, 255).astype(np.uint8)
    examples = SimpleNamespace(inputs=images, targets=labels)
    keras.utils.set_random_seed(1)
    inputs = keras.Input((2, 2, 1))
    hidden = layers.Dense(8, "relu")(layers.Flatten()(layers.Rescaling(1 / 255)(inputs)))
    model = keras.Model(inputs, layers.Dense(3, "softmax")(layers.Dropout(0.5)(hidden)))
    return EvaluatedModel(model, MC_DROPOUT, val=examples, test=examples)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 1.5])
def test_a_level_is_a_probability(level):
    with pytest.raises(ConfigError) as raised:
        settings(level=level)
    assert str(raised.value) == f"level must lie between 0 and 1, but is {level}."


def test_there_are_enough_resamples_for_a_corrected_p_below_the_level():
    fewest = 100  # 5 measures at the level 0.05
    assert len(MEASURES) == 5
    for wrong in ({"n_resamples": fewest - 1}, {"n_seeds": 0}):
        received = {"n_resamples": fewest, "n_seeds": 1} | wrong
        with pytest.raises(ConfigError) as raised:
            settings(**received)
        assert str(raised.value) == (
            "Expected at least 100 resamples for the level 0.05 and at least one seed, received "
            f"n_resamples={received['n_resamples']}, n_seeds={received['n_seeds']}."
        )
    assert settings(n_resamples=fewest, n_seeds=1).n_seeds == 1
    with pytest.raises(ConfigError, match="at least 17 resamples"):
        settings(level=0.3, n_resamples=16)
    assert settings(level=0.3, n_resamples=17).n_resamples == 17


def test_the_table_and_the_values_are_those_of_the_comparison(evaluated):
    section = settings().examine(evaluated)
    plain, mc, labels = evaluated.on_test["plain"], evaluated.on_test["mc"], evaluated.test.targets
    found = compare(plain, mc, labels, n_resamples=200, level=0.05, seed=7)
    assert section.title == "Verdict"
    assert list(section.table[0]) == [
        "measure",
        "plain",
        "MC Dropout",
        "difference",
        "95% interval",
        "p (Holm)",
        "spread over seeds",
        "detectable",
        "verdict",
    ]
    spreads = {}
    for measure in MEASURES:
        of_seeds = []
        for place in range(3):
            seed = derive(MC_DROPOUT.seed, "spread", place)
            probs = evaluated.sampler.predict(evaluated.test.inputs, seed=seed).probs
            of_seeds.append(metrics.summary(probs, labels)[measure])
        spreads[measure] = np.std(of_seeds, ddof=1)
    assert spreads["nll"] > 0
    for row, difference in zip(section.table[1:], found, strict=True):
        measure = difference.measure
        assert list(row) == [
            measure,
            f"{metrics.summary(plain, labels)[measure]:.4f}",
            f"{metrics.summary(mc, labels)[measure]:.4f}",
            f"{difference.value:+z.4f}",
            f"{difference.low:+z.4f} to {difference.high:+z.4f}",
            f"{difference.p:.3g}",
            f"{spreads[measure]:.4f}",
            f"{difference.detectable:.4f}",
            difference.verdict(0.05),
        ]
        of_measure = {
            key.rpartition("/")[2]: value
            for key, value in section.metrics.items()
            if key.startswith(f"test/verdict/{measure}/")
        }
        assert of_measure == {
            "difference": difference.value,
            "low": difference.low,
            "high": difference.high,
            "p": difference.p,
            "detectable": difference.detectable,
            "seed_spread": pytest.approx(spreads[measure]),
        }
    assert len(section.metrics) == 6 * len(MEASURES)
    assert section.text == settings().sentence(found)
    assert len(section.figures) == 1


def test_one_seed_has_no_spread(evaluated):
    values = settings(n_seeds=1).examine(evaluated).metrics
    assert {values[f"test/verdict/{measure}/seed_spread"] for measure in MEASURES} == {0.0}


def test_the_sentence_names_each_measure_once():
    def difference(measure, of, p):
        return Difference(measure, of, low=-1.0, high=1.0, p=p, detectable=0.1)

    found = [
        difference("accuracy", (0.5, 0.6), 0.01),
        difference("nll", (0.5, 0.6), 0.01),
        difference("ece", (0.5, 0.4), 0.05),
        difference("aurc", (0.5, 0.4), 0.06),
    ]
    assert settings().sentence(found) == (
        "MC Dropout against the plain prediction: better in accuracy, ece; worse in nll; "
        "no detectable difference in aurc."
    )
    only = settings(level=0.1).sentence(found[-1:])
    assert only == "MC Dropout against the plain prediction: better in aurc."


def test_the_head_names_the_interval_of_the_level(evaluated):
    head = settings(level=0.1).examine(evaluated).table[0]
    assert [name for name in head if re.search("interval", name)] == ["90% interval"]
