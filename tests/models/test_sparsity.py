"""Test sparse layers, their masks and schedule, and that an exported net gives the same outputs."""

from __future__ import annotations

import functools

import keras
import keras_tuner
import numpy as np
import pytest

from hpsearch.data.split import Examples, SearchData
from hpsearch.data.statistics import measure
from hpsearch.errors import ConfigError, ModelError
from hpsearch.models.architecture import build_hypermodel
from hpsearch.models.dense import DenseNet
from hpsearch.models.sparse import (
    L1,
    GroupLasso,
    GroupLassoDense,
    Magnitude,
    MaskedDense,
    Weights,
    export,
)
from hpsearch.training.settings import Training
from hpsearch.training.trainer import Trainer

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 300).astype("int32")
IMAGES = (RNG.random((300, 5, 5, 1)) * 50 + 60 * LABELS[:, None, None, None]).astype("uint8")
DATA = SearchData(
    "toy",
    Examples(IMAGES[:200], LABELS[:200]),
    Examples(IMAGES[200:], LABELS[200:]),
    ("a", "b", "c"),
    "",
)
SETTINGS = Training(
    epochs=6,
    batch_size=20,
    patience_epochs=6,
    monitor="val/loss",
    averaging_epochs=1.0,
    steps_per_call=0,
    jit_compile=True,
    precision="float32",
)


def trained(sparsity, *, normalization="none", activation="elu", strength=None):
    """Return hypermodel, trained model and fit of a small net."""
    factory = functools.partial(
        DenseNet,
        n_hidden=2,
        n_units=12,
        activation=activation,
        kernel_initializer="he_normal",
        bias_initializer="zeros",
        output_initializer="glorot_uniform",
        normalization=normalization,
        standardize="pixel",
        dropout=keras.layers.Dropout,
        dropout_after="last",
    )
    optimizer = keras.optimizers.Nadam
    hypermodel = build_hypermodel(factory, measure(DATA.train.inputs, 3), optimizer, sparsity)
    keras.utils.set_random_seed(0)
    hp = keras_tuner.HyperParameters()
    hp.values.update({"learning_rate": 0.01, "momentum": 0.9, "dropout_rate": 0.1})
    if strength:
        hp.values["sparsity_strength"] = strength
    model = hypermodel.build(hp)
    fitted = Trainer(SETTINGS, DATA).fit(hypermodel, hp, model, 1, lambda *_: None)
    return hypermodel, model, fitted


def probs(model):
    return model.predict(IMAGES, verbose=0)


@pytest.mark.parametrize(
    ("epoch", "share"), [(0, 0.0), (2, 0.0), (4, 0.8 * (1 - 0.5**3)), (6, 0.8), (9, 0.8)]
)
def test_the_pruned_share_follows_a_cubic(epoch, share):
    settings = Magnitude(target=0.8, begin=0.2, end=0.6, scope="weight")
    assert settings.share_at(epoch, 10) == pytest.approx(share)


def test_masks_take_the_smallest_weights_or_units():
    kernel = np.array([[1.0, -2.0, 3.0], [4.0, 0.5, 0.1]])
    of_weights = Magnitude(0.9, 0.1, 0.6, "weight")
    np.testing.assert_array_equal(of_weights.mask(kernel, 0.5), [[0, 1, 1], [1, 0, 0]])
    of_units = Magnitude(0.9, 0.1, 0.6, "unit")
    np.testing.assert_array_equal(of_units.mask(kernel, 0.4), [[1, 0, 1], [1, 0, 1]])
    assert of_units.mask(kernel, 0.99).sum() == 2  # one unit always remains


