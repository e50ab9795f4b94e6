"""Models as other people write them, for MC Dropout: dropout wherever it can stand.

Each function builds one model of inputs `INPUTS`. With `plain=True` it leaves out what is neither
dropout nor active when a model predicts, such as noise and augmentation. `model(x, training=True)`
of such a model, with BatchNormalization frozen by `trainable=False`, is MC Dropout as people write
it.
"""

import keras
from keras import layers, ops

SHAPE = (8, 6)
N_CLASSES = 4
BUILDS = {}


def build(function):
    """Enter a function into `BUILDS` by its name."""
    BUILDS[function.__name__] = function
    return function


def _classifier(inputs, x, units=N_CLASSES, activation="softmax", **settings):
    if len(x.shape) > 2:
        x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(units, activation=activation, **settings)(x))


def _dense(*noise, units=12, dtype=None):
    inputs = keras.Input(SHAPE)
    x = layers.Flatten()(inputs)
    for layer in noise:
        x = layer(layers.Dense(units, activation="relu", dtype=dtype)(x))
    return _classifier(inputs, x, dtype=dtype)


def _images(*noise):
    inputs = keras.Input(SHAPE)
    x = layers.Reshape((4, 4, 3))(inputs)
    for layer in noise:
        x = layer(x)
    x = layers.Conv2D(6, 3, padding="same", activation="relu")(x)
    return inputs, x


@build
def two_branches(plain=False):
    inputs = keras.Input(SHAPE)
    x = layers.Flatten()(inputs)
    left = layers.Dropout(0.3)(layers.Dense(10, activation="relu")(x))
    right = layers.Dense(10, activation="tanh")(layers.Dropout(0.2)(x))
    return _classifier(inputs, layers.Concatenate()([left, right]))


@build
def spatial_dropout(plain=False):
    inputs, x = _images()
    return _classifier(inputs, layers.SpatialDropout2D(0.4)(x))


@build
def gaussian_dropout(plain=False):
    return _dense(layers.GaussianDropout(0.3), layers.GaussianDropout(0.2))


@build
def alpha_dropout(plain=False):
    return _dense(layers.AlphaDropout(0.3), layers.AlphaDropout(0.1))


@build
def alpha_dropout_with_noise_shape(plain=False):
    inputs, x = _images()
    return _classifier(inputs, layers.AlphaDropout(0.3, noise_shape=(None, 1, 1, 6))(x))


@build
def always_on(plain=False):
    inputs = keras.Input(SHAPE)
    x = layers.Dense(12, activation="relu")(layers.Flatten()(inputs))
    return _classifier(inputs, layers.Dropout(0.4)(x, training=True))


@keras.saving.register_keras_serializable("foreign")
class MCDropout(layers.Dropout):
    """Dropout that ignores its mode, as books write it."""

    def call(self, inputs, training=None):
        """Drop always."""
        return super().call(inputs, training=True)


@build
def own_mc_dropout(plain=False):
    return _dense(MCDropout(0.3), MCDropout(0.2))


@keras.saving.register_keras_serializable("foreign")
class MCAlphaDropout(layers.AlphaDropout):
    """Alpha dropout that ignores its mode, as books write it."""

    def call(self, inputs, training=None):
        """Drop always."""
        return super().call(inputs, training=True)


@build
def own_mc_alpha_dropout(plain=False):
    return _dense(MCAlphaDropout(0.3), MCAlphaDropout(0.2))


@build
def recurrent_dropout(plain=False):
    inputs = keras.Input(SHAPE)
    return _classifier(inputs, layers.LSTM(8, dropout=0.2, recurrent_dropout=0.3)(inputs))


@build
def dropout_beside_lstm(plain=False):
    inputs = keras.Input(SHAPE)
    x = layers.LSTM(8, recurrent_dropout=0.3, return_sequences=True)(inputs)
    return _classifier(inputs, layers.GRU(6)(layers.Dropout(0.3)(x)))


@build
def batch_normalization(plain=False):
    inputs = keras.Input(SHAPE)
    x = layers.Dense(12)(layers.Flatten()(inputs))
    x = layers.Dropout(0.3)(layers.Activation("relu")(layers.BatchNormalization()(x)))
    return _classifier(inputs, layers.BatchNormalization()(x))


