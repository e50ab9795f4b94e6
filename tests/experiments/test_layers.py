"""Tests of the measures of hidden layers: ranks, gradients, dead units and self-normalization."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from hpsearch.experiments.layers import gradients, inspect_layers
from hpsearch.models.initializers import OneDraw, Small

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(400, 8, 8, 1)).astype("float32")  # standardized
LABELS = RNG.integers(0, 3, 400).astype("int32")


def net(activation, initializer, *, n_hidden=20, n_units=100, rate=0.0, output="glorot_uniform"):
    keras.utils.set_random_seed(1)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten()]
    for _ in range(n_hidden):
        layers += [
            keras.layers.Dense(n_units, kernel_initializer=initializer),
            keras.layers.Activation(activation),
            keras.layers.Dropout(rate),
        ]
    model = keras.Sequential([*layers, keras.layers.Dense(3, "softmax", kernel_initializer=output)])
    model.compile(keras.optimizers.Nadam(1e-3), "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("activation", ["elu", pytest.param("tanh", marks=pytest.mark.slow)])
def test_one_value_for_all_weights_leaves_every_hidden_layer_at_rank_1_after_training(activation):
    one = OneDraw("he_normal")
    model = net(activation, one, n_hidden=4, n_units=20, output=one)
    before = model.get_weights()
    model.fit(IMAGES, LABELS, epochs=3, verbose=0)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(before, model.get_weights(), strict=True))
    assert inspect_layers(model, IMAGES, LABELS)["rank"] == [1.0] * 4


def test_random_weights_have_as_many_units_as_they_are_wide():
    measured = inspect_layers(net("elu", "he_normal", n_hidden=3, n_units=20), IMAGES, LABELS)
    assert measured["rank"] == [20.0] * 3
    assert measured["distinct"] == [20.0] * 3


def test_selu_keeps_mean_and_deviation_through_20_layers():
    measured = inspect_layers(net("selu", "lecun_normal"), IMAGES, LABELS)
    assert np.abs(measured["mean"]).max() < 0.1
    assert min(measured["std"]) > 0.9
    assert max(measured["std"]) < 1.1


@pytest.mark.parametrize(
    ("activation", "initializer", "images"),
    [
        pytest.param("relu", "he_normal", IMAGES, marks=pytest.mark.slow),
        ("selu", "he_normal", IMAGES),  # not LeCun's initialization
        pytest.param("elu", "lecun_normal", IMAGES, marks=pytest.mark.slow),  # not SELU
        ("selu", "lecun_normal", 0.1 * IMAGES + 0.5),  # not standardized
    ],
)
def test_mean_or_deviation_leaves_that_range_without_one_of_the_three_conditions(
    activation, initializer, images
):
    measured = inspect_layers(net(activation, initializer), images, LABELS)
    inside = (
        np.abs(measured["mean"]).max() < 0.1
        and min(measured["std"]) > 0.9
        and max(measured["std"]) < 1.1
    )
    assert not inside


def test_inspecting_a_model_changes_none_of_its_variables():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(5),
            keras.layers.BatchNormalization(),
            keras.layers.Activation("relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3, "softmax"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = [np.array(v) for v in model.variables]
    inspect_layers(model, IMAGES, LABELS)
    for was, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(was, np.array(variable))


def test_gradients_are_those_of_softmax_regression():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = RNG.normal(size=(10, 4)).astype("float32")
    labels = RNG.integers(0, 3, 10)
    expected = x.T @ (model.predict(x, verbose=0) - np.eye(3)[labels]) / 10
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    found = gradients(twin, model, x, labels)
    np.testing.assert_allclose(found[0], expected, atol=1e-6)


def test_a_relu_with_a_large_negative_bias_is_dead():
    model = net("relu", "he_normal", n_hidden=1, n_units=4)
    kernel, bias = model.layers[1].get_weights()
    bias[:3] = -1000.0
    model.layers[1].set_weights([kernel, bias])
    measured = inspect_layers(model, IMAGES, LABELS)
    assert measured["dead"] == [0.75]
    assert measured["distinct"] == [2.0]


@pytest.mark.parametrize(
    ("columns", "n_independent", "n_different"),
    [
        ([[0, 0], [0, 0]], 0, 1),
        ([[1, 1], [2, 2]], 1, 1),
        ([[1, 2], [2, 4]], 1, 2),
        ([[1, 0], [0, 1]], 2, 2),
    ],
)
def test_rank_counts_independent_units_and_distinct_different_ones(
    columns, n_independent, n_different
):
    layers = [
        keras.Input((2,)),
        keras.layers.Activation("linear"),
        keras.layers.Dense(2, "softmax"),
    ]
    model = keras.Sequential(layers)
    model.compile("sgd", "sparse_categorical_crossentropy")
    measured = inspect_layers(model, np.array(columns, "float32"), np.zeros(2, "int32"))
    assert measured["rank"] == [n_independent]
    assert measured["distinct"] == [n_different]


def test_a_shared_initializer_draws_anew_for_each_layer():
    keras.utils.set_random_seed(0)
    small, one = Small(0.01), OneDraw("he_normal")
    assert not np.allclose(small((5,)), small((5,)))
    first, second = np.array(one((4, 3))), np.array(one((4, 3)))
    assert np.unique(first).size == np.unique(second).size == 1
    assert first[0, 0] != second[0, 0]