@pytest.mark.parametrize(
    ("scope", "normalization"),
    [
        ("unit", "batch"),
        pytest.param("weight", "none", marks=pytest.mark.slow),
        *(
            pytest.param("unit", name, marks=pytest.mark.slow)
            for name in ("none", "batch_after", "layer")
        ),
    ],
)
def test_pruned_and_exported_nets_give_the_same_probabilities(scope, normalization):
    _, model, fitted = trained(Magnitude(0.5, 0.0, 0.5, scope), normalization=normalization)
    assert fitted.best_epoch > 3  # no epoch of the ramp is the best
    exported = export(model)
    np.testing.assert_allclose(probs(exported), probs(model), atol=2e-6)
    assert Weights.of(model).zero_shares[:2] == [0.5, 0.5]
    assert not any(isinstance(layer, MaskedDense) for layer in exported.layers)
    assert not any(np.signbit(weights[weights == 0]).any() for weights in exported.get_weights())
    smaller = exported.count_params() < model.count_params() - 25 * 12 - 12 * 12
    assert smaller == (scope == "unit" and normalization != "layer")


@pytest.mark.parametrize("activation", ["sigmoid", pytest.param("gelu", marks=pytest.mark.slow)])
def test_units_whose_constant_output_is_not_zero_are_folded_into_biases(activation):
    hypermodel, model, _ = trained(Magnitude(0.5, 0.0, 0.5, "unit"), activation=activation)
    exported = hypermodel.finished(model)
    assert [layer.units for layer in exported.layers if isinstance(layer, keras.layers.Dense)] == [
        6,
        6,
        3,
    ]
    np.testing.assert_allclose(probs(exported), probs(model), atol=2e-6)


@pytest.mark.slow
def test_l1_makes_more_zeros_where_it_is_stronger():
    shares = []
    for strength in (1e-6, 1e-2):
        hypermodel, model, _ = trained(L1(1e-7, 1e-1, threshold=0.1), strength=strength)
        exported = hypermodel.finished(model)
        np.testing.assert_allclose(probs(exported), probs(model), atol=2e-6)
        shares.append(1 - Weights.of(exported).n_used / Weights.of(model).n_all)
    assert shares[0] < 0.2
    assert shares[1] > shares[0] + 0.2


def test_group_lasso_makes_units_exactly_zero_and_the_exported_net_lacks_them():
    hypermodel, model, _ = trained(GroupLasso(1e-3, 1.0), strength=0.5)
    exported = hypermodel.finished(model)
    np.testing.assert_allclose(probs(exported), probs(model), atol=2e-6)
    assert Weights.of(exported).n_units < Weights.of(model).n_units


def test_a_proximal_step_shortens_each_unit_by_the_step_and_no_further_than_nothing():
    layer = GroupLassoDense(2, step=0.5, kernel_initializer="zeros")
    layer.build((None, 4))  # step 0.5 * sqrt(4) = 1
    shrunk = np.array(
        layer.kernel.constraint(
            np.array([[3.0, 0.3], [4.0, 0.4], [0.0, 0.0], [0.0, 0.0]], "float32")
        )
    )
    np.testing.assert_allclose(shrunk[:2], [[2.4, 0.0], [3.2, 0.0]], rtol=1e-6)


def test_mistakes_are_one_sentence_each():
    with pytest.raises(
        ConfigError,
        match=r"sparsity\.scope to be a known scope; received 'units'.*Did you mean 'unit'",
    ):
        Magnitude(0.9, 0.1, 0.6, "units")
    with pytest.raises(
        ConfigError, match=r"sparsity\.target to lie between 0 and 1; received 1\.0"
    ):
        Magnitude(1.0, 0.1, 0.6, "unit")
    with pytest.raises(
        ConfigError, match=r"sparsity\.begin <= sparsity\.end < 1; received 0\.7 and 0\.6"
    ):
        Magnitude(0.9, 0.7, 0.6, "unit")

    class Other(keras_tuner.HyperModel):
        def build(self, hp):
            raise NotImplementedError

    statistics = measure(DATA.train.inputs, 3)
    with pytest.raises(ModelError, match="Other knows no sparse layers"):
        build_hypermodel(
            functools.partial(Other), statistics, keras.optimizers.Adam, L1(1e-6, 1e-3, 0.1)
        )
