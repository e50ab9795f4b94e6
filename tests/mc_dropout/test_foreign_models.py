"""MC Dropout of models as other people write them: what is drawn, and by value against a loop."""

import threading

import keras
import numpy as np
import pytest
from keras import layers, ops

from foreign_models import BUILDS, SHAPE
from hpsearch.errors import ModelError
from hpsearch.mc_dropout.certificate import Certificate
from hpsearch.mc_dropout.conversion import Split
from hpsearch.mc_dropout.passes import Sampler
from hpsearch.mc_dropout.plain import PlainModel
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.models.dropout_masks import normal_of
from plain_loop import row

INPUTS = np.random.default_rng(0).normal(size=(7, *SHAPE)).astype(np.float32)
DRAWS = {
    "two_branches": "dropout 0.2, dropout 0.3",
    "spatial_dropout": "dropout 0.4",
    "gaussian_dropout": "gaussian_dropout 0.3, gaussian_dropout 0.2",
    "own_mc_alpha_dropout": "alpha_dropout 0.3, alpha_dropout 0.2",
    "subclassed": "dropout 0.3, dropout 0.4",
    "nested_shared_body": "dropout 0.3, dropout 0.3",
    "flips_and_rotations": "dropout 0.3",
    "attention": "dropout 0.3",
    "own_block_beside_dropout": "dropout 0.2, dropout 0.4, dropout 0.3",
    "random_dropout": "dropout 0.3, dropout 0.3",
    "gaussian_noise": "dropout 0.3",
    "dropout_used_twice": "dropout 0.3, dropout 0.3",
    "subclass_that_changes_the_rate": "dropout 0.3, dropout 0.2",
    "rate_zero": "dropout 0.3",
    "stochastic_depth": "uniform 0",
}


def settings(**changes):
    return McDropout(
        **{
            "n_samples": 20,
            "shared_masks": False,
            "seed": 3,
            "batch_size": 64,
            "memory_mb": 64,
            "from_logits": False,
        }
        | changes
    )


def drawn(model):
    found = Split.of(model).structure.draws
    return ", ".join(f"{draw.name} {draw.rate:g}" for draw in found)


@pytest.mark.parametrize("name", DRAWS)
def test_dropout_is_found_wherever_it_stands_and_noise_is_not(name):
    assert drawn(BUILDS[name]()) == DRAWS[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "gaussian_dropout",
        "own_mc_dropout",
        "recurrent_dropout",
        "subclassed",
        "nested_shared_body",
        "attention",
        "own_block_beside_dropout",
        "mixed_bfloat16",
        "time_distributed",
        "stochastic_depth",
        "sigmoid",
    ],
)
def test_passes_are_those_of_a_plain_loop(name):
    assert row(name, 400)[-1] == "agrees"


