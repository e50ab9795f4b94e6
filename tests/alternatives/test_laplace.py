"""The Laplace approximation of a last layer, against formulas and finite differences."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers

from hpsearch.alternatives import laplace
from hpsearch.alternatives.laplace import (
    PRECISIONS,
    Full,
    Kronecker,
    Laplace,
    curvature_of,
    prior_precision,
    probabilities,
)
from hpsearch.alternatives.last_layer import LastLayer
from hpsearch.data.split import Examples
from hpsearch.errors import ModelError
from hpsearch.mc_dropout.plain import PlainModel
from hpsearch.mc_dropout.prediction import McDropout

SETTINGS = McDropout(
    n_samples=50, shared_masks=False, seed=0, batch_size=16, memory_mb=64, from_logits=False
)
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(40, 3)).astype(np.float32)
TRAIN = Examples(INPUTS, (np.arange(40) % 4).astype(np.int32))


def net(*last, seed=0, width=5):
    """Return a net of 3 inputs whose last layers are given."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((3,))
    x = layers.Dropout(0.5)(layers.Dense(width, "tanh")(inputs))
    for layer in last:
        x = layer(x)
    return keras.Model(inputs, x)


class Linear:
    """A last layer whose inputs are its features."""

    def __init__(self, kernel, bias=None):
        self.kernel = np.asarray(kernel, float)
        self.bias = None if bias is None else np.asarray(bias, float)

    logits = LastLayer.logits
    parameters = LastLayer.parameters

    def features(self, inputs):
        yield inputs[:10]
        yield inputs[10:]


def cost(theta, layer, features, labels):
    """Return the sum of the cross-entropies with other weights of the layer, (C x (D + 1),)."""
    n_features, n_classes = layer.kernel.shape
    weights = theta.reshape(n_classes, n_features + 1)
    probs = probabilities(features @ weights[:, :-1].T + weights[:, -1])
    return -np.log(probs[np.arange(len(labels)), labels]).sum()


def test_the_full_matrix_is_the_hessian_of_the_cross_entropy():
    features = RNG.normal(size=(25, 2))
    labels = RNG.integers(0, 3, 25)
    layer = Linear(RNG.normal(size=(2, 3)), RNG.normal(size=3))
    theta = np.concatenate([layer.kernel.T, layer.bias[:, None]], axis=1).ravel()
    step, size = 1e-4, len(theta)
    hessian = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            total = 0.0
            for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
                moved = theta.copy()
                moved[i] += a * step
                moved[j] += b * step
                total += a * b * cost(moved, layer, features, labels)
            hessian[i, j] = total / (4 * step**2)
    found = Full.of(layer, features)
    vectors = found.eigenvectors.reshape(size, size)
    np.testing.assert_allclose((vectors * found.eigenvalues) @ vectors.T, hessian, atol=1e-5)
    x = RNG.normal(size=(4, 2))
    jacobians = np.stack([np.kron(np.eye(3), np.append(row, 1.0)) for row in x])
    covariance = np.linalg.inv(hessian + 0.7 * np.eye(size))
    expected = jacobians @ covariance @ jacobians.transpose(0, 2, 1)
    np.testing.assert_allclose(found.posterior(0.7)(x), expected, atol=1e-5)


def test_one_weight_by_hand():
    # z = 2 x for x = 1 and -1: p (1 - p) = 0.104994 for both, so H = 0.209987
    layer = Linear([[2.0]])
    features = np.array([[1.0], [-1.0]])
    for kind in (Full, Kronecker):
        found = kind.of(layer, features)
        assert found.eigenvalues == pytest.approx([0.2099872])
        assert found.posterior(0.5)(np.array([[3.0]]))[0, 0, 0] == pytest.approx(9 / 0.7099872)


def test_kronecker_factors_of_one_example_without_bias_are_its_matrix():
    layer = Linear(RNG.normal(size=(3, 4)))
    features = RNG.normal(size=(1, 3))
    x = RNG.normal(size=(5, 3))
    full, kronecker = Full.of(layer, features), Kronecker.of(layer, features)
    np.testing.assert_allclose(full.posterior(0.3)(x), kronecker.posterior(0.3)(x), atol=1e-9)
    np.testing.assert_allclose(
        np.sort(full.eigenvalues), np.sort(kronecker.eigenvalues), atol=1e-12
    )


