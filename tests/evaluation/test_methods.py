"""Several ways to predict on one page: what they cost, and which one is recommended."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

from hpsearch.alternatives.laplace import Laplace
from hpsearch.alternatives.settings import Uncertainty
from hpsearch.data.split import Examples
from hpsearch.errors import ConfigError
from hpsearch.evaluation import methods
from hpsearch.evaluation.differences import compare
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.evaluation.methods import Methods, recommendation
from hpsearch.evaluation.settings import MEASURES
from hpsearch.evaluation.verdict import Verdict

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 400)


def settings(**changed):
    given = {
        "n_samples": 5,
        "shared_masks": False,
        "seed": 3,
        "batch_size": 64,
        "memory_mb": 64,
        "from_logits": False,
        "methods": ["mc_dropout", "laplace"],
        "swag_samples": 3,
        "ensemble_seeds": 2,
    }
    return Uncertainty(**(given | changed))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"methods": ["laplce"]}, "no method laplce for uncertainty.methods. Did you mean"),
        ({"methods": []}, "at least one method, each once"),
        ({"methods": "swag"}, r"must be a list, but is swag: give uncertainty.methods=\[swag\]"),
        ({"methods": ["swag", "swag"]}, "at least one method, each once"),
        ({"swag_samples": 0}, "swag_samples must be at least 1, but is 0"),
        ({"ensemble_seeds": 1}, "ensemble_seeds must be at least 2, but is 1"),
        ({"n_samples": 0}, "uncertainty.n_samples must be above 0"),
    ],
)
def test_settings_that_are_out_of_range(changed, says):
    with pytest.raises(ConfigError, match=says):
        settings(**changed)


def predictions(right, *, noise=0.0):
    """Return distributions that give the class of each label about a probability."""
    p = np.clip(right + noise * RNG.normal(size=len(LABELS)), 0.01, 0.99)
    return np.stack([np.where(LABELS == 0, p, 1 - p), np.where(LABELS == 1, p, 1 - p)], axis=1)


def recommended(seconds, better, *, n_resamples=500, **arms):
    evaluated = SimpleNamespace(
        on_test={"plain": predictions(0.6), **arms},
        seconds={"plain": 1.0, **seconds},
        test=SimpleNamespace(targets=LABELS),
    )
    return recommendation(evaluated, better, level=0.05, n_resamples=n_resamples, seed=0)


def test_without_a_better_method_the_plain_prediction_is_recommended():
    assert recommended({"mc": 3.0}, [], mc=predictions(0.6)).startswith(
        "No method has a better NLL than the plain prediction by more than chance: by that measure"
    )


def test_of_equal_methods_the_cheapest_is_recommended():
    # the NLL of the ensemble is a little lower, and no pair of examples shows it clearly
    laplace, ensemble = predictions(0.8, noise=0.1), predictions(0.8, noise=0.1)
    said = recommended(
        {"ensemble": 5.0, "laplace": 1.2},
        ["ensemble", "laplace"],
        ensemble=ensemble,
        laplace=laplace,
    )
    assert said == (
        "By its NLL, Laplace is worth it for this model: it is better than the plain prediction, "
        "none of the others that are so is better than it by more than chance, and it takes 1.2 "
        "times as long as the plain prediction."
    )


def test_a_method_that_is_not_shown_to_be_better_than_plain_is_not_said_to_be_compared():
    # the NLL of the ensemble is lower still, but nothing has compared the two
    said = recommended(
        {"ensemble": 5.0, "laplace": 1.2},
        ["laplace"],
        ensemble=predictions(0.9, noise=0.05),
        laplace=predictions(0.8, noise=0.05),
    )
    assert "than the plain prediction, no other method is so by more than chance, and" in said


def test_all_pairs_of_methods_share_the_level(monkeypatch):
    levels = []

    def noted(first, second, labels, *, level, **given):
        levels.append(level)
        return compare(first, second, labels, level=level, **given)

    monkeypatch.setattr(methods, "compare", noted)
    arms = {name: predictions(0.8, noise=0.1) for name in ("mc", "laplace", "swag", "ensemble")}
    recommended(dict.fromkeys(arms, 2.0), ["laplace", "swag"], **arms)
    assert set(levels) == {0.05 / 6}


def test_a_better_method_is_recommended_with_the_cheaper_ones_beside_it():
    said = recommended(
        {"ensemble": 5.0, "laplace": 1.2},
        ["ensemble", "laplace"],
        ensemble=predictions(0.9, noise=0.05),
        laplace=predictions(0.8, noise=0.05),
    )
    assert said.startswith("By its NLL, ensemble is worth it")
    assert said.endswith("but another method is better still: Laplace (1.2 times).")


def test_there_are_enough_resamples_for_the_share_of_a_pair():
    arms = {name: predictions(0.8, noise=0.05) for name in ("mc", "laplace", "swag")}
    arms["ensemble"] = predictions(0.9, noise=0.05)
    said = recommended(
        {**dict.fromkeys(arms, 2.0), "ensemble": 5.0}, ["swag", "ensemble"], n_resamples=100, **arms
    )
    assert said.startswith("By its NLL, ensemble is worth it")


@pytest.fixture(scope="module")
def evaluated():
    labels = RNG.integers(0, 3, 90).astype(np.int32)
    images = RNG.normal(labels[:, None], 1.0, (90, 4)).astype(np.float32)
    examples = Examples(images, labels)
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4,))
    hidden = layers.Dropout(0.3)(layers.Dense(8, "relu")(inputs))
    model = keras.Model(inputs, layers.Dense(3, "softmax")(hidden))
    chosen = settings()
    laplace = Laplace(model, chosen, examples)
    return EvaluatedModel(
        model,
        chosen,
        val=examples,
        test=examples,
        alternatives={"laplace": laplace},
        not_made={"swag": "There are no moments."},
    )


@pytest.mark.slow
def test_the_verdict_has_all_methods_and_their_levels_share_the_error(evaluated):
    verdict = Verdict(level=0.05, n_resamples=400, n_seeds=2, seed=7)
    section = verdict.examine(evaluated)
    assert section.table[0][:4] == ["method", "measure", "plain", "with it"]
    assert "97.5% interval" in section.table[0]
    methods = [row[0] for row in section.table[1:]]
    assert methods == ["MC Dropout"] * 5 + ["Laplace"] * 5
    for measure in MEASURES:
        assert f"test/verdict/{measure}/p" in section.metrics
        assert f"test/verdict/laplace/{measure}/p" in section.metrics
    paragraphs = section.text.split("\n\n")
    assert paragraphs[0].startswith(
        "MC Dropout and Laplace were compared with the plain prediction"
    )
    assert paragraphs[1].startswith("On 90 test examples MC Dropout, the mean of")
    assert paragraphs[2].startswith("On 90 test examples Laplace, the mean of")
    assert "for all of them at once with a probability of 95%" in paragraphs[3]


@pytest.mark.slow
def test_the_costs_are_those_of_calls_and_what_is_left_out_is_said(evaluated):
    section = Methods().examine(evaluated)
    assert [row[0] for row in section.table[1:]] == ["plain", "MC Dropout", "Laplace"]
    assert section.table[3][-1] == "the training examples"
    assert evaluated.alternatives["laplace"].how in section.text
    assert section.text.endswith("SWAG is left out. There are no moments.")
    assert all(section.metrics[f"test/{arm}/s_per_1000"] > 0 for arm in evaluated.arms)


@pytest.mark.slow
def test_one_method_alone_leaves_mc_dropout_out(evaluated):
    alone = EvaluatedModel(
        evaluated.model,
        settings(methods=["laplace"]),
        val=evaluated.val,
        test=evaluated.test,
        alternatives=evaluated.alternatives,
    )
    assert alone.arms == ("plain", "laplace")
    section = Verdict(level=0.05, n_resamples=400, n_seeds=1, seed=7).examine(alone)
    assert section.title == "Verdict on Laplace"
    assert section.table[0][:3] == ["measure", "plain", "Laplace"]
    found = alone.evaluate()
    assert found.section().table[0] == ["measure", "plain", "Laplace", "difference"]
    assert {"test/plain/nll", "test/laplace/nll"} <= found.metrics().keys()
    assert "uncertainty.methods leaves it out" in found.section().text