class OnWeights(layers.Layer):
    """Drops weights, so that all examples of a pass share the mask."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 8))

    def call(self, inputs, training=False):
        kernel = self.kernel + 0.0
        if training:
            kernel = keras.random.dropout(kernel, 0.5)
        return ops.matmul(inputs, kernel)


class Folded(layers.Layer):
    """Drops after folding the steps of all examples into the batch."""

    def call(self, inputs, training=False):
        n_steps, n_units = inputs.shape[1:]
        x = ops.reshape(inputs, (-1, n_units))
        if training:
            x = keras.random.dropout(x, 0.5)
        return ops.reshape(x, (-1, n_steps, n_units))


class Learnt(layers.Layer):
    """Drops at a rate that is a weight."""

    def build(self, shape):
        self.share = self.add_weight(shape=(), initializer=keras.initializers.Constant(0.25))

    def call(self, inputs, training=False):
        return keras.random.dropout(inputs, self.share) if training else inputs


class Counting(layers.Layer):
    """Counts its trainings, and scales then."""

    def __init__(self, scale=1.0, **more):
        super().__init__(**more)
        self.scale = scale
        self.drop = layers.Dropout(0.5)

    def build(self, shape):
        self.count = self.add_weight(shape=(), trainable=False, initializer="zeros")

    def call(self, inputs, training=False):
        if training:
            self.count.assign_add(1.0)
            inputs = inputs * self.scale
        return self.drop(inputs, training=training)


class Stepping(layers.Layer):
    """A recurrent cell that draws a new mask at each step."""

    state_size = output_size = SHAPE[1]

    def call(self, inputs, states, training=False):
        if training:
            inputs = keras.random.dropout(inputs, 0.5)
        return inputs, states


def with_layer(*made):
    inputs = keras.Input(SHAPE)
    x = inputs
    for layer in made:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.Flatten()(x)))


def test_a_mask_of_weights_is_one_for_all_examples_of_a_pass():
    split = Split.of(with_layer(OnWeights()))
    assert [draw.n_per_row for draw in split.structure.draws] == [0]
    same = np.repeat(INPUTS[:1], 4, axis=0)
    found = Sampler(split.model, settings()).samples(same, n_samples=3, seed=0)
    np.testing.assert_allclose(found, np.repeat(found[:, :1], 4, axis=1), atol=1e-6)
    assert np.ptp(found[:, 0], axis=0).max() > 1e-3


@pytest.mark.parametrize("shared", [False, True])
def test_masks_behind_a_fold_depend_on_the_example_alone(shared):
    model = with_layer(Folded())
    assert [draw.n_per_row for draw in Split.of(model).structure.draws] == [SHAPE[0]]
    whole = Sampler(model, settings(shared_masks=shared)).predict(INPUTS).probs
    parts = Sampler(model, settings(shared_masks=shared, batch_size=2)).predict(INPUTS).probs
    np.testing.assert_allclose(parts, whole, atol=1e-6)


class Calling(layers.Layer):
    """Calls the `call` of the layer inside, and gives its mode by place."""

    def __init__(self):
        super().__init__()
        self.drop = layers.Dropout(0.5)

    def call(self, inputs, training=False):
        return self.drop.call(inputs, training)


def test_a_layer_may_call_the_function_of_another_with_its_mode_by_place():
    model = with_layer(Calling())
    assert drawn(model) == "dropout 0.5"
    assert Certificate.of(Sampler(model, settings()), INPUTS).n_active == 1


def test_a_rate_that_is_a_weight_stays_the_models_own():
    sampler = Sampler(with_layer(Learnt()), settings())
    assert sampler.split.rates == (0.0,)  # nobody else can change it
    assert sampler.predict(INPUTS).variance.max() > 1e-4


@pytest.mark.parametrize("name", ["attention", "recurrent_dropout", "own_block", "subclassed"])
def test_shared_masks_make_each_pass_a_function_of_its_input(name):
    sampler = Sampler(BUILDS[name](), settings(shared_masks=True))
    whole = sampler.samples(INPUTS, n_samples=3, seed=0)
    shuffled = sampler.samples(INPUTS[::-1], n_samples=3, seed=0)
    np.testing.assert_allclose(shuffled[:, ::-1], whole, atol=1e-6)


def test_a_layer_that_counts_its_trainings_is_left_alone():
    model = with_layer(Counting())
    assert Certificate.of(Sampler(model, settings()), INPUTS).variables_unchanged
    assert float(model.layers[1].count.value) == 0


def test_a_layer_that_does_more_in_training_than_to_drop_is_found():
    with pytest.raises(ModelError, match="with all rates at 0 the output is"):
        Certificate.of(Sampler(with_layer(Counting(scale=3.0)), settings()), INPUTS)


def test_the_plain_prediction_of_dropout_that_is_always_on_is_without_it():
    model = BUILDS["own_mc_dropout"]()
    plain = PlainModel(model, settings()).predict(INPUTS)
    np.testing.assert_array_equal(plain, PlainModel(model, settings()).predict(INPUTS))
    at_zero = Sampler(model, settings()).predict(INPUTS, rates=[0, 0]).probs
    np.testing.assert_allclose(plain, at_zero, atol=1e-6)


def test_draws_of_an_own_layer_that_are_no_dropout_are_named():
    model = BUILDS["stochastic_depth"]()
    found = Certificate.of(Sampler(model, settings()), INPUTS)
    assert found.qualification == f"with the random draws of '{model.layers[-2].name}'"
    assert np.isnan(found.plain_gap)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="draws of TensorFlow")
def test_dropout_of_tensorflow_is_on_and_its_other_draws_are_named():
    import tensorflow as tf  # noqa: PLC0415  # JAX works without it

    class Noisy(layers.Layer):
        def call(self, inputs, training=False):
            if training:
                inputs = inputs + tf.random.normal(ops.shape(inputs))
            return inputs

    class Both(Noisy):
        def call(self, inputs, training=False):
            if training:
                inputs = keras.random.dropout(inputs, 0.3)
            return super().call(inputs, training=training)

    class Dropping(layers.Layer):
        def call(self, inputs, training=False):
            return tf.nn.dropout(inputs, 0.5) if training else inputs

    assert drawn(with_layer(Dropping())) == "dropout 0.5"
    with pytest.raises(ModelError, match="in which 'both' draws with a random function of Tenso"):
        Split.of(with_layer(Both(name="both")))
    model = with_layer(layers.Dropout(0.3), Noisy(name="noisy"))
    assert Split.of(model).structure.left_off == ("noisy",)
    found = Certificate.of(Sampler(model, settings()), INPUTS)
    assert found.qualification.startswith("without those of 'noisy'")


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="an operation of TensorFlow")
def test_operations_that_xla_does_not_know_are_compiled_without_it():
    import tensorflow as tf  # noqa: PLC0415  # JAX works without it

    class InPython(layers.Layer):
        def call(self, inputs):
            outputs = tf.numpy_function(lambda x: np.float32(x * 2), [inputs], tf.float32)
            return tf.ensure_shape(outputs, inputs.shape)

    model = with_layer(InPython(), layers.Dropout(0.3))
    plain = PlainModel(model, settings()).predict(INPUTS)
    np.testing.assert_allclose(plain, model.predict(INPUTS, verbose=0), atol=1e-6)
    assert Sampler(model, settings()).predict(INPUTS).variance.max() > 1e-4


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX traces loops in place")
def test_a_mask_that_is_new_at_each_step_of_a_loop_is_refused():
    with pytest.raises(ModelError, match="draws in a loop over steps or in a branch"):
        Split.of(with_layer(layers.RNN(Stepping(), return_sequences=True)))


def test_another_thread_may_use_the_layers_meanwhile():
    model = BUILDS["own_block"]()
    expected = model(INPUTS, training=False)
    answers = []
    stop = threading.Event()

    def ask():
        while not stop.wait(0.02):
            answers.append(np.asarray(ops.convert_to_numpy(model(INPUTS, training=False))))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        Sampler(model, settings()).predict(INPUTS)
    finally:
        stop.set()
        asking.join()
    for answer in answers:
        np.testing.assert_array_equal(answer, ops.convert_to_numpy(expected))


def test_an_error_in_a_layer_leaves_keras_as_it_was():
    class Failing(layers.Layer):
        def call(self, inputs, training=False):
            if training:
                raise ValueError("not in training")
            return inputs

    before = keras.layers.AlphaDropout.call
    model = with_layer(layers.Dropout(0.5), Failing())
    with pytest.raises(
        ModelError, match=r"as in training, received ValueError: .*: not in training \(tests"
    ):
        Split.of(model)
    assert keras.layers.AlphaDropout.call is before
    assert all("call" not in vars(layer) for layer in model.layers)


def test_normal_numbers_of_all_words_are_finite_and_have_a_variance_of_one():
    words = ops.arange(2**23, dtype="int32")
    numbers = np.asarray(ops.convert_to_numpy(normal_of(words)), np.float64)
    assert np.isfinite(numbers).all()
    assert numbers.mean() == pytest.approx(0.0, abs=1e-9)
    assert numbers.var() == pytest.approx(1.0, abs=1e-4)
    assert np.abs(numbers).max() < 5.3


class FixedBody(keras.Model):
    """A model whose body never trains, as in transfer learning."""

    def __init__(self, drop):
        super().__init__()
        self.body = keras.Sequential([layers.Flatten(), layers.Dropout(0.5, name="fixed")])
        self.drop = drop or self.body.layers[-1]
        self.head = layers.Dense(3, activation="softmax")

    def call(self, inputs, training=None):
        x = self.body(inputs, training=False)
        return self.head(self.drop(x, training=training))


def test_dropout_that_a_model_calls_with_training_false_stays_off():
    model = FixedBody(layers.Dropout(0.2, name="free"))
    model(INPUTS)
    assert [draw.layer for draw in Split.of(model).structure.draws] == ["free"]
    model = FixedBody(None)
    model(INPUTS)
    with pytest.raises(ModelError, match="'fixed', which a pass calls with training=True and"):
        Split.of(model)


@pytest.mark.filterwarnings("ignore:Layer 'flatten:UserWarning")  # it forgets the mask
def test_a_mask_of_padding_reaches_the_layers_behind_the_dropout():
    inputs = keras.Input((10,), dtype="int32")
    x = layers.Embedding(20, 8, mask_zero=True)(inputs)
    x = layers.Dropout(0.3)(x)
    x = layers.Flatten(name="flatten")(layers.MultiHeadAttention(2, 4)(x, x))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    words = np.random.default_rng(0).integers(1, 20, (7, 10)).astype(np.int32)
    words[:, 4:] = 0
    at_zero = Sampler(model, settings()).predict(words, n_samples=1, rates=[0.0]).probs
    plain = PlainModel(model, settings()).predict(words)
    np.testing.assert_allclose(at_zero, plain, atol=1e-6)


def test_the_plain_prediction_keeps_no_state():
    inputs = keras.Input(batch_shape=(7, *SHAPE))
    x = layers.SimpleRNN(4, stateful=True)(inputs)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    plain = PlainModel(model, settings())
    np.testing.assert_array_equal(plain.predict(INPUTS), plain.predict(INPUTS))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="an operation of TensorFlow")
def test_models_that_only_run_outside_of_a_program_are_refused():
    import tensorflow as tf  # noqa: PLC0415  # JAX works without it

    class OfAnySize(layers.Layer):
        def call(self, inputs):
            return tf.boolean_mask(inputs, tf.reduce_max(inputs, axis=(1, 2)) > -100)

        def compute_output_shape(self, shape):
            return shape

    class Eager(OfAnySize):
        def call(self, inputs):
            return inputs * float(np.asarray(inputs).max())

    with pytest.raises(ModelError, match="in which all shapes are known"):
        Split.of(with_layer(OfAnySize(), layers.Dropout(0.5)))
    with pytest.raises(ModelError, match=r"can be compiled and run, received NotImpl.*Eager"):
        PlainModel(with_layer(Eager()), settings()).predict(INPUTS)