def test_a_bias_has_a_kronecker_factor_of_its_own():
    layer = Linear(RNG.normal(size=(2, 3)), np.zeros(3))
    features = RNG.normal(size=(30, 2))
    found = Kronecker.of(layer, features)
    at_zero = found.posterior(0.4)(np.zeros((1, 2)))[0]
    p = probabilities(layer.logits(features))
    of_logits = sum(np.diag(row) - np.outer(row, row) for row in p)
    np.testing.assert_allclose(at_zero, np.linalg.inv(of_logits + 0.4 * np.eye(3)))
    assert len(found.eigenvalues) == 9


def test_the_precision_of_the_prior_maximizes_the_marginal_likelihood():
    eigenvalues, theta = np.array([5.0, 1.0, 0.2, 0.0]), np.array([1.0, -0.5, 0.3, 0.2])
    found = prior_precision(eigenvalues, theta)
    # where its derivative is 0: precision * |theta|^2 = sum of l / (l + precision)
    assert found * (theta @ theta) == pytest.approx(
        (eigenvalues / (eigenvalues + found)).sum(), rel=1e-5
    )
    assert prior_precision(eigenvalues, np.zeros(4)) == pytest.approx(PRECISIONS[1], rel=1e-3)


@pytest.mark.slow
def test_predictions_are_the_integral_over_the_logits():
    model = net(layers.Dense(1, "sigmoid"))
    settings = replace(SETTINGS, n_samples=40_000, memory_mb=2000)
    found = Laplace(model, settings, TRAIN)
    features = np.concatenate(list(found.layer.features(INPUTS[:6])))
    z = found.layer.logits(features)[:, 0]
    spread = np.sqrt(found.curvature.posterior(found.precision)(features)[:, 0, 0])
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    expected = (weights / (1 + np.exp(-(z[:, None] + spread[:, None] * nodes)))).sum(axis=1)
    expected /= weights.sum()
    probs = found.predict(INPUTS[:6])
    np.testing.assert_allclose(probs[:, 1], expected, atol=0.006)  # 4 standard errors of the draws
    np.testing.assert_allclose(probs.sum(axis=1), 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("last", "from_logits"),
    [
        ([layers.Dense(4, "softmax")], False),
        ([layers.Dense(4), layers.Softmax()], False),
        ([layers.Dense(4, use_bias=False), layers.Activation("softmax")], False),
        ([layers.Dense(4)], True),
        ([layers.Dense(1)], True),
        ([layers.Dense(1, "sigmoid")], False),
        ([layers.Dense(4, "softmax", dtype="mixed_bfloat16")], False),
    ],
)
def test_last_layers_that_are_linear(last, from_logits):
    model = net(*last)
    before = model.get_weights()
    settings = replace(SETTINGS, from_logits=from_logits)
    found = Laplace(model, settings, TRAIN)
    probs = found.predict(INPUTS)
    assert probs.shape == PlainModel(model, settings).predict(INPUTS).shape
    np.testing.assert_array_equal(probs, found.predict(INPUTS))
    assert np.abs(probs - found.predict(INPUTS, seed=1)).max() > 0
    in_small_calls = Laplace(model, replace(settings, memory_mb=0.01, batch_size=7), TRAIN)
    np.testing.assert_allclose(in_small_calls.predict(INPUTS), probs, atol=2e-6)
    for mine, others in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, others)


@pytest.mark.slow
def test_a_subclassed_model_has_a_last_layer():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden, self.head = layers.Dense(6, "relu"), layers.Dense(4, "softmax")

        def call(self, inputs):
            return self.head(self.hidden(inputs))

    model = Own()
    model(INPUTS[:1])
    found = LastLayer(model, SETTINGS, INPUTS)
    (features, *_) = found.features(INPUTS)
    assert features.shape == (16, 6)
    np.testing.assert_allclose(
        probabilities(found.logits(features)),
        PlainModel(model, SETTINGS).predict(INPUTS)[:16],
        atol=1e-6,
    )


