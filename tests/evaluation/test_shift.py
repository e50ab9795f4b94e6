"""Corruptions, the unknown, ensembles and test-time rates: what can be told without a model."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hpsearch.errors import ConfigError, DataError
from hpsearch.evaluation.dropout_rates import DropoutRates
from hpsearch.evaluation.ensembles import compared, equivalent
from hpsearch.evaluation.out_of_distribution import auroc, fitted, fpr_at_95
from hpsearch.evaluation.shift import CORRUPTIONS, Shift, corrupt


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


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 8)])
def test_corruptions_keep_the_form_repeat_by_seed_and_get_worse(name, channels, size):
    images = pictures(channels, size)
    found = {s: corrupt(images, name, s, seed=3) for s in Shift.SEVERITIES}
    for made in found.values():
        assert (made.shape, made.dtype) == (images.shape, images.dtype)
    np.testing.assert_array_equal(found[3], corrupt(images, name, 3, seed=3))
    harm = [float(np.abs(found[s].astype(float) - images).mean()) for s in Shift.SEVERITIES]
    assert harm[0] < harm[4]


def test_noise_has_the_strength_that_its_severity_says():
    grey = np.full((4, 32, 32, 3), 0.5, np.float32)
    assert corrupt(grey, "gaussian_noise", 1, seed=0).std() == pytest.approx(0.04, rel=0.05)
    hit = corrupt(grey, "impulse_noise", 5, seed=0)
    assert (hit != 0.5).mean() == pytest.approx(0.07, rel=0.1)
    assert set(np.unique(hit)) == {0.0, 0.5, 1.0}
    assert corrupt(grey, "shot_noise", 5, seed=0).std() == pytest.approx(
        np.sqrt(0.5 / 50), rel=0.05
    )


def test_contrast_and_brightness_on_hand_worked_pixels():
    image = np.array([[[[0.2, 0.2, 0.2], [0.6, 0.6, 0.6]]]], np.float64)
    assert corrupt(image, "contrast", 2, seed=0)[0, 0, :, 0] == pytest.approx([0.3, 0.5])
    assert corrupt(image, "brightness", 5, seed=0)[0, 0, :, 0] == pytest.approx([0.5, 0.9])


def test_blurs_keep_a_flat_image_flat():
    flat = np.full((2, 32, 32, 3), 100, np.uint8)
    for name in ("defocus_blur", "motion_blur", "pixelate"):
        np.testing.assert_array_equal(corrupt(flat, name, 5, seed=0), flat)


def test_the_real_cifar_10_c_is_read_by_severity(tmp_path):
    images = np.repeat(np.arange(5, dtype=np.uint8), 4)[:, None, None, None] * np.ones(
        (1, 32, 32, 3), np.uint8
    )
    np.save(tmp_path / "fog.npy", images)
    np.save(tmp_path / "labels.npy", np.tile(np.arange(4), 5))
    shift = Shift(names=["fog"], n_images=3, n_samples=1, path=str(tmp_path), seed=0)
    found, labels = shift.stored("fog", 3)
    assert (found == 2).all()
    assert labels.tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"Expected contrast.npy and labels.npy of CIFAR-10-C"):
        shift.stored("contrast", 1)


def test_a_misspelt_corruption_is_answered_with_the_nearest():
    with pytest.raises(
        ConfigError, match=r"There is no corruption fogg for parts.shift.names. Did you mean 'fog'"
    ):
        Shift(names=["fogg"], n_images=1, n_samples=1, path=None, seed=0)


def test_detection_on_hand_worked_scores():
    known, unknown = np.array([0.1, 0.2, 0.3, 0.9]), np.array([0.4, 0.5, 0.6, 0.7])
    assert auroc(known, unknown) == pytest.approx(12 / 16)
    assert fpr_at_95(known, unknown) == pytest.approx(1 / 4)
    assert auroc(known, known) == 0.5
    scores = np.random.default_rng(0).random((2, 50))
    assert auroc(*scores) == pytest.approx(roc_auc_score([0] * 50 + [1] * 50, scores.ravel()))


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint8), (3, np.float32)])
def test_unknown_images_take_the_form_of_known_ones(channels, dtype):
    like = np.zeros((2, 8, 8, channels), dtype)
    like[0] = 1 if dtype == np.float32 else 255
    made = fitted(pictures(3, 32), like)
    assert made.shape == (6, 8, 8, channels)
    assert made.dtype == dtype
    assert made.max() <= like.max()
    grey = fitted(np.full((1, 32, 32, 1), 51, np.uint8), like)
    assert float(grey.mean()) == pytest.approx(0.2 * float(like.max()))


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
    rates = DropoutRates([0.1, 0.5], n_samples=1, n_resamples=1, level=0.05, seed=0)
    found = rates.choices([0.0, 0.1, 0.2])
    assert found["all", "own"] == (0.0, 0.1, 0.2)
    assert found["all", "0.5"] == (0.0, 0.5, 0.5)
    # Of two active layers, the last is the last half.
    assert found["last half", "own"] == (0.0, 0.0, 0.2)
    assert all(values[0] == 0 for values in found.values())
    assert len(set(found.values())) == len(found)


def test_unknown_inputs_that_are_no_images_must_have_the_models_own_dtype():
    like = np.zeros((2, 3), np.uint8)
    assert np.array_equal(fitted(like + 1, like), like + 1)
    with pytest.raises(DataError, match=r"inputs of uint8, .* received float32; only images"):
        fitted(np.full((1, 3), 0.5, np.float32), like)
