import keras
import numpy as np
import pytest
from keras import layers, ops

from hpsearch import metrics
from hpsearch.errors import ConfigError, ModelError
from hpsearch.mc_dropout import certificate, stochastic
from hpsearch.mc_dropout.certificate import Certificate, fingerprint
from hpsearch.mc_dropout.conversion import Split
from hpsearch.mc_dropout.passes import Sampler
from hpsearch.mc_dropout.plain import PlainModel
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.models.dropout_masks import random_bits, row_keys

IMAGES = np.random.default_rng(0).integers(0, 256, (37, 6, 6, 3)).astype(np.float32)


def settings(**changes):
    return McDropout(
        **{
            "n_samples": 6,
            "shared_masks": False,
            "seed": 3,
            "batch_size": 16,
            "memory_mb": 64,
            "from_logits": False,
        }
        | changes
    )


def dense(*noise, norm=False, name="net"):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 6, 3))
    x = layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
    for layer in noise:
        x = layers.Dense(12, activation="selu")(x)
        x = layer(layers.BatchNormalization()(x) if norm else x)
    return keras.Model(inputs, layers.Dense(4, activation="softmax")(x), name=name)


def residual():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, padding="same", activation="relu")(layers.Rescaling(1 / 255)(inputs))
    y = layers.SpatialDropout2D(0.3)(
        layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x))
    )
    x = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
    return keras.Model(
        inputs, layers.Dense(4, activation="softmax")(layers.GaussianDropout(0.2)(x))
    )


def nested():
    keras.utils.set_random_seed(1)
    body = keras.Sequential(
        [keras.Input((6, 6, 3)), layers.Flatten(), layers.Dense(8), layers.Dropout(0.4)]
    )
    return keras.Sequential(
        [keras.Input((6, 6, 3)), layers.Rescaling(1 / 255), body, layers.Dense(4, "softmax")]
    )


