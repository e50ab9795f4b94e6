"""Test the architectures of conf and other HyperModels: their arguments, layers and settings."""

from __future__ import annotations

import functools

import keras
import keras_tuner
import numpy as np
import optuna
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate

from hpsearch.data.statistics import measure
from hpsearch.errors import ConfigError, ModelError, SpaceError
from hpsearch.models.architecture import Architecture, build_hypermodel
from hpsearch.models.loss_and_optimizer import labels_for, make_optimizer
from hpsearch.models.preprocessing import standardization
from hpsearch.space.hyperparameters import OptunaHyperParameters
from hpsearch.space.space import Space

optuna.logging.set_verbosity(optuna.logging.WARNING)

DENSE = [
    *("dense", "elu", "relu", "leaky_relu", "prelu", "tanh", "sigmoid", "gelu"),
    *("batch_norm", "selu", "alpha_dropout"),
]
SMALL_RESNET = ["version=v1", "conv3_depth=4", "conv4_depth=6", "pooling=avg", "optimizer=adam"]
ROOT = {"defaults": ["_self_", {"space": "dense"}, {"optimizer": "nadam"}, {"arch": "elu"}]}
ConfigStore.instance().store("scratch_root", ROOT)


@pytest.fixture(scope="module")
def conf(request):
    with initialize_config_dir(str(request.config.rootpath / "conf"), version_base="1.3"):
        yield lambda *overrides: compose("scratch_root", list(overrides))


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return (rng.random((50, 8, 8, 1)) * rng.integers(2, 17, (8, 8, 1))).astype("uint8")


@pytest.fixture(scope="module")
def statistics(images):
    return measure(images, n_classes=10)


@pytest.fixture
def build(conf, statistics):
    """Return a function that builds a model of conf with an Optuna trial."""

    def _build(*overrides, statistics=statistics):
        parts = instantiate(conf(*overrides))
        hp = OptunaHyperParameters(optuna.create_study().ask(), parts.space)
        return build_hypermodel(parts.arch, statistics, parts.optimizer).build(hp), hp, parts.space

    return _build


def layers_of(model, kind):
    return [layer for layer in model.layers if type(layer) is kind]


# --- every architecture, one path


@pytest.mark.parametrize("arch", [*DENSE, "cnn", "hyper_resnet"])
def test_every_architecture_is_built_through_one_path(build, arch):
    small = ["arch.n_hidden=3"] if arch in DENSE else []
    small += [f"space.bounds.{bound}" for bound in SMALL_RESNET] if arch == "hyper_resnet" else []
    model, hp, space = build(f"arch={arch}", *small)
    space.check_used(hp.asked)
    assert model.output_shape == (None, 10)
    assert model.input_shape == (None, 8, 8, 1)
    assert model.layers[-1].activation is keras.activations.softmax
    assert float(model.optimizer.learning_rate) == pytest.approx(hp.values["learning_rate"])
    assert labels_for(model) == ("onehot" if arch == "hyper_resnet" else "sparse")
    if arch != "hyper_resnet":
        assert set(hp.values) == {"learning_rate", "momentum", "dropout_rate"}
        assert model.optimizer.beta_1 == hp.values["momentum"]
        rates = [layer.rate for layer in model.layers if "dropout" in layer.name]
        assert rates
        assert set(rates) == {hp.values["dropout_rate"]}


def test_a_trial_gets_what_it_drew_and_what_is_fixed_is_not_drawn(conf, statistics):
    parts = instantiate(conf("arch=elu", "arch.n_hidden=2", "space.bounds.momentum=0.9"))
    trial = optuna.create_study().ask()
    hp = OptunaHyperParameters(trial, parts.space)
    model = build_hypermodel(parts.arch, statistics, parts.optimizer).build(hp)
    assert set(trial.params) == {"learning_rate", "dropout_rate"}
    assert parts.space.values(trial) == hp.values == {**trial.params, "momentum": 0.9}
    assert model.optimizer.beta_1 == 0.9


def test_the_hypermodel_alone_proposes_its_own_bounds(conf, statistics):
    parts = instantiate(conf("arch=elu", "arch.n_hidden=1"))
    hp = keras_tuner.HyperParameters()
    build_hypermodel(parts.arch, statistics, parts.optimizer).build(hp)
    proposed = {p.name: (p.min_value, p.max_value, p.sampling) for p in hp.space}
    assert proposed == {
        "dropout_rate": (0.0, 0.5, "linear"),
        "learning_rate": (1e-5, 1e-1, "log"),
        "momentum": (0.5, 0.999, "linear"),
    }


