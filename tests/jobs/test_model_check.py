"""A mistake in a person's model is one sentence before a study or a run is made."""

import io
import os
import re
from contextlib import chdir
from unittest import mock

import keras
import keras_tuner
import numpy as np
import pytest
from keras import layers
from rich.console import Console

import hpsearch
from hpsearch.data.split import Examples
from hpsearch.errors import ModelError
from hpsearch.jobs.model_check import _some

SPARSE = "sparse_categorical_crossentropy"
RNG = np.random.default_rng(0)
Y = np.tile(np.arange(3), 40).astype("int32")
X = (RNG.normal(size=(120, 4)) + Y[:, None]).astype("float32")


def net(*last, n_inputs=4):
    end = last or (layers.Dense(3, "softmax"),)
    hidden = layers.Dense(8, "relu")
    return keras.Sequential([keras.Input((n_inputs,)), hidden, layers.Dropout(0.2), *end])


def compiled(model, *given, hp=None, **named):
    rate = 0.05
    if hp is not None:
        rate = hp.Float("learning_rate", 0.01, 0.1, sampling="log")
    model.compile(keras.optimizers.SGD(rate), *(given or (SPARSE,)), **named)
    return model


def numpy_metric(labels, probs):
    return np.mean(np.argmax(probs, axis=1) == labels)


class TrainsAlone(keras_tuner.HyperModel):
    """A HyperModel with a `fit` that forgets its callbacks."""

    def build(self, hp):
        return compiled(net(), hp=hp)

    def fit(self, hp, model, x, y, **given):
        return model.fit(x, y, verbose=0)


class Mistyped(TrainsAlone):
    def fit(self, hp, model, *data, **given):
        return model.fit(*data, **given, batchsize=3)


class NeedsMany(TrainsAlone):
    """A HyperModel with a `fit` that is made for the data of the search."""

    def fit(self, hp, model, x, y, **given):
        fewest = 70
        if len(x) < fewest:
            raise ValueError("too few examples")
        return model.fit(x, y, **given)


@keras.saving.register_keras_serializable("model_check")
class OnlyInTraining(layers.Layer):
    def call(self, inputs, training=False):
        if training:
            raise ValueError("there is no mask")
        return inputs


def raises(hp):
    sizes = {"narrow": 8}
    return net(layers.Dense(sizes["wide"]))


MISTAKES = {
    "raises": (raises, r"cannot be built: KeyError: 'wide' \(.*line \d+: return net\(.*\"wide\""),
    "wrong outputs": (
        lambda hp: compiled(net(layers.Dense(5, "softmax")), hp=hp),
        r"each of the 3 classes, \(N, 3\); received outputs \(N, 5\)\.",
    ),
    "wrong inputs": (
        lambda hp: compiled(net(n_inputs=7), hp=hp),
        r"cannot be trained on inputs of shape \(N, 4\): ValueError: .*expected",
    ),
    "a dictionary": (
        lambda hp: compiled(
            keras.Model(
                (inputs := keras.Input((4,))), {"y": layers.Dense(3, "softmax", name="y")(inputs)}
            ),
            {"y": SPARSE},
            hp=hp,
        ),
        "received a dict of outputs",
    ),
    "squared error": (
        lambda hp: compiled(net(), "mean_squared_error", hp=hp),
        r"Expected one-hot rows \(N, C\) for a model with the loss mean_squared_error",
    ),
    "metrics as loss weights": (
        lambda hp: compiled(net(), SPARSE, ["accuracy", "auc"], hp=hp),
        r"third argument of model\.compile; received \['accuracy', 'auc'\]",
    ),
    "probabilities as logits": (
        lambda hp: compiled(
            net(), keras.losses.SparseCategoricalCrossentropy(from_logits=True), hp=hp
        ),
        "leave out from_logits=True, or the softmax",
    ),
    "logits": (
        lambda hp: compiled(net(layers.Dense(3)), hp=hp),
        "compile it with a loss of from_logits=True",
    ),
    "one probability": (
        lambda hp: compiled(net(layers.Dense(1, "sigmoid")), "binary_crossentropy", hp=hp),
        r"received outputs \(N, 1\), which tell two classes apart",
    ),
    "a metric of NumPy": (
        lambda hp: compiled(net(), SPARSE, metrics=[numpy_metric], hp=hp),
        r"cannot be trained.*line \d+: return np\.mean",
    ),
    "a layer that fails in training": (
        lambda hp: compiled(net(OnlyInTraining(), layers.Dense(3, "softmax")), hp=hp),
        r"there is no mask .*line \d+: raise ValueError",
    ),
    "a fit without callbacks": (TrainsAlone, "has not told its callbacks that an epoch ended"),
    "a fit that raises": (Mistyped, r"batchsize.*line \d+: return model\.fit"),
    "not compiled": (lambda hp: net(), "whose compile was not called"),
    "no model": (lambda hp: hp, "received _Drawn"),
}


