"""The verdict on MC Dropout: what its table says is what the comparison of the arms found."""

import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

from hpsearch import metrics
from hpsearch.errors import ConfigError
from hpsearch.evaluation.differences import (
    LABELS,
    MEASURES,
    NONE,
    compare,
    verdict_over_masks,
)
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.evaluation.verdict import Verdict, sentence
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.seeds import derive

MC_DROPOUT = McDropout(
    n_samples=5, shared_masks=False, seed=3, batch_size=64, memory_mb=64, from_logits=False
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
    with pytest.raises(ConfigError) as raised:
        settings(n_resamples=fewest - 1)
    assert str(raised.value) == (
        "Expected at least 100 resamples for the level 0.05, received n_resamples=99."
    )
    with pytest.raises(ConfigError, match=r"at least one set of masks, received n_seeds=0\."):
        settings(n_resamples=fewest, n_seeds=0)
    assert settings(n_resamples=fewest, n_seeds=1).n_seeds == 1
    with pytest.raises(ConfigError, match="at least 17 resamples"):
        settings(level=0.3, n_resamples=16)
    assert settings(level=0.3, n_resamples=17).n_resamples == 17


def test_the_table_and_the_values_are_those_of_the_comparison(evaluated):
    section = settings().examine(evaluated)
    plain, mc, labels = evaluated.on_test["plain"], evaluated.on_test["mc"], evaluated.test.targets
    sets = [mc]
    for place in (1, 2):
        seed = derive(MC_DROPOUT.seed, "spread", place)
        sets.append(evaluated.sampler.predict(evaluated.test.inputs, seed=seed).probs)
    by_set = [compare(plain, p, labels, n_resamples=200, level=0.05, seed=7) for p in sets]
    assert section.title == "Verdict"
    assert section.table[0][-4:] == ["p", "spread over masks", "detectable", "verdict"]
    verdicts = {}
    for row, differences in zip(section.table[1:-1], zip(*by_set, strict=True), strict=True):
        own = differences[0]
        spread = np.std([difference.values[1] for difference in differences], ddof=1)
        verdicts[own.measure] = verdict_over_masks(differences, 0.05)
        assert list(row) == [
            LABELS[own.measure],
            f"{own.values[0]:z.4f}",
            f"{own.values[1]:z.4f}",
            f"{own.value:+z.4f}",
            f"{own.low:+z.4f} to {own.high:+z.4f}",
            f"{own.p:.3g}",
            f"{spread:.4f}",
            f"{own.detectable:.4f}",
            verdicts[own.measure],
        ]
        prefix = f"test/verdict/{own.measure}/"
        of_measure = {
            key.removeprefix(prefix): value
            for key, value in section.metrics.items()
            if key.startswith(prefix)
        }
        called = [difference.verdict(0.05) for difference in differences]
        assert of_measure == {
            "difference": own.value,
            "low": own.low,
            "high": own.high,
            "p": own.p,
            "detectable": own.detectable,
            "seed_spread": pytest.approx(spread),
            "sets_better": called.count("better"),
            "sets_worse": called.count("worse"),
            "depends_on_masks": verdicts[own.measure].startswith("depends"),
        }
    assert list(verdicts) == list(MEASURES)
    assert len(section.metrics) == 9 * len(MEASURES)
    first, reading = section.text.split("\n\n")
    assert first == sentence(verdicts, len(labels))
    assert "An interval leaves out 0 exactly where p is at most 0.05" in reading
    assert section.table[-1][:3] == [
        "ECE",
        f"{metrics.ece(plain, labels):.4f}",
        f"{metrics.ece(mc, labels):.4f}",
    ]
    assert len(section.figures) == 1


def test_one_seed_has_no_spread_and_the_page_says_that_masks_may_matter(evaluated):
    section = settings(n_seeds=1).examine(evaluated)
    values = section.metrics
    assert {values[f"test/verdict/{measure}/seed_spread"] for measure in MEASURES} == {0.0}
    assert "One set of masks was used, so another one may give another verdict." in section.text


def test_a_model_without_mc_dropout_gets_no_verdict():
    evaluated = SimpleNamespace(left_out="It has none.", arms=("plain",), not_made={})
    section = settings().examine(evaluated)
    assert section.text == (
        "There is nothing to compare with the plain prediction. MC Dropout: It has none."
    )
    assert not section.metrics
    evaluated.not_made = {"swag": "There are no moments."}
    assert settings().examine(evaluated).text.endswith("none. SWAG: There are no moments.")


START = "On 1,200 test examples MC Dropout, the mean of many predictions with dropout left on, "
MASKS = "depends on the masks (worse with 3 of 5 sets)"


@pytest.mark.parametrize(
    ("verdicts", "says"),
    [
        (
            {"accuracy": "better", "nll": "better", "aurc": "better"},
            "is better than the plain prediction in accuracy, NLL and AURC. Use it if this gain "
            "is worth the time of its many predictions to you.",
        ),
        (
            {"accuracy": "worse", "nll": "worse"},
            "is worse than the plain prediction in accuracy and NLL. Use the plain prediction, "
            "unless you need MC Dropout's uncertainties.",
        ),
        (
            {"accuracy": "worse", "nll": "better", "brier_score": "better", "aurc": NONE},
            "is better than the plain prediction in NLL and Brier score; it is worse than the "
            "plain prediction in accuracy; it shows no detectable difference in AURC. Use it if "
            "its gain in NLL and Brier score matters more to you than its loss in accuracy.",
        ),
        (
            {"accuracy": NONE, "nll": NONE},
            "shows no detectable difference in accuracy and NLL. Nothing shows that it is better: "
            "use it only if you need its uncertainties.",
        ),
        (
            {"accuracy": MASKS},
            "was compared with the plain prediction. In accuracy the verdict depends on the masks "
            "that are drawn. Nothing shows that it is better: "
            "use it only if you need its uncertainties. Where it depends on the masks, more "
            "passes (uncertainty.n_samples) may decide.",
        ),
        (
            {"accuracy": "better", "squared_calibration_error": MASKS},
            "is better than the plain prediction in accuracy. In calibration error (squared, "
            "debiased) the verdict depends on the masks that are drawn. Use it if this gain is "
            "worth the time of its many predictions to you. Where it depends on the masks, more "
            "passes (uncertainty.n_samples) may decide.",
        ),
    ],
)
def test_the_sentence_says_what_was_found_and_what_follows(verdicts, says):
    assert sentence(verdicts, 1200) == START + says


def test_the_head_names_the_interval_of_the_level(evaluated):
    head = settings(level=0.1).examine(evaluated).table[0]
    assert [name for name in head if re.search("interval", name)] == ["90% interval"]
