"""Corruptions, the unknown, ensembles and test-time rates: what can be told without a model."""

import io
import itertools
import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image
from sklearn.datasets import load_sample_images
from sklearn.metrics import roc_auc_score

from hpsearch.data.datasets import Arrays
from hpsearch.data.pixel_range import BYTES, PixelRange
from hpsearch.data.split import Data, Examples
from hpsearch.errors import ConfigError, DataError
from hpsearch.evaluation.corruptions import SEVERITIES, corrupt
from hpsearch.evaluation.dropout_rates import DropoutRates
from hpsearch.evaluation.ensembles import compared, equivalent
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.evaluation.out_of_distribution import OutOfDistribution, auroc, fitted, fpr_at_95
from hpsearch.evaluation.selective import Selective
from hpsearch.evaluation.settings import KINDS
from hpsearch.evaluation.shift import Shift
from hpsearch.mc_dropout.prediction import McDropout

ROOT = Path(__file__).parents[2]
DEFINITION = ROOT / "docs" / "results" / "corruptions.json"
CIFAR10 = ROOT.parent / "shared" / "cifar10" / "cifar10-jpeg.npz"


def pictures(channels=3, size=32, n=6):
    """Return images with smooth areas and edges."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    waves = [
        np.sin(6 * (x * a + y * b))[..., None] + (x > a)[..., None] for a, b in rng.random((n, 2))
    ]
    images = np.stack(
        [np.broadcast_to(w, (size, size, channels)) * rng.uniform(0.5, 1, channels) for w in waves]
    )
    return np.round(255 * (images - images.min()) / np.ptp(images)).astype(np.uint8)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Return the folder of the two photographs that come with scikit-learn."""
    folder = tmp_path_factory.mktemp("photographs")
    for n, photograph in enumerate(load_sample_images().images):
        Image.fromarray(photograph).save(folder / f"{n}.png")
    (folder / "LICENSE.txt").write_text("no photograph")
    return str(folder)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("shape", [(32, 32, 3), (8, 8, 1), (40, 33, 3), (1, 5, 2)])
def test_corruptions_keep_the_form_repeat_by_seed_and_get_worse(name, shape, photographs):
    images = pictures(*shape[2:], size=40)[:, : shape[0], : shape[1]]
    found = {s: corrupt(images, name, s, seed=3, photographs=photographs) for s in SEVERITIES}
    for made in found.values():
        assert (made.shape, made.dtype) == (images.shape, images.dtype)
    again = corrupt(images, name, 3, seed=3, photographs=photographs)
    np.testing.assert_array_equal(found[3], again)
    harm = [float(np.abs(found[s].astype(float) - images).mean()) for s in SEVERITIES]
    # CIFAR-10-C's third severity of an elastic transform is the one that shakes pixels most.
    if min(shape[:2]) > 1 and name not in ("elastic_transform", "frost"):
        assert harm[0] < harm[4]


def natural_images():
    """Return 126 images (32, 32, 3), parts of the photographs that come with scikit-learn."""
    images = []
    for photograph in load_sample_images().images:
        for top in range(0, 363, 60):
            for left in range(0, 576, 64):
                part = Image.fromarray(photograph[top : top + 64, left : left + 64])
                images.append(np.asarray(part.resize((32, 32), Image.Resampling.BOX)))
    return np.stack(images)


def cifar10():
    """Return the first 1,000 test images of CIFAR-10, which lie beside a checkout of this code."""
    if not CIFAR10.is_file():
        pytest.skip(f"there is no {CIFAR10.name} beside this checkout")
    with np.load(CIFAR10) as packed:
        stream, offsets = packed["test_jpeg"].tobytes(), packed["test_offsets"][:1001]
    files = [io.BytesIO(stream[a:b]) for a, b in itertools.pairwise(offsets)]
    return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])


@pytest.mark.parametrize(
    ("images", "of"),
    [(natural_images, "photographs"), pytest.param(cifar10, "cifar10", marks=pytest.mark.slow)],
)
def test_each_corruption_changes_images_as_much_as_the_published_definition(
    images, of, photographs
):
    published = json.loads(DEFINITION.read_text())[of]
    assert published.keys() == set(KINDS)
    given = images()
    ratios = {}
    for name, expected in published.items():
        for severity, error in zip(SEVERITIES, expected, strict=True):
            made = corrupt(given, name, severity, seed=0, photographs=photographs)
            own = float(np.abs(made.astype(float) - given).mean())
            ratios[name, severity] = own / error
    assert {key: ratio for key, ratio in ratios.items() if not 0.9 < ratio < 1.1} == {}