@build
def batch_normalization_in_training(plain=False):
    inputs = keras.Input(SHAPE)
    x = layers.Dense(12, activation="relu")(layers.Flatten()(inputs))
    x = layers.BatchNormalization()(layers.Dropout(0.3)(x), training=True)
    return _classifier(inputs, x)


@keras.saving.register_keras_serializable("foreign")
class Subclassed(keras.Model):
    """A model whose graph of layers Keras does not know."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.flatten = layers.Flatten()
        self.hidden = [layers.Dense(12, activation="relu"), layers.Dense(10, activation="relu")]
        self.norm = layers.BatchNormalization()
        self.drops = [layers.Dropout(0.3), layers.Dropout(0.4)]
        self.head = layers.Dense(N_CLASSES, activation="softmax")

    def call(self, inputs, training=None):
        """Return class probabilities."""
        x = self.norm(self.flatten(inputs), training=training)
        for dense, drop in zip(self.hidden, self.drops, strict=True):
            x = drop(dense(x), training=training)
        return self.head(x)


@build
def subclassed(plain=False):
    model = Subclassed()
    model(ops.zeros((1, *SHAPE)))
    return model


@build
def nested_shared_body(plain=False):
    body_in = keras.Input(SHAPE[1:])
    body = keras.Model(body_in, layers.Dropout(0.3)(layers.Dense(6, activation="relu")(body_in)))
    inputs = keras.Input(SHAPE)
    first = body(inputs[:, 0])
    second = body(inputs[:, 1])
    x = layers.Concatenate()([layers.BatchNormalization()(first), second])
    return _classifier(inputs, x)


@build
def flips_and_rotations(plain=False):
    changes = [] if plain else [layers.RandomFlip("horizontal"), layers.RandomRotation(0.1)]
    inputs, x = _images(*changes)
    return _classifier(inputs, layers.Dropout(0.3)(x))


@build
def attention(plain=False):
    inputs = keras.Input(SHAPE)
    x = layers.MultiHeadAttention(2, 4, dropout=0.3)(inputs, inputs)
    x = layers.LayerNormalization()(x + inputs)
    return _classifier(inputs, x)


@keras.saving.register_keras_serializable("foreign")
class Block(layers.Layer):
    """An own block with normalization and dropout inside."""

    def __init__(self, units, rate, **settings):
        super().__init__(**settings)
        self.units, self.rate_inside = units, rate
        self.dense = layers.Dense(units, activation="relu")
        self.norm = layers.BatchNormalization()
        self.drop = layers.Dropout(rate)

    def build(self, shape):
        """Build the layers inside."""
        self.dense.build(shape)
        self.norm.build((*shape[:-1], self.units))
        super().build(shape)

    def call(self, inputs, training=None):
        """Return the block's output."""
        x = self.norm(self.dense(inputs), training=training)
        if training:
            x = self.drop(x, training=True)
        return x

    def get_config(self):
        """Return what the constructor takes."""
        return {**super().get_config(), "units": self.units, "rate": self.rate_inside}


@build
def own_block(plain=False):
    return _dense(Block(10, 0.4))


@build
def own_block_beside_dropout(plain=False):
    return _dense(layers.Dropout(0.2), Block(10, 0.4), layers.Dropout(0.3))


