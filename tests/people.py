"""HyperModels as people write them, each of another kind; what trains them must be the model that
`build` returns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import keras_tuner
import numpy as np
from keras import layers, ops

SHAPE, N_CLASSES = (8, 8, 1), 10
RNG = np.random.default_rng(0)
STATISTICS = RNG.uniform(0, 255, (200, *SHAPE)).astype("float32")
Build = Callable[[], keras.Model]
BUILDS: dict[str, Build] = {}


class Given(keras_tuner.HyperModel):
    """Builds the model of a function."""

    def __init__(self, build: Build) -> None:
        super().__init__()
        self._build_model = build

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Return the model."""
        return self._build_model()


def person(build: Build) -> Build:
    """Add a function to the collection, under its name."""
    BUILDS[build.__name__] = build
    return build


def compiled(model: keras.Model, optimizer: Any = None, **given: Any) -> keras.Model:
    """Compile as most people do."""
    settings = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"], **given}
    model.compile(optimizer or keras.optimizers.SGD(0.05, momentum=0.9), **settings)
    return model


def dense(*middle: Any, units: int = 24, activation: Any = "relu") -> keras.Model:
    """Return a small net with layers in its middle."""
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(units, activation),
            *middle,
            layers.Dense(N_CLASSES, "softmax"),
        ]
    )


@person
def plain() -> keras.Model:
    return compiled(dense())


@person
def adapted_normalization() -> keras.Model:
    norm = layers.Normalization()
    norm.adapt(STATISTICS)
    return compiled(
        keras.Sequential([keras.Input(SHAPE), norm, layers.Flatten(), layers.Dense(10, "softmax")])
    )


@person
def branches() -> keras.Model:
    x = keras.Input(SHAPE)
    flat = layers.Flatten()(layers.Rescaling(1 / 255)(x))
    both = layers.Concatenate()([layers.Dense(16, "relu")(flat), layers.Dense(8, "tanh")(flat)])
    return compiled(keras.Model(x, layers.Dense(10, "softmax")(both + 0.5)))


@person
def shared_layer() -> keras.Model:
    x = keras.Input(SHAPE)
    shared = layers.Dense(24, "tanh")
    first = shared(layers.Dense(24, "tanh")(layers.Flatten()(layers.Rescaling(1 / 255)(x))))
    return compiled(
        keras.Model(x, layers.Dense(10, "softmax")(shared(first))), keras.optimizers.SGD(0.01)
    )


@person
def one_dropout_twice() -> keras.Model:
    x = keras.Input(SHAPE)
    drop = layers.Dropout(0.0)
    h = drop(layers.Dense(24, "relu")(layers.Flatten()(layers.Rescaling(1 / 255)(x))))
    return compiled(keras.Model(x, layers.Dense(10, "softmax")(drop(layers.Dense(16, "relu")(h)))))


class Scaled(layers.Layer):
    """Holds a plain array and a number that are set after it was made."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.factor, self.shift = 1.0, np.zeros(24, "float32")

    def call(self, inputs: Any) -> Any:
        return inputs * self.factor + ops.convert_to_tensor(self.shift, inputs.dtype)


@person
def own_layer_with_state() -> keras.Model:
    scaled = Scaled()
    scaled.factor, scaled.shift = 1.7, np.linspace(-1, 1, 24).astype("float32")
    return compiled(dense(scaled))


class FrozenBase(layers.Layer):
    """Has a sublayer that does not train."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.base = layers.Dense(24, "relu")
        self.base.trainable = False

    def call(self, inputs: Any) -> Any:
        return self.base(inputs)


class OpenBase(FrozenBase):
    """The same, and it trains."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.base.trainable = True


@person
def frozen_inside_own_layer() -> keras.Model:
    return compiled(dense(FrozenBase()))


class OwnStep(keras.Model):
    """Trains with half of the loss's gradient."""

    def train_step(self, *given: Any) -> Any:
        return super().train_step(*given)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        return 0.5 * super().compute_loss(x, y, y_pred, sample_weight, training)


@person
def own_compute_loss() -> keras.Model:
    net = dense()
    return compiled(OwnStep(net.inputs, net.outputs))


class OwnTestStep(keras.Model):
    """Reports twice the loss when it is tested."""

    def test_step(self, *given: Any) -> Any:
        found = super().test_step(*given)
        if keras.backend.backend() == "jax":
            return {**found[0], "loss": 2 * found[0]["loss"]}, found[1]
        return {**found, "loss": 2 * found["loss"]}


@person
def own_test_step() -> keras.Model:
    net = dense()
    return compiled(OwnTestStep(net.inputs, net.outputs))