def test_larger_images_are_blurred_as_much_as_small_ones():
    photographs = [image[:420, :420] for image in load_sample_images().images]
    errors = {}
    for side in (32, 96):
        size = (side, side)
        given = [Image.fromarray(image).resize(size, Image.Resampling.BOX) for image in photographs]
        images = np.stack([np.asarray(image) for image in given])
        made = [corrupt(images, "defocus_blur", severity, seed=0) for severity in SEVERITIES]
        errors[side] = [np.abs(blurred.astype(float) - images).mean() for blurred in made]
    np.testing.assert_allclose(errors[96], errors[32], rtol=0.5)


def test_noise_has_the_strength_that_its_severity_says():
    grey = np.full((4, 32, 32, 3), 128, np.uint8)
    assert corrupt(grey, "gaussian_noise", 1, seed=0).std() == pytest.approx(10.2, rel=0.05)
    hit = corrupt(grey, "impulse_noise", 5, seed=0)
    assert (hit != 128).mean() == pytest.approx(0.07, rel=0.1)
    assert set(np.unique(hit)) == {0, 128, 255}
    assert corrupt(grey, "shot_noise", 5, seed=0).std() == pytest.approx(
        255 * np.sqrt(0.5 / 50), rel=0.05
    )


def test_contrast_and_brightness_on_hand_worked_pixels():
    image = np.array([[[[51, 51, 51], [153, 153, 153]]]], np.uint8)
    # The second is 76.5, and CIFAR-10-C cuts fractions off.
    assert corrupt(image, "contrast", 2, seed=0)[0, 0, :, 0].tolist() == [76, 127]
    assert corrupt(image, "brightness", 5, seed=0)[0, 0, :, 0].tolist() == [127, 229]


def test_blurs_keep_a_flat_image_flat_and_float_images_are_refused():
    flat = np.full((2, 32, 32, 3), 100, np.uint8)
    blurs = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform")
    for name in (*blurs, "pixelate"):
        np.testing.assert_array_equal(corrupt(flat, name, 5, seed=0), flat)
    with pytest.raises(TypeError, match=r"Expected uint8 images. Received: images.dtype=float32"):
        corrupt(flat.astype(np.float32), "fog", 1, seed=0)


def test_photographs_of_frost_must_be_there_and_large_enough(tmp_path):
    images = pictures()
    with pytest.raises(DataError, match=r"a folder of photographs of frost .* without any"):
        corrupt(images, "frost", 1, seed=0, photographs=str(tmp_path))
    Image.new("RGB", (200, 100)).save(tmp_path / "small.jpg")
    (tmp_path / "second").mkdir()
    Image.new("RGB", (200, 100)).save(tmp_path / "second" / "small.jpg")
    with pytest.raises(DataError, match=r"at least 160 x 160 pixels .*small.jpg of 200 x 100"):
        corrupt(images, "frost", 1, seed=0, photographs=str(tmp_path / "second"))


def test_the_real_cifar_10_c_is_read_by_severity(tmp_path):
    images = np.repeat(np.arange(5, dtype=np.uint8), 4)[:, None, None, None] * np.ones(
        (1, 32, 32, 3), np.uint8
    )
    np.save(tmp_path / "fog.npy", images)
    np.save(tmp_path / "labels.npy", np.tile(np.arange(4, dtype=np.uint8), 5))
    shift = Shift(names=["fog"], n_images=3, n_samples=1, path=str(tmp_path), seed=0)
    found, labels = shift.stored("fog", 3)
    assert (found == 2).all()
    assert labels.tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"Expected contrast.npy and labels.npy of CIFAR-10-C"):
        shift.stored("contrast", 1)
    with pytest.raises(ConfigError, match=r"Expected spatter.npy of CIFAR-10-C in .* nothing"):
        replace(shift, names=["fog", "spatter"])
    for wrong, of_labels in [
        (images[:16], np.tile(np.arange(4), 5)),
        (images / 255, np.tile(np.arange(4), 5)),
        (images[..., 0], np.tile(np.arange(4), 5)),
        (images, np.arange(20)),  # as of one severity alone
        (images, np.zeros((5, 4), int)),
    ]:
        np.save(tmp_path / "fog.npy", wrong)
        np.save(tmp_path / "labels.npy", of_labels)
        with pytest.raises(DataError, match=r"Expected fog.npy of CIFAR-10-C .* uint8 images"):
            shift.stored("fog", 1)


def test_a_misspelt_corruption_is_answered_with_the_nearest():
    with pytest.raises(
        ConfigError, match=r"There is no corruption fogg for parts.shift.names. Did you mean 'fog'"
    ):
        Shift(names=["fogg"], n_images=1, n_samples=1, path=None, seed=0)
    for name, needs in [("spatter", r"give their folder, parts.shift.path"), ("frost", "=FOLDER")]:
        with pytest.raises(ConfigError, match=needs):
            Shift(names=[name], n_images=1, n_samples=1, path=None, seed=0)
    with pytest.raises(ConfigError, match=r"parts.shift.frost=nowhere"):
        Shift(names=["fog"], n_images=1, n_samples=1, path=None, seed=0, frost="nowhere")