@keras.saving.register_keras_serializable("foreign")
class Functional(layers.Layer):
    """An own layer that calls `keras.random.dropout`."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.seed = keras.random.SeedGenerator()

    def call(self, inputs, training=False):
        """Drop in training."""
        if training:
            inputs = keras.random.dropout(inputs, 0.3, seed=self.seed)
        return ops.tanh(inputs)


@build
def random_dropout(plain=False):
    return _dense(Functional(), Functional())


@build
def gaussian_noise(plain=False):
    noise = [] if plain else [layers.GaussianNoise(0.5)]
    return _dense(*noise, layers.Dropout(0.3)) if noise else _without_noise()


def _without_noise():
    inputs = keras.Input(SHAPE)
    x = layers.Dense(12, activation="relu")(layers.Flatten()(inputs))
    return _classifier(inputs, layers.Dropout(0.3)(layers.Dense(12, activation="relu")(x)))


@build
def logits(plain=False):
    inputs = keras.Input(SHAPE)
    x = layers.Dropout(0.3)(layers.Dense(12, activation="relu")(layers.Flatten()(inputs)))
    return _classifier(inputs, x, activation=None)


@build
def dropout_used_twice(plain=False):
    inputs = keras.Input(SHAPE)
    drop = layers.Dropout(0.3)
    x = drop(layers.Dense(12, activation="relu")(layers.Flatten()(inputs)))
    return _classifier(inputs, drop(layers.Dense(8, activation="relu")(x)))


@build
def frozen_layers(plain=False):
    model = _dense(layers.Dropout(0.3), layers.Dropout(0.3))
    for layer in model.layers[:3]:
        layer.trainable = False
    return model


@build
def mixed_float16(plain=False):
    return _dense(layers.Dropout(0.3, dtype="mixed_float16"), dtype="mixed_float16")


@build
def mixed_bfloat16(plain=False):
    return _dense(layers.Dropout(0.3, dtype="mixed_bfloat16"), dtype="mixed_bfloat16")


@keras.saving.register_keras_serializable("foreign")
class Renamed(layers.Dropout):
    """A subclass that changes nothing."""


@keras.saving.register_keras_serializable("foreign")
class Halved(layers.Dropout):
    """A subclass that drops half as often as its rate says."""

    def call(self, inputs, training=False):
        """Drop in training."""
        if training:
            return keras.random.dropout(inputs, self.rate / 2, seed=self.seed_generator)
        return inputs


@build
def subclass_that_changes_nothing(plain=False):
    return _dense(Renamed(0.3), Renamed(0.2))


@build
def subclass_that_changes_the_rate(plain=False):
    return _dense(Halved(0.6), Halved(0.4))


@build
def rate_zero(plain=False):
    return _dense(layers.Dropout(0.0), layers.Dropout(0.3))


@build
def noise_shape_over_batch(plain=False):
    return _dense(layers.Dropout(0.3, noise_shape=(1, 12)))


@build
def noise_shape_over_channels(plain=False):
    inputs, x = _images()
    return _classifier(inputs, layers.Dropout(0.3, noise_shape=(None, 4, 4, 1))(x))


@build
def time_distributed(plain=False):
    inputs = keras.Input(SHAPE)
    x = layers.TimeDistributed(layers.BatchNormalization())(inputs)
    return _classifier(inputs, layers.TimeDistributed(layers.Dropout(0.3))(x))


@keras.saving.register_keras_serializable("foreign")
class StochasticDepth(layers.Layer):
    """An own layer that drops a whole branch of an example."""

    def __init__(self, rate, **settings):
        super().__init__(**settings)
        self.drop_rate = rate
        self.seed = keras.random.SeedGenerator()

    def call(self, inputs, training=False):
        """Return the sum of the two branches, the second of which is dropped in training."""
        shortcut, branch = inputs
        if not training:
            return shortcut + branch
        shape = (ops.shape(branch)[0],) + (1,) * (len(branch.shape) - 1)
        kept = keras.random.uniform(shape, seed=self.seed) >= self.drop_rate
        return shortcut + branch * ops.cast(kept, branch.dtype) / (1.0 - self.drop_rate)

    def compute_output_shape(self, shapes):
        """Return the shape of a branch."""
        return shapes[0]

    def get_config(self):
        """Return what the constructor takes."""
        return {**super().get_config(), "rate": self.drop_rate}


@build
def stochastic_depth(plain=False):
    inputs = keras.Input(SHAPE)
    x = layers.Dense(10)(layers.Flatten()(inputs))
    x = StochasticDepth(0.3)([x, layers.Dense(10, activation="relu")(x)])
    return _classifier(inputs, x)


@build
def two_outputs(plain=False):
    inputs = keras.Input(SHAPE)
    x = layers.Dropout(0.3)(layers.Dense(12, activation="relu")(layers.Flatten()(inputs)))
    heads = [layers.Dense(N_CLASSES, activation="softmax")(x), layers.Dense(2, "softmax")(x)]
    return keras.Model(inputs, heads)


@build
def sigmoid(plain=False):
    inputs = keras.Input(SHAPE)
    x = layers.Dropout(0.3)(layers.Dense(12, activation="relu")(layers.Flatten()(inputs)))
    return _classifier(inputs, x, units=1, activation="sigmoid")