class WithLoss(layers.Layer):
    """Adds a loss."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(0.01 * ops.mean(ops.square(inputs)))
        return inputs


@person
def add_loss() -> keras.Model:
    return compiled(dense(WithLoss()))


@person
def regularizers() -> keras.Model:
    return compiled(
        dense(
            layers.Dense(
                16,
                "relu",
                kernel_regularizer="l2",
                activity_regularizer=keras.regularizers.L1(1e-3),
            )
        )
    )


@person
def constraint_set_afterwards() -> keras.Model:
    model = dense()
    model.layers[2].kernel.constraint = keras.constraints.MaxNorm(0.3)
    return compiled(model)


@person
def frozen_batch_normalization() -> keras.Model:
    norm = layers.BatchNormalization()
    norm.trainable = False
    return compiled(
        dense(norm, layers.Dense(16), layers.BatchNormalization(), layers.Activation("relu"))
    )


@person
def recurrent() -> keras.Model:
    x = keras.Input(SHAPE)
    h = layers.LSTM(12)(layers.Reshape((8, 8))(layers.Rescaling(1 / 255)(x)))
    return compiled(keras.Model(x, layers.Dense(10, "softmax")(h)), keras.optimizers.Adam(0.01))


@person
def mixed_float16() -> keras.Model:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return compiled(dense())
    finally:
        keras.config.set_dtype_policy("float32")


@person
def random_preprocessing() -> keras.Model:
    x = keras.Input(SHAPE)
    h = layers.RandomRotation(0.05)(layers.Rescaling(1 / 255)(x))
    return compiled(
        keras.Model(x, layers.Dense(10, "softmax")(layers.Flatten()(layers.RandomZoom(0.1)(h))))
    )


@person
def gaussian_noise() -> keras.Model:
    return compiled(dense(layers.GaussianNoise(0.2), layers.Dense(16, "elu")))


@person
def loaded_weights() -> keras.Model:
    model = dense()
    rng = np.random.default_rng(3)
    model.set_weights([rng.normal(0, 0.1, w.shape).astype("float32") for w in model.get_weights()])
    return compiled(model)


@person
def gradient_accumulation() -> keras.Model:
    return compiled(dense(), keras.optimizers.Adam(0.01, gradient_accumulation_steps=4))


@person
def averages_and_clipping() -> keras.Model:
    optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9, clipnorm=0.5)
    return compiled(dense(), optimizer)


@person
def rate_schedule() -> keras.Model:
    return compiled(
        dense(), keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 20, 0.8))
    )


class Imperative(keras.Model):
    """A subclass written imperatively."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.hidden, self.out = (
            layers.Flatten(),
            layers.Dense(24, "relu"),
            layers.Dense(10, "softmax"),
        )

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.out(self.hidden(self.flat(ops.cast(inputs, "float32") / 255)))


@person
def imperative() -> keras.Model:
    return compiled(Imperative())


def soft_error(y_true: Any, y_pred: Any) -> Any:
    """A loss of a person's own that is registered nowhere."""
    return -ops.log(
        ops.take_along_axis(y_pred, ops.cast(ops.reshape(y_true, (-1, 1)), "int32"), axis=1) + 1e-6
    )


def confidence(y_true: Any, y_pred: Any) -> Any:
    """A metric of a person's own."""
    return ops.max(y_pred, axis=-1)


@person
def functions_as_loss_metric_activation() -> keras.Model:
    model = dense(activation=lambda x: ops.maximum(x, 0.1 * x))
    return compiled(
        model,
        loss=soft_error,
        metrics=[confidence, keras.metrics.SparseCategoricalAccuracy(name="right")],
    )


@person
def run_eagerly() -> keras.Model:
    return compiled(dense(), run_eagerly=True)


@person
def many_steps_per_execution() -> keras.Model:
    return compiled(dense(), steps_per_execution=8)


@person
def compiled_by_xla() -> keras.Model:
    return compiled(dense(), jit_compile=True)


@person
def told_after_it_was_made() -> keras.Model:
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.beta_2, optimizer.weight_decay = 0.9, 0.01
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return compiled(dense(), optimizer)


class HalfSgd(keras.optimizers.SGD):
    """An optimizer of a person's own, without a config of its own."""

    factor = 1.0

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient, variable, learning_rate * self.factor)


@person
def own_optimizer() -> keras.Model:
    optimizer = HalfSgd(0.05)
    optimizer.factor = 0.5
    return compiled(dense(), optimizer)


@person
def nested_model_with_dropout() -> keras.Model:
    body = keras.Sequential(
        [keras.Input((24,)), layers.Dense(16, "selu"), layers.AlphaDropout(0.0)]
    )
    return compiled(dense(body, layers.Dropout(0.0)))


@person
def convolutions() -> keras.Model:
    x = keras.Input(SHAPE)
    h = layers.Conv2D(8, 3, activation="relu")(layers.Rescaling(1 / 255)(x))
    h = layers.GlobalAveragePooling2D()(layers.SeparableConv2D(12, 3, activation="relu")(h))
    return compiled(keras.Model(x, layers.Dense(10, "softmax")(h)), keras.optimizers.RMSprop(0.01))


@person
def attention() -> keras.Model:
    x = keras.Input(SHAPE)
    h = layers.Reshape((8, 8))(layers.Rescaling(1 / 255)(x))
    h = layers.LayerNormalization()(h + layers.MultiHeadAttention(2, 4)(h, h))
    return compiled(
        keras.Model(x, layers.Dense(10, "softmax")(layers.Flatten()(h))),
        keras.optimizers.AdamW(0.01),
    )


@person
def one_hot_loss() -> keras.Model:
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
    return compiled(dense(), loss=loss, metrics=[keras.metrics.AUC(name="auc"), "accuracy"])


@person
def metrics_of_several_numbers() -> keras.Model:
    f1 = [keras.metrics.F1Score(), keras.metrics.F1Score(average="macro", name="f1")]
    return compiled(dense(), loss="categorical_crossentropy", metrics=f1)