def test_detection_on_hand_worked_scores():
    known, unknown = np.array([0.1, 0.2, 0.3, 0.9]), np.array([0.4, 0.5, 0.6, 0.7])
    assert auroc(known, unknown) == pytest.approx(12 / 16)
    assert fpr_at_95(known, unknown) == pytest.approx(1 / 4)
    assert auroc(known, known) == 0.5
    scores = np.random.default_rng(0).random((2, 50))
    assert auroc(*scores) == pytest.approx(roc_auc_score([0] * 50 + [1] * 50, scores.ravel()))


@pytest.mark.parametrize(
    ("channels", "dtype", "known"),
    [
        (1, np.uint8, BYTES),
        (3, np.uint8, BYTES),
        (3, np.float32, PixelRange((0.0,), (1.0,))),
        (3, np.float32, PixelRange((-2.1, -2.0, -1.8), (2.2, 2.4, 2.6))),
    ],
)
def test_unknown_images_take_the_form_of_known_ones(channels, dtype, known):
    like = np.zeros((2, 8, 8, channels), dtype)  # dark ones, which must not count
    made = fitted(pictures(3, 32), like, BYTES, known)
    assert made.shape == (6, 8, 8, channels)
    assert made.dtype == dtype
    assert known.is_of(made)
    unknown = np.full((1, 32, 32, 1), -0.6, np.float32)
    grey = fitted(unknown, like, PixelRange((-1.0,), (1.0,)), known)
    fifth = np.array(known.low) + 0.2 * (np.array(known.high) - np.array(known.low))
    np.testing.assert_allclose(grey.mean(axis=(0, 1, 2)), np.broadcast_to(fifth, channels), 1e-6)


def test_a_deep_ensemble_equivalent_lies_on_the_curve():
    assert equivalent([1.0, 0.8, 0.7], 0.9) == pytest.approx(1.5)
    assert equivalent([1.0, 0.8, 0.7], 0.7) == 3
    assert equivalent([1.0, 0.8, 0.7], 2.0) == 1
    assert equivalent([1.0, 0.8, 0.7], 0.1) == 3


@pytest.mark.parametrize(
    ("nll", "said"),
    [
        (0.9, "is worth a deep ensemble of 1.5"),
        (0.1, "has a lower NLL than ensembles of 1 to 3 of them have on average"),
        (2.0, "has a higher NLL than one of them alone has on average"),
    ],
)
def test_an_nll_beside_the_curve_is_not_called_an_ensemble(nll, said):
    assert compared(nll, [1.0, 0.8, 0.7]) == said


def test_test_time_choices_keep_off_what_is_off_and_are_all_different():
    rates = DropoutRates([0.1, 0.5], n_samples=1, n_resamples=100, level=0.05, seed=0)
    found = rates.choices([0.0, 0.1, 0.2])
    assert found["all", "own"] == (0.0, 0.1, 0.2)
    assert found["all", "0.5"] == (0.0, 0.5, 0.5)
    # Of two active layers, the last is the last half.
    assert found["last half", "own"] == (0.0, 0.0, 0.2)
    assert all(values[0] == 0 for values in found.values())
    assert len(set(found.values())) == len(found)


def evaluated(images, pixel_range, as_given):
    """Return one and the same small model, of images that are given in another range.

    Args:
        images: Test images of 3 channels from 0 to 255.
        pixel_range: The range that is recorded.
        as_given: The range in which the model takes the images, and gets them here.
    """
    keras.utils.set_random_seed(0)
    low, high = np.array(as_given.low), np.array(as_given.high)
    inputs = keras.Input(images.shape[1:])
    unit = layers.Rescaling(1 / (high - low), -low / (high - low))(inputs)
    x = layers.Dense(16, activation="relu")(layers.Flatten()(unit))
    probs = layers.Dense(3, activation="softmax")(layers.Dropout(0.3)(x))
    labels = (np.arange(len(images)) % 3).astype(np.int32)
    dtype = np.dtype(np.float32)
    if as_given == BYTES:
        dtype = np.dtype(np.uint8)
    test = Examples(as_given.from_bytes(images, dtype), labels)
    settings = McDropout(
        n_samples=3, shared_masks=False, seed=0, batch_size=64, memory_mb=64, from_logits=False
    )
    model = keras.Model(inputs, probs)
    return EvaluatedModel(model, settings, test, test, pixel_range=pixel_range)