@pytest.fixture
def store(workplace):
    """A folder with MLflow's tables."""
    uri = f"sqlite:///{workplace.folder}/mlflow.db"
    with mock.patch.dict(os.environ, {"MLFLOW_TRACKING_URI": uri}), chdir(workplace.folder):
        yield


def search(build, **settings):
    console = Console(file=io.StringIO(), width=200)
    few = {"n_trials": 2, "epochs": 1, "console": console, "study_name": "mine", **settings}
    result = hpsearch.search(build, X, Y, **few)
    return result, console.file.getvalue()


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_model_is_one_sentence_and_leaves_nothing(name, tmp_path, monkeypatch):
    if name == "a metric of NumPy" and keras.backend.backend() != "tensorflow":
        pytest.skip("JAX computes metrics outside its programs")
    monkeypatch.chdir(tmp_path)
    build, said = MISTAKES[name]
    with pytest.raises(ModelError, match=said) as caught:
        search(build)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_fit_that_needs_more_than_a_few_examples_is_searched(store):
    result, _ = search(NeedsMany, n_trials=1)
    assert result.best.number == 0


def test_the_few_examples_of_a_check_have_all_classes_in_whatever_order_they_are():
    labels = np.repeat(np.arange(10), 30)
    for targets in (labels, RNG.permutation(labels)):
        some = _some(Examples(targets[:, None], targets), 32)
        assert len(some) == 32
        assert np.bincount(some.targets).min() == 3
        assert some.inputs[:, 0].tolist() == some.targets.tolist()
    assert len(_some(Examples(labels, labels), 500)) == 300


@pytest.mark.slow
def test_a_model_that_fails_for_some_hyperparameters_only_is_searched(store):
    def build(hp):
        if hp.Boolean("broken"):
            raise RuntimeError("these layers do not fit")
        return compiled(net(), hp=hp)

    result, said = search(build, n_trials=3, config={"budget.max_failures": 20})
    assert "A model of broken=True does not work, so trials of such models will fail" in said
    failed = [line for line in said.splitlines() if "failed" in line]
    assert "RuntimeError: these layers do not fit" in failed[0]
    *others, last = failed[1:]
    assert all(line.endswith("failed like trial 0") for line in others)
    assert re.match(r"\d+ trials failed: RuntimeError: these layers do not fit", last)
    trials = result.trials()
    assert trials[trials["end"] == "finished"]["broken"].tolist() == [False] * 3


@pytest.mark.slow
def test_logits_are_known_by_the_loss_and_become_probabilities(store):
    def build(hp):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return compiled(net(layers.Dense(3)), loss, hp=hp)

    result, _ = search(build, test_data=(X, Y), config={"uncertainty.n_samples": 3})
    assert 0 < result.evaluation.plain["nll"] < np.log(3) + 0.5
    again = result.evaluate(config={"uncertainty.n_samples": 3})
    plain = again.metrics()["test/plain/nll"]
    assert plain == pytest.approx(result.evaluation.plain["nll"], rel=1e-4)