# --- structure


@pytest.mark.parametrize(
    ("arch", "made_of"),
    [
        ("elu", ("elu", "HeNormal", ["Dropout"])),
        ("relu", ("relu", "HeNormal", ["Dropout"])),
        ("leaky_relu", ("leaky_relu", "HeNormal", ["Dropout"])),
        ("tanh", ("tanh", "GlorotNormal", ["Dropout"])),
        ("sigmoid", ("sigmoid", "GlorotNormal", ["Dropout"])),
        ("gelu", ("gelu", "HeNormal", ["Dropout"])),
        ("batch_norm", ("elu", "HeNormal", ["Dropout"])),
        ("selu", ("selu", "LecunNormal", ["AlphaDropout"])),
        ("alpha_dropout", ("selu", "LecunNormal", ["AlphaDropout"] * 20)),
    ],
)
def test_dense_nets_are_made_of_what_their_names_say(build, arch, made_of):
    activation, initializer, dropouts = made_of
    model, _, _ = build(f"arch={arch}")
    hidden = layers_of(model, keras.layers.Dense)[:-1]
    assert [layer.units for layer in hidden] == [100] * 20
    assert {type(layer.kernel_initializer).__name__ for layer in hidden} == {initializer}
    activations = layers_of(model, keras.layers.Activation)
    assert [layer.activation for layer in activations] == [keras.activations.get(activation)] * 20
    assert [
        name for layer in model.layers if "Dropout" in (name := type(layer).__name__)
    ] == dropouts
    assert "dropout" in model.layers[-2].name


def test_prelu_learns_a_slope_in_each_layer(build):
    model, _, _ = build("arch=prelu", "arch.n_hidden=3")
    assert [layer.alpha.shape for layer in layers_of(model, keras.layers.PReLU)] == [(100,)] * 3


@pytest.mark.parametrize(
    ("overrides", "kinds"),
    [
        (["arch=batch_norm"], ["Dense", "BatchNormalization", "Activation"] * 2 + ["Dropout"]),
        (["arch=selu"], ["Dense", "Activation"] * 2 + ["AlphaDropout"]),
        (["arch=alpha_dropout"], ["Dense", "Activation", "AlphaDropout"] * 2),
    ],
)
def test_order_of_layers(build, overrides, kinds):
    model, _, _ = build(*overrides, "arch.n_hidden=2")
    assert [type(layer).__name__ for layer in model.layers] == [
        "Normalization",
        "Flatten",
        *kinds,
        "Dense",
    ]
    assert layers_of(model, keras.layers.Dense)[0].use_bias == ("BatchNormalization" not in kinds)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3), (5, 7, 2)])
def test_cnn_takes_images_of_any_size(build, shape):
    model, _, _ = build(
        "arch=cnn", statistics=measure(np.arange(2 * np.prod(shape)).reshape(2, *shape), 4)
    )
    block = ["Conv2D", "BatchNormalization", "Activation"] * 2 + ["MaxPooling2D", "Dropout"]
    head = ["Flatten", "Dense", "Activation", "Dropout", "Dense"]
    assert [type(layer).__name__ for layer in model.layers] == ["Normalization", *block * 3, *head]
    convolutions = layers_of(model, keras.layers.Conv2D)
    assert [layer.filters for layer in convolutions] == [32, 32, 64, 64, 128, 128]
    assert {(layer.kernel_size, layer.padding) for layer in convolutions} == {((3, 3), "same")}
    assert model.output_shape == (None, 4)


# Keras warns when it saves TensorFlow's variables.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("arch", ["prelu", "cnn"])
def test_what_is_saved_predicts_the_same_from_raw_pixels(build, images, tmp_path, arch):
    model, _, _ = build(f"arch={arch}")
    # Without a step, Keras could save the optimizer, but not load it.
    model.fit(images, np.arange(50) % 10, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.asarray(again(images[:4])), np.asarray(model(images[:4])))
    np.testing.assert_allclose(np.asarray(model(images[:4])).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "overrides", [["arch=elu", "arch.n_hidden=2"], ["arch=cnn", "arch.filters=[4]"]]
)
def test_a_model_learns(build, overrides):
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    images = (rng.integers(0, 40, (120, 8, 8, 1)) + labels[:, None, None, None] * 60).astype(
        "uint8"
    )
    model, _, _ = build(
        *overrides,
        "space.bounds.learning_rate=0.005",
        "space.bounds.momentum=0.8",
        statistics=measure(images, 3),
    )
    history = model.fit(images, labels, epochs=8, verbose=0).history
    assert history["accuracy"][-1] > 0.9