@pytest.mark.slow
def test_a_model_is_corrupted_alike_in_whatever_range_its_inputs_are(tmp_path):
    dark = pictures(3, 12) // 4  # up to 63, which looks neither like 0 to 255 nor like 0 to 1
    shift = Shift(names=["fog", "defocus_blur"], n_images=5, n_samples=3, path=None, seed=0)
    standardized = PixelRange((-2.1, -2.0, -1.8), (2.2, 2.4, 2.6))
    models = [evaluated(dark, one, one) for one in (BYTES, standardized)]
    found = [shift.examine(model) for model in models]
    for key, curve in found[0].curves.items():
        np.testing.assert_allclose(found[1].curves[key], curve, rtol=1e-4, atol=1e-6)
    assert "Means over 2 kinds of corruption, made from the test images" in found[0].text
    assert "Not in parts.shift.names: gaussian_noise, " in found[0].text

    # Files of CIFAR-10-C that are not corrupted give what the test images give.
    labels = (np.arange(len(dark)) % 3).astype(np.uint8)
    np.save(tmp_path / "saturate.npy", np.concatenate([dark] * 5))
    np.save(tmp_path / "labels.npy", np.concatenate([labels] * 5))
    stored = replace(shift, names=["saturate"], path=str(tmp_path))
    means = stored.examine(models[1]).curves["test/shift/mean/plain/nll"]
    np.testing.assert_allclose([value for _, value in means], means[0][1], rtol=1e-4)
    np.save(tmp_path / "labels.npy", np.concatenate([labels + 2] * 5))
    with pytest.raises(DataError, match=r"from 0 to 2 in labels.npy .* from 2 to 4"):
        stored.examine(models[0])
    np.save(tmp_path / "saturate.npy", np.concatenate([dark[:, :8, :8]] * 5))
    with pytest.raises(DataError, match=r"shape \(12, 12, 3\) in parts.shift.path, received"):
        stored.examine(models[0])


def test_nothing_is_corrupted_or_shown_where_black_and_white_are_unknown():
    images = pictures(3, 12)
    standardized = PixelRange((-2.1, -2.0, -1.8), (2.2, 2.4, 2.6))
    shift = Shift(names=["fog"], n_images=5, n_samples=3, path=None, seed=0)
    model = evaluated(images, None, standardized)
    section = shift.examine(model)
    reason = "unknown: the training images are neither uint8 nor go from 0 to 1"
    assert reason in section.text
    assert not section.table
    answers = Selective(coverage=0.8).examine(model)
    assert reason in answers.text
    assert "extremes" not in [figure.name for figure in answers.figures]
    other = evaluated(images, PixelRange((0.0,), (1.0,)), standardized)
    assert "Black and white are [0.0, 1.0] in the training images" in shift.examine(other).text


def given(inputs, name, **settings):
    """Return a data set whose train and test images are those given."""
    targets = np.arange(len(inputs)) % 2
    arrays = Arrays(inputs, targets, inputs, targets, None)
    return Data(
        name=name, load=lambda: arrays, path=None, n_train=None, n_val=2, split_seed=0, **settings
    )


def test_unknown_images_whose_range_is_unknown_are_not_compared():
    unknown = pictures(3, 12).astype(np.float32) / 255 - 0.5
    model = evaluated(pictures(3, 12), BYTES, BYTES)
    part = OutOfDistribution(data=given(unknown, "odd"), classes=None, n_images=5, n_samples=2)
    section = part.examine(model)
    assert "parts.unknown.data.range=[LOW, HIGH] gives them" in section.text
    assert not section.table
    said = replace(part, data=given(unknown, "odd", range=[-0.5, 0.5])).examine(model)
    assert len(said.table) == 5
    # They are the same images, in another range.
    assert {row[1] for row in said.table[1:]} == {"0.5000"}
    not_known = evaluated(pictures(3, 12), None, PixelRange((-1.0,), (1.0,)))
    assert "data.range=[LOW, HIGH] of the data set" in part.examine(not_known).text


def test_unknown_inputs_that_are_no_pictures_must_have_the_models_own_form():
    model = evaluated(pictures(2, 12), BYTES, BYTES)
    same = given(pictures(2, 12), "same")
    part = OutOfDistribution(data=same, classes=None, n_images=5, n_samples=2)
    assert len(part.examine(model).table) == 5
    floats = given(pictures(2, 12).astype(np.float32), "floats")
    with pytest.raises(DataError, match=r"inputs of uint8, .* received float32; only grey"):
        replace(part, data=floats).examine(model)
    with pytest.raises(DataError, match=r"shape \(12, 12, 2\), received \(8, 8, 2\); only grey"):
        replace(part, data=given(pictures(2, 8), "small")).examine(model)
