"""SWAG draws the models that its formula says, and predicts with them as a plain loop does."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from hpsearch.alternatives import batch_statistics
from hpsearch.alternatives.method import Alternative
from hpsearch.alternatives.settings import Uncertainty
from hpsearch.alternatives.swag import Swag
from hpsearch.data.split import Examples
from hpsearch.errors import ModelError
from hpsearch.metrics import Floats
from hpsearch.models.moments import Arrays, Moments


def settings(**changed: Any) -> Uncertainty:
    given: dict[str, Any] = {
        "n_samples": 10,
        "shared_masks": False,
        "seed": 3,
        "batch_size": 16,
        "memory_mb": 256,
        "from_logits": False,
        "methods": ["swag"],
        "swag_samples": 4,
        "ensemble_seeds": 2,
    }
    return Uncertainty(**given | changed)


def moments_of(model: keras.Model, n_snapshots: int = 5, spread: float = 0.1) -> Moments:
    """Return moments of snapshots that lie around the weights of a model."""
    rng = np.random.default_rng(0)
    snapshots: list[Arrays] = []
    for _ in range(n_snapshots):
        weights = [np.array(v) for v in model.trainable_variables]
        snapshots.append([w + spread * rng.standard_normal(w.shape, w.dtype) for w in weights])
    return Moments.of(snapshots, model)


def dense_net() -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(5, "tanh"),
            layers.Dropout(0.5),
            layers.Dense(4, "softmax"),
        ]
    )


def normalized_net(**of_layer: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(5),
            layers.BatchNormalization(**of_layer),
            layers.Activation("relu"),
            layers.Dense(4),
            layers.BatchNormalization(momentum=0.5),
            layers.Softmax(),
        ]
    )


def inputs(n: int = 20, seed: int = 5) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(2.0, 3.0, (n, 3)).astype(np.float32)


def examples(n: int = 64) -> Examples:
    return Examples(inputs(n, seed=6), np.zeros(n, np.int32))


def softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def test_a_loop_in_numpy_gives_the_same_prediction() -> None:
    model = dense_net()
    swag: Alternative = Swag(model, moments_of(model), settings(), None)
    assert isinstance(swag, Swag)
    total = np.zeros((20, 4))
    for i in range(4):
        kernel, bias, out_kernel, out_bias = swag.weights(i, 3)
        total += softmax(np.tanh(inputs() @ kernel + bias) @ out_kernel + out_bias)
    np.testing.assert_allclose(swag.predict(inputs()), total / 4, rtol=1e-4, atol=1e-6)


def test_the_drawn_weights_have_the_covariance_of_the_formula() -> None:
    """Half the diagonal of the variances, half the covariance of the snapshots."""
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    moments = moments_of(model, n_snapshots=4, spread=1.0)
    swag = Swag(model, moments, settings(), None)
    drawn = np.array([np.concatenate([w.ravel() for w in swag.weights(i, 0)]) for i in range(8000)])
    together = np.concatenate([d.reshape(4, -1) for d in moments.deviations], axis=1)
    variance = np.concatenate([v.ravel() for v in moments.variance])
    expected = np.diag(variance) / 2 + together.T @ together / (2 * 3)
    size = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_array_less(np.abs(np.cov(drawn.T) - expected) / size, 0.06)
    mean = np.concatenate([m.ravel() for m in moments.mean])
    np.testing.assert_array_less(np.abs(drawn.mean(axis=0) - mean) / np.diag(size) ** 0.5, 0.06)
    # The logit of an input is linear in the weights, so its moments follow.
    x = np.array([1.5, -2.0, 1.0])
    logits = drawn @ x
    assert logits.mean() == pytest.approx(mean @ x, abs=0.06 * (x @ expected @ x) ** 0.5)
    assert logits.var() == pytest.approx(x @ expected @ x, rel=0.06)


def test_same_seed_same_numbers_whatever_the_batch_size() -> None:
    model = dense_net()
    moments = moments_of(model)
    first = Swag(model, moments, settings(), None).predict(inputs())
    again = Swag(model, moments, settings(batch_size=7), None).predict(inputs())
    np.testing.assert_allclose(first, again, rtol=1e-6, atol=1e-7)
    other = Swag(model, moments, settings(), None).predict(inputs(), seed=4)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize("net", [dense_net, normalized_net])
def test_the_model_stays_as_it_was(net: Any) -> None:
    model = net()
    before = [np.array(v) for v in model.variables]
    Swag(model, moments_of(model), settings(swag_samples=1), examples()).predict(inputs())
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(np.array(variable), value)


def test_statistics_of_batch_normalization_are_those_of_a_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over batches of 32 of which each layer computes mean and variance, as in training."""
    monkeypatch.setattr(batch_statistics, "_PER_BATCH", 32)
    model = normalized_net()
    train = examples(96)
    swag = Swag(model, moments_of(model), settings(), train)
    assert "anew for each of them from 96 training examples" in swag.how
    trainable, others = swag._values(0, 3)
    sums = [np.zeros(5), np.zeros(5), np.zeros(4), np.zeros(4)]
    kernel, bias, gamma, beta, out_kernel, out_bias, *_ = map(np.array, trainable)
    epsilon = model.layers[1].epsilon
    for batch in swag._statistics._batches:
        assert len(batch) == 32
        hidden = batch @ kernel + bias
        mean, variance = hidden.mean(axis=0), hidden.var(axis=0)
        scaled = gamma * (hidden - mean) / np.sqrt(variance + epsilon) + beta
        out = np.maximum(scaled, 0) @ out_kernel + out_bias
        for i, value in enumerate((mean, variance, out.mean(axis=0), out.var(axis=0))):
            sums[i] += value
    expected = [total / 3 for total in sums]
    for value, own in zip(others, expected, strict=True):
        np.testing.assert_allclose(np.array(value), own, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_model_with_the_drawn_values_predicts_the_same() -> None:
    model, drawn = normalized_net(), normalized_net()
    swag = Swag(model, moments_of(model), settings(swag_samples=1), examples())
    trainable, others = swag._values(0, 3)
    for variable, value in zip(
        [*drawn.trainable_variables, *drawn.non_trainable_variables],
        [*trainable, *others],
        strict=True,
    ):
        variable.assign(value)
    np.testing.assert_allclose(
        swag.predict(inputs()), np.array(drawn(inputs())), rtol=1e-4, atol=1e-6
    )


def test_a_layer_that_is_called_twice_has_the_mean_of_its_calls() -> None:
    image = keras.Input((3,))
    shared = layers.BatchNormalization(momentum=0.9, center=False, scale=False)
    twice = shared(layers.Dense(3)(shared(image)))
    model = keras.Model(image, layers.Softmax()(twice))
    train = examples()
    statistics = batch_statistics.BatchStatistics(model, train, 0)
    mean, _ = statistics.of([v.value for v in model.trainable_variables])
    (batch,) = statistics._batches
    first = batch.mean(axis=0)
    scaled = (batch - first) / np.sqrt(batch.var(axis=0) + shared.epsilon)
    second = (scaled @ np.array(model.layers[2].kernel)).mean(axis=0)
    np.testing.assert_allclose(np.array(mean), (0.9 * first + second) / 1.9, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("is_built", [True, False])
def test_normalization_that_is_never_called_changes_nothing(is_built: bool) -> None:
    class WithUnused(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.used = layers.BatchNormalization()
            self.unused = layers.BatchNormalization()
            self.last = layers.Dense(2, "softmax")

        def build(self, input_shape: Any) -> None:
            self.used.build(input_shape)
            self.last.build(input_shape)
            if is_built:
                self.unused.build(input_shape)

        def call(self, x: Any, training: bool = False) -> Any:
            return self.last(self.used(x, training=training))

    model = WithUnused()
    model(inputs()[:1])
    swag = Swag(model, moments_of(model), settings(swag_samples=1), examples())
    _, others = swag._values(0, 0)
    assert all(np.isfinite(np.array(value)).all() for value in others)
    assert np.isfinite(swag.predict(inputs())).all()


def test_frozen_normalization_keeps_its_statistics() -> None:
    model = normalized_net(momentum=1.0)
    model.layers[4].trainable = False
    swag = Swag(model, moments_of(model), settings(), None)  # no examples are needed
    _, others = swag._values(0, 0)
    for value, variable in zip(others, model.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(np.array(value), np.array(variable))


def test_normalization_without_examples_is_refused() -> None:
    model = normalized_net()
    with pytest.raises(ModelError, match="Expected training examples for a model with Batch"):
        Swag(model, moments_of(model), settings(), None)


class Remembering(layers.Layer):  # type: ignore[misc]
    """A layer that subtracts a moving mean of its own."""

    def build(self, input_shape: Any) -> None:
        self.seen = self.add_weight(shape=(input_shape[-1],), trainable=False, name="seen")

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.seen.assign(0.9 * self.seen + 0.1 * keras.ops.mean(x, axis=0))
        return x - self.seen


def test_statistics_of_another_kind_are_refused() -> None:
    model = keras.Sequential([keras.Input((3,)), Remembering(), layers.Dense(2, "softmax")])
    with pytest.raises(ModelError, match=r"SWAG cannot draw models with \S*seen, which training"):
        Swag(model, moments_of(model), settings(), examples())


def test_moments_of_another_model_are_refused() -> None:
    with pytest.raises(ModelError, match="they belong to another model"):
        Swag(normalized_net(), moments_of(dense_net()), settings(), examples())


def test_a_drawn_model_that_overflows_is_told_in_a_sentence() -> None:
    model = dense_net()
    wide = moments_of(model)
    for variance in wide.variance:
        variance[...] = np.inf
    with pytest.raises(
        ModelError, match=r"Model 1 of the 4 that SWAG has drawn gives no dist.*give"
    ):
        Swag(model, wide, settings(), None).predict(inputs())


def test_it_says_how_it_was_made() -> None:
    model = dense_net()
    swag = Swag(model, moments_of(model), settings(), None)
    assert swag.how == (
        "4 models are drawn from the moments of 5 snapshots of the weights; their centre is the "
        "mean of late epochs of the training, not the registered weights."
    )
    assert swag.is_random
    assert swag.needs == "moments that training.swag=true has collected"