MODELS = {
    "dropout": lambda: dense(layers.Dropout(0.3), layers.Dropout(0.5)),
    "alpha": lambda: dense(layers.AlphaDropout(0.2), layers.AlphaDropout(0.1)),
    "batch_norm": lambda: dense(layers.Dropout(0.3), layers.Dropout(0.3), norm=True),
    "residual": residual,
    "nested": nested,
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("model", ["dropout", "residual"], indirect=True)
def test_same_seed_gives_the_same_numbers_at_any_batch_size(model, shared):
    reference = Sampler(model, settings(shared_masks=shared, batch_size=1000)).predict(IMAGES)
    for size in (1, 7):
        again = Sampler(model, settings(shared_masks=shared, batch_size=size)).predict(IMAGES)
        np.testing.assert_allclose(again.probs, reference.probs, atol=1e-6)
        np.testing.assert_allclose(again.variance, reference.variance, atol=1e-6)
        np.testing.assert_allclose(again.votes, reference.votes)


def test_evaluation_changes_nothing_and_passes_its_own_test(model):
    before, plain = fingerprint(model), model.predict(IMAGES, verbose=0)
    found = Certificate.of(Sampler(model, settings()), IMAGES)
    assert found.failures == []
    assert fingerprint(model) == before
    np.testing.assert_array_equal(model.predict(IMAGES, verbose=0), plain)


def test_sums_are_those_of_the_samples():
    model = MODELS["dropout"]()
    sampler = Sampler(model, settings())
    samples = sampler.samples(IMAGES, n_samples=6, seed=3)
    labels = np.arange(len(IMAGES)) % 4

    sums = sampler.predict(IMAGES, labels)
    np.testing.assert_allclose(sums.probs, samples.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(sums.variance, samples.var(axis=0), atol=1e-6)
    np.testing.assert_allclose(sums.expected_entropy, metrics.expected_entropy(samples), atol=1e-5)
    np.testing.assert_allclose(
        sums.mutual_information, metrics.mutual_information(samples), atol=1e-5
    )
    np.testing.assert_allclose(sums.variation_ratio, metrics.variation_ratio(samples), atol=1e-6)
    np.testing.assert_allclose(
        sums.label_probs, samples[:, np.arange(len(IMAGES)), labels], atol=1e-6
    )


def test_one_mask_a_pass_treats_equal_images_equally():
    same = np.repeat(IMAGES[:1], 5, axis=0)
    model = MODELS["dropout"]()
    shared = Sampler(model, settings(shared_masks=True)).predict(same).probs
    np.testing.assert_allclose(shared, np.repeat(shared[:1], 5, axis=0), atol=1e-6)
    own = Sampler(model, settings(shared_masks=False)).predict(same).probs
    assert np.abs(own - own[:1]).max() > 1e-3


def test_masks_of_both_modes_have_the_same_mean():
    model = MODELS["alpha"]()
    example, shared = (
        Sampler(model, settings(shared_masks=shared, n_samples=4000)).predict(IMAGES[:8])
        for shared in (False, True)
    )
    error = np.sqrt(2 * example.variance / 4000)
    assert (np.abs(example.probs - shared.probs) < 6 * error).all()


def test_another_seed_gives_other_numbers():
    model = MODELS["dropout"]()
    sampler = Sampler(model, settings())
    assert (
        np.abs(sampler.predict(IMAGES, seed=1).probs - sampler.predict(IMAGES, seed=2).probs).max()
        > 1e-3
    )


def test_passes_are_told_apart_in_groups_of_bounded_number():
    prediction = Sampler(MODELS["dropout"](), settings(n_samples=300)).predict(
        IMAGES, np.zeros(37, int)
    )
    assert prediction.label_probs.shape == (100, 37)
    np.testing.assert_allclose(
        prediction.label_probs.mean(axis=0), prediction.probs[:, 0], atol=1e-5
    )


def test_the_prefix_ends_before_the_first_active_dropout():
    model = dense(layers.Dropout(0.0), layers.Dropout(0.3), layers.Dropout(0.3))
    part = Split.of(model)
    assert part._prefix.count_params() == 108 * 12 + 12 + 12 * 12 + 12
    assert part.rates == (0.3, 0.3)


def test_rates_can_be_replaced_without_another_conversion():
    model = MODELS["dropout"]()
    sampler = Sampler(model, settings())
    assert sampler.predict(IMAGES, rates=[0, 0]).variance.max() < 1e-8
    low, high = (
        sampler.predict(IMAGES, rates=[rate, rate]).variance.mean() for rate in (0.05, 0.5)
    )
    assert low < high


def test_a_memory_limit_makes_batches_smaller_not_numbers_other():
    model = MODELS["dropout"]()
    free, bound = (
        Sampler(model, settings(batch_size=37)),
        Sampler(model, settings(batch_size=37, memory_mb=0.01)),
    )
    assert bound.rows_per_call(37) < free.rows_per_call(37)
    np.testing.assert_allclose(bound.predict(IMAGES).probs, free.predict(IMAGES).probs, atol=1e-6)
    with pytest.raises(ModelError, match=r"One image needs .* MB in a pass"):
        Sampler(model, settings(memory_mb=1e-6)).predict(IMAGES)


def test_draws_are_even_and_independent():
    seeds = np.asarray([11, 22], np.int32)
    rows = ops.arange(400, dtype="int32")
    draws = [
        np.asarray(random_bits(row_keys(seeds, number, rows), position, 500)) / 2.0**32
        for number, position in [(0, 0), (1, 0), (0, 1)]
    ]
    n = draws[0].size
    for words in draws:
        assert abs(words.mean()) < 6 * np.sqrt(1 / 12 / n)
        assert abs(words.var() - 1 / 12) < 6 * np.sqrt(1 / 180 / n)
        low_bits = np.floor(words * 2**32).astype(np.int64) & 0xFF
        assert abs(low_bits.mean() - 127.5) < 6 * np.sqrt((256**2 - 1) / 12 / n)
        for a, b in [(words[1:], words[:-1]), (words[:, 1:], words[:, :-1])]:
            assert abs((a * b).mean() * 12) < 6 / np.sqrt(n)
    for other in draws[1:]:
        assert abs((draws[0] * other).mean() * 12) < 6 / np.sqrt(n)


def test_spatial_dropout_drops_whole_channels():
    inputs = keras.Input((5, 5, 8))
    part = Split.of(keras.Model(inputs, layers.Flatten()(layers.SpatialDropout2D(0.5)(inputs))))
    keys = row_keys(np.asarray([1, 2], np.int32), 0, ops.arange(20, dtype="int32"))
    rates = ops.convert_to_tensor([0.5])
    kept = np.asarray(part.outputs([ops.ones((20, 5, 5, 8))], keys, keys[:1], rates))
    kept = kept.reshape(20, 25, 8)
    assert (kept == kept[:, :1]).all()
    assert set(np.unique(kept)) == {0.0, 2.0}


def test_a_broken_alpha_dropout_is_found(monkeypatch):
    monkeypatch.setattr(certificate, "alpha_dropped", lambda inputs, uniform, rate: inputs * 1.1)
    with pytest.raises(
        ModelError, match=r"AlphaDropout moves mean or variance by .* standard errors"
    ):
        Certificate.of(Sampler(MODELS["alpha"](), settings()), IMAGES)


def test_a_conversion_that_is_off_with_all_rates_at_zero_is_found(monkeypatch):
    monkeypatch.setattr(stochastic, "dropped", lambda inputs, uniform, rate: inputs + 0.5)
    with pytest.raises(
        ModelError,
        match=r"received: the samples do not vary; with all rates at 0 the output is .* off",
    ):
        Certificate.of(Sampler(MODELS["dropout"](), settings()), IMAGES)


def test_batch_norm_stays_in_inference_mode_even_where_a_graph_says_training():
    inputs = keras.Input((6, 6, 3))
    x = layers.Dropout(0.3)(layers.Flatten()(inputs))
    x = layers.BatchNormalization()(x, training=True)
    model = keras.Model(inputs, layers.Dense(4, activation="softmax")(x))
    assert Certificate.of(Sampler(model, settings()), IMAGES).variables_unchanged


class Unbuilt(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (dense, "active dropout for MC Dropout, received one with no dropout layer: train it"),
        (
            lambda: dense(layers.Dropout(0.0)),
            r"received one with dropout layers whose rate is 0 \(1\)",
        ),
        (
            lambda: dense(layers.Dropout(1.0, name="all")),
            "at least 0 and below 1, received 1.0 for 'all'",
        ),
        (Unbuilt, "Expected a built model with one input for MC Dropout, received 'unbuilt'"),
    ],
)
def test_a_model_that_cannot_be_sampled_gets_one_sentence(build, message):
    with pytest.raises(ModelError, match=message):
        Sampler(build(), settings())


def test_logits_are_refused_unless_announced():
    inputs = keras.Input((6, 6, 3))
    logits = layers.Dense(4)(
        layers.Dropout(0.3)(layers.Flatten()(layers.Rescaling(1 / 255)(inputs)))
    )
    model = keras.Model(inputs, logits)
    with pytest.raises(ModelError, match=r"or give uncertainty.from_logits=true"):
        Sampler(model, settings()).predict(IMAGES)
    with pytest.raises(ModelError, match=r"or give uncertainty.from_logits=true"):
        PlainModel(model, settings()).predict(IMAGES)
    probs = Sampler(model, settings(from_logits=True)).predict(IMAGES).probs
    assert probs.sum(axis=1) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "uncertainty.batch_size must be above 0, but is 0."),
        ({"n_samples": 0}, "uncertainty.n_samples must be above 0, but is 0."),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        settings(**changes)
