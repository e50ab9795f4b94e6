from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers

from hpsearch import metrics
from hpsearch.errors import ModelError
from hpsearch.uncertainty.evaluation import evaluate
from hpsearch.uncertainty.mc_dropout import McDropout

SETTINGS = McDropout(n_samples=20, mask="example", seed=0, batch_size=64, memory_mb=64, from_logits=False)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 4, 1))
    x = layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
    x = layers.Dropout(0.3)(layers.Dense(16, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


@pytest.fixture(scope="module")
def test_examples():
    rng = np.random.default_rng(0)
    return SimpleNamespace(
        images=rng.integers(0, 256, (90, 4, 4, 1)).astype(np.uint8), labels=rng.integers(0, 3, 90).astype(np.int64)
    )


def test_both_arms_are_measured_on_the_same_weights(model, test_examples):
    found = evaluate(model, test_examples, settings=SETTINGS)
    plain = model.predict(test_examples.images, verbose=0)
    assert found.plain["nll"] == pytest.approx(metrics.nll(plain, test_examples.labels))
    assert found.mc["nll"] == pytest.approx(metrics.nll(found.mc_prediction.probs, test_examples.labels))
    assert found.mc["mutual_information"] == pytest.approx(
        found.mc["predictive_entropy"] - found.mc["expected_entropy"], abs=1e-6
    )
    assert found.certificate.failures == []


def test_metrics_go_by_their_mlflow_keys(model, test_examples):
    found = evaluate(model, test_examples, settings=SETTINGS)
    keys = found.metrics()
    assert keys["test/plain/accuracy"] == found.plain["accuracy"]
    assert keys["test/mc/mutual_information"] == found.mc["mutual_information"]


def test_the_table_has_a_row_a_measure(model, test_examples):
    rows = evaluate(model, test_examples, settings=SETTINGS).rows()
    assert rows[0] == ("measure", "plain", "MC Dropout (S = 20)", "difference")
    assert rows[1][0] == "accuracy"
    assert [row[0] for row in rows][-1] == "variation_ratio"
    assert rows[-1][1] == ""


def test_the_same_seed_evaluates_the_same(model, test_examples):
    first, second = (evaluate(model, test_examples, settings=SETTINGS).metrics() for _ in range(2))
    assert first == second


def test_a_model_without_dropout_cannot_be_evaluated(test_examples):
    inputs = keras.Input((4, 4, 1))
    with pytest.raises(ModelError, match="no dropout layer"):
        evaluate(
            keras.Model(inputs, layers.Dense(3, "softmax")(layers.Flatten()(inputs))), test_examples, settings=SETTINGS
        )