# --- standardization


def test_measured_means_and_variances_by_hand():
    images = np.array(
        [[[[0, 1], [2, 1]]], [[[4, 1], [6, 5]]]], dtype="uint8"
    )  # 2 images of 1x2 pixels, 2 channels
    statistics = measure(images, n_classes=2)
    assert statistics.image_shape == (1, 2, 2)
    assert statistics.mean.tolist() == [[[2, 1], [4, 3]]]
    assert statistics.variance.tolist() == [[[4, 0], [4, 4]]]
    assert statistics.channel_mean().tolist() == [3, 2]
    assert statistics.channel_variance().tolist() == [5, 3]  # of 0 2 4 6, and of 1 1 1 5
    assert statistics.largest == 6


def test_chunks_give_what_the_whole_gives_and_large_means_lose_no_digits():
    images = 1e6 + np.random.default_rng(0).random((1024 * 2 + 5, 2, 2, 1))
    statistics = measure(images, n_classes=2)
    np.testing.assert_allclose(statistics.mean, images.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(statistics.variance, images.var(axis=0), rtol=1e-9)


@pytest.mark.parametrize(("standardize", "axes"), [("channel", (0, 1, 2)), ("pixel", 0)])
def test_train_images_leave_the_first_layer_with_mean_0_and_deviation_1(standardize, axes):
    images = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 3)).astype("uint8")
    out = np.asarray(standardization(measure(images, 10), standardize)(images.astype("float32")))
    np.testing.assert_allclose(out.mean(axis=axes), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(axis=axes), 1, rtol=1e-5)


def test_without_standardization_the_largest_pixel_is_1(images, statistics):
    out = np.asarray(standardization(statistics, "none")(images.astype("float32")))
    assert out.max() == 1
    assert out.min() == 0


def test_a_pixel_that_never_changes_does_not_explode():
    images = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 1)).astype("uint8")
    images[:, 0, 0] = 0
    statistics = measure(images, 10)
    bright = np.full((1, 4, 4, 1), 255, "float32")
    out = np.asarray(standardization(statistics, "pixel")(bright))
    assert out[0, 0, 0, 0] == pytest.approx(
        255 / np.sqrt(0.01 * statistics.channel_variance()[0]), rel=1e-5
    )
    assert out[0, 0, 0, 0] < 40


@pytest.mark.parametrize("standardize", ["channel", "pixel", "none"])
def test_images_all_black_give_zeros(standardize):
    images = np.zeros((3, 2, 2, 1), "float32")
    assert not np.asarray(standardization(measure(images, 2), standardize)(images)).any()


def test_inputs_of_any_shape_can_be_measured_but_single_numbers_cannot():
    assert measure(np.zeros((3, 2)), 2).image_shape == (2,)
    with pytest.raises(ValueError, match=r"two axes\. Received: train_images\.shape=\(3,\)"):
        measure(np.zeros(3), 2)


def test_inputs_that_are_no_images_are_refused_by_our_architectures(conf):
    parts = instantiate(conf("arch=selu"))
    hypermodel = build_hypermodel(parts.arch, measure(np.zeros((3, 2)), 2), parts.optimizer)
    with pytest.raises(ModelError, match=r"Expected images \(H, W, C\) .* shape \(2,\)"):
        hypermodel.build(keras_tuner.HyperParameters())


# --- conf


@pytest.mark.parametrize("arch", DENSE)
def test_every_dense_net_has_every_setting_and_refuses_another(conf, arch):
    assert set(conf(f"arch={arch}").arch) == set(conf("arch=dense").arch)
    with pytest.raises(ConfigCompositionException, match=r"arch\.n_hiden"):
        conf(f"arch={arch}", "arch.n_hiden=3")