class Twice(layers.Layer):
    def __init__(self):
        super().__init__()
        self.inner = layers.Dense(4)

    def call(self, inputs):
        return keras.ops.softmax(self.inner(self.inner(inputs)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("last", "says"),
    [
        ([layers.Dense(4, "relu"), layers.Softmax()], "layer dense"),
        ([Twice()], "without such a layer|layer dense"),
    ],
)
def test_other_last_layers_are_refused(last, says):
    width = 4
    with pytest.raises(ModelError, match=says) as raised:
        Laplace(net(*last, width=width), SETTINGS, TRAIN)
    assert "give uncertainty.methods without laplace" in str(raised.value)


def test_a_model_without_a_dense_layer_is_refused():
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, layers.Softmax()(layers.GlobalAveragePooling1D()(inputs)))
    examples = Examples(RNG.normal(size=(9, 3, 4)).astype(np.float32), np.zeros(9, np.int32))
    with pytest.raises(ModelError, match="without such a layer"):
        Laplace(model, SETTINGS, examples)


def test_large_layers_have_kronecker_factors_and_larger_ones_are_refused(monkeypatch):
    monkeypatch.setattr(laplace, "LARGEST_FULL", 30)
    layer = Linear(np.zeros((9, 3)), np.zeros(3))
    assert isinstance(curvature_of(layer, np.zeros((12, 9))), Full)
    layer = Linear(np.zeros((10, 3)), np.zeros(3))
    assert isinstance(curvature_of(layer, np.zeros((12, 10))), Kronecker)
    for shape in ((6001, 2), (2, 6001)):
        says = f"received one of {shape[0]:,} inputs and {shape[1]:,} outputs"
        with pytest.raises(ModelError, match=says):
            curvature_of(Linear(np.zeros(shape)), np.zeros((1, shape[0])))


def test_the_memory_does_not_grow_with_the_square_of_the_classes():
    n_examples, n_classes = 500, 120  # C x C numbers for each example would take 58 MB
    layer = Linear(RNG.normal(size=(20, n_classes)))
    features = RNG.normal(size=(n_examples, 20))
    layer.features = lambda inputs: iter([inputs])
    tracemalloc.start()
    found = curvature_of(layer, features)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(found, Kronecker)
    assert peak < 15e6


def test_a_covariance_of_zero_leaves_the_logits_as_they_are():
    layer = Linear(RNG.normal(size=(2, 3)))
    zeros = np.zeros((2, 2))
    covariances = Full.of(layer, RNG.normal(size=(25, 2))).posterior(1.0)(zeros)
    np.testing.assert_array_equal(covariances, 0)
    assert np.abs(laplace._roots(covariances)).max() < 1e-150


def test_features_that_are_not_finite_are_refused():
    inputs = keras.Input((3,))
    x = layers.Activation(keras.ops.log)(inputs)
    model = keras.Model(inputs, layers.Dense(4, "softmax")(x))
    many = np.ones((300, 3), np.float32)
    many[250] = 0  # beyond the examples on which the layer is tried
    with pytest.raises(ModelError, match="needs finite inputs of the last layer dense"):
        Laplace(model, SETTINGS, Examples(many, np.zeros(300, np.int32)))


class ByKeyword(layers.Layer):
    def __init__(self):
        super().__init__()
        self.inner = layers.Dense(4, "softmax")

    def call(self, inputs):
        return self.inner(inputs=inputs)


def test_a_layer_may_be_called_by_keyword():
    found = LastLayer(net(ByKeyword()), SETTINGS, INPUTS)
    assert found.kernel.shape == (5, 4)


def test_how_it_was_made_is_told():
    found = Laplace(net(layers.Dense(4, "softmax")), SETTINGS, TRAIN)
    assert "The 24 weights of the last layer are Gaussian" in found.how
    assert "of 40 training examples" in found.how
    assert found.made_in_s > 0