def test_the_space_follows_the_architecture_and_can_be_chosen(conf):
    dense, alpha, cnn = (
        conf(f"arch={arch}").space.bounds for arch in ("selu", "alpha_dropout", "cnn")
    )
    assert alpha.dropout_rate.high < dense.dropout_rate.high
    assert alpha.learning_rate == dense.learning_rate
    assert cnn.learning_rate.high != dense.learning_rate.high
    assert "version" in conf("arch=hyper_resnet").space.bounds
    assert conf("arch=cnn", "space=dense").space.bounds == dense
    assert (
        conf("arch=cnn", "space.bounds.learning_rate.low=2e-4").space.bounds.learning_rate.low
        == 2e-4
    )


def test_choices_can_be_set_on_the_command_line(conf):
    space = instantiate(conf("+space.bounds.momentum.choices=[0.9,0.99]").space)
    assert space.grid(5)["momentum"] == [0.9, 0.99]


@pytest.mark.parametrize(
    ("optimizer", "kind", "momentum"),
    [
        ("nadam", "Nadam", "beta_1"),
        ("adam", "Adam", "beta_1"),
        ("sgd", "SGD", "momentum"),
        ("rmsprop", "RMSprop", "momentum"),
    ],
)
def test_momentum_goes_where_the_optimizer_keeps_it(conf, optimizer, kind, momentum):
    made = make_optimizer(instantiate(conf(f"optimizer={optimizer}").optimizer), 0.01, 0.85)
    assert type(made).__name__ == kind
    assert float(made.learning_rate) == pytest.approx(0.01)
    assert getattr(made, momentum) == 0.85
    assert optimizer != "sgd" or made.nesterov


def test_an_optimizer_without_momentum_is_refused():
    with pytest.raises(ConfigError, match="a setting beta_1 or momentum; Adagrad has neither"):
        make_optimizer(functools.partial(keras.optimizers.Adagrad), 0.01, 0.9)
    with pytest.raises(ConfigError, match="optimizer to say _partial_: true"):
        make_optimizer(keras.optimizers.SGD(), 0.01, 0.9)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["arch.n_hidden=0"], r"arch\.n_hidden to be a whole number of at least 1; received 0"),
        (["arch.n_units=1.5"], r"arch\.n_units to be a whole number of at least 1; received 1\.5"),
        (
            ["arch.activation=elo"],
            r"arch\.activation to be a name that Keras knows; received 'elo'",
        ),
        (
            ["arch.kernel_initializer=he"],
            r"arch\.kernel_initializer to be a name that Keras knows; received 'he'",
        ),
        (
            ["arch.normalization=after"],
            r"arch\.normalization .*'after'\. .*Valid: batch, batch_after, layer, none",
        ),
        (
            ["arch.dropout_after=lats"],
            r"arch\.dropout_after .*'lats'\. Did you mean 'last'\? Valid: all, last",
        ),
        (
            ["arch.standardize=pixl"],
            r"arch\.standardize .*'pixl'\. Did you mean 'pixel'\? Valid: channel, none, pixel",
        ),
        (
            ["arch=cnn", "arch.filters=32"],
            r"arch\.filters to be a list such as \[32, 64, 128\]; received 32",
        ),
        (
            ["arch=cnn", "arch.filters=[32,0]"],
            r"each of arch\.filters to be a whole number of at least 1",
        ),
    ],
)
def test_an_impossible_setting_is_refused_with_its_key(build, overrides, sentence):
    with pytest.raises(ConfigError, match=f"^Expected {sentence}"):
        build(*overrides)


# --- anybody's HyperModel


class Foreign(keras_tuner.HyperModel):
    """A HyperModel with other names for its arguments."""

    def __init__(self, num_classes, input_shape, width, **kwargs):
        super().__init__(**kwargs)
        self.received = (num_classes, input_shape, width)


def make_optimizer_name(optimizer):
    return optimizer.__name__


def test_facts_are_passed_under_the_names_that_a_hypermodel_gives_them(statistics):
    assert build_hypermodel(
        functools.partial(Foreign, width=3), statistics, keras.optimizers.SGD
    ).received == (
        10,
        (8, 8, 1),
        3,
    )
    small = functools.partial(Foreign, width=3, num_classes=2)
    assert build_hypermodel(small, statistics, keras.optimizers.SGD).received == (2, (8, 8, 1), 3)


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        (functools.partial(Foreign), r"to set width, which Foreign needs: add arch\.width"),
        (
            functools.partial(make_optimizer_name),
            r"to name a keras_tuner\.HyperModel .*; make_optimizer_name makes a str",
        ),
        (Foreign(10, (8, 8, 1), 3), r"architecture to say _partial_: true"),
    ],
)
def test_what_cannot_become_a_hypermodel_is_refused(statistics, factory, sentence):
    with pytest.raises(ModelError, match=sentence):
        build_hypermodel(factory, statistics, keras.optimizers.SGD)


def drawn_by(conf, statistics, bounds, others=("batch_size",)):
    """Return the model and the hyperparameters of a trial with further bounds in its space."""
    parts = instantiate(conf("arch=selu"))
    space = Space({"learning_rate": 0.01, "momentum": 0.9, "dropout_rate": 0.1, **bounds})
    architecture = Architecture(
        parts.arch, statistics=statistics, optimizer=parts.optimizer, space=space, others=others
    )
    hp = OptunaHyperParameters(optuna.create_study().ask(), space)
    model = architecture.hypermodel(hp).build(hp)
    space.check_used(hp.asked)
    return model, hp, architecture


def test_a_bound_with_the_name_of_a_setting_draws_it(conf, statistics):
    bounds = {
        "n_hidden": {"low": 1, "high": 2},
        "activation": {"choices": ["elu", "tanh"]},
        "weight_decay": {"low": 1e-4, "high": 1e-3, "scale": "log"},
        "batch_size": {"choices": [8, 16]},
        "n_units": 7,
    }
    model, hp, architecture = drawn_by(conf, statistics, bounds)
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    assert len(dense) - 1 == hp.values["n_hidden"] in (1, 2)
    assert dense[0].units == 7
    assert (
        layers_of(model, keras.layers.Activation)[0].activation.__name__ == hp.values["activation"]
    )
    assert model.optimizer.weight_decay == hp.values["weight_decay"]
    assert hp.values["batch_size"] in (8, 16)
    assert sorted(architecture.drawn) == sorted(bounds)


@pytest.mark.parametrize("name", ["statistics", "optimizer", "batch_size", "depth"])
def test_a_bound_that_names_nothing_is_refused(conf, statistics, name):
    with pytest.raises(SpaceError, match=f"it asks for no '{name}'"):
        drawn_by(conf, statistics, {name: {"choices": [1, 2]}}, others=())


def test_settings_are_drawn_from_plain_hyperparameters_too(conf, statistics):
    parts = instantiate(conf("arch=selu"))
    space = Space({"n_hidden": {"low": 1, "high": 4}, "activation": {"choices": ["elu", "tanh"]}})
    hp = keras_tuner.HyperParameters()
    hp.values["n_hidden"] = 2
    made = Architecture(
        parts.arch, statistics=statistics, optimizer=parts.optimizer, space=space
    ).hypermodel(hp)
    assert (made.n_hidden, made.activation) == (2, "elu")


class OwnRowLoss(keras.losses.CategoricalCrossentropy):
    """A user's own loss that takes rows, as its base class does."""


@pytest.mark.parametrize(
    ("loss", "form"),
    [
        ("sparse_categorical_crossentropy", "sparse"),
        ("categorical_crossentropy", "onehot"),
        (keras.losses.SparseCategoricalCrossentropy(), "sparse"),
        (keras.losses.CategoricalCrossentropy(label_smoothing=0.1), "onehot"),
        (keras.losses.CategoricalFocalCrossentropy(), "onehot"),
        (keras.losses.categorical_crossentropy, "onehot"),
        ("mse", "onehot"),
        ({"probs": "mse"}, "onehot"),
        ([keras.losses.SparseCategoricalCrossentropy()], "sparse"),
        (lambda y_true, y_pred: y_pred[:, 0], "sparse"),
        (OwnRowLoss(), "onehot"),
    ],
)
def test_labels_follow_the_compiled_loss(loss, form):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="probs")])
    model.compile(loss=loss)
    assert labels_for(model) == form


@pytest.mark.parametrize("loss", [None, "binary_crossentropy", "poisson"])
def test_a_loss_that_is_not_for_classes_is_refused(loss):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="probs")])
    if loss:
        model.compile(loss=loss)
    with pytest.raises(
        ModelError, match="Expected the architecture to compile its model with the loss"
    ):
        labels_for(model)
