"""Examine whether a model is less certain of images of a data set on which it was not trained."""

from __future__ import annotations

import numpy as np
from PIL import Image
from sklearn.metrics import roc_auc_score, roc_curve

from hpsearch import metrics
from hpsearch.data.forms import Images
from hpsearch.data.split import Data
from hpsearch.errors import DataError
from hpsearch.evaluation import settings
from hpsearch.evaluation.evaluated_model import EvaluatedModel, white
from hpsearch.html_report.section import Section
from hpsearch.mc_dropout.prediction import McPrediction
from hpsearch.metrics import Flags, Floats


class OutOfDistribution(settings.OutOfDistribution):
    """The part of an evaluation that compares known with unknown images.

    `evaluation.settings` describes its settings.
    """

    def examine(self, evaluated: EvaluatedModel) -> Section | None:
        """Measure how well each score of uncertainty tells unknown from known test images.

        Raises:
            DataError: The data set has no test images of the classes.
        """
        if self.data is None:
            return None
        known = evaluated.test.inputs[: self.n_images]
        as_stored = self._unknown(self.data)
        unknown = fitted(as_stored, known)
        scores = []
        for images in (known, unknown):
            mc = evaluated.sampler.predict(images, n_samples=self.n_samples)
            plain = evaluated.plain(images)
            scores.append(uncertainties(plain, mc))
        known_scores, unknown_scores = scores
        rows = [("score", "AUROC", "FPR at 95 %")]
        found = {}
        for name, known_score in known_scores.items():
            unknown_score = unknown_scores[name]
            area = auroc(known_score, unknown_score)
            refused = fpr_at_95(known_score, unknown_score)
            rows.append((name, f"{area:.4f}", f"{refused:.4f}"))
            found[f"test/unknown/{name}/auroc"] = area
            found[f"test/unknown/{name}/fpr_at_95"] = refused
        source = self.data.name
        if self.classes is not None:
            source = f"{source}, classes {list(self.classes)}"
        text = (
            f"{len(known):,} test images are compared with {len(unknown):,} images of {source}. "
            "AUROC is the probability that an unknown image has a higher score than a known one. "
            "FPR is the share of known images that are refused if 95 % of the unknown ones are."
        )
        return Section(
            title="The unknown",
            text=text,
            table=rows,
            metrics=found,
        )

    def _unknown(self, data: Data) -> Images:
        """Return the first unknown images as they are in their data set."""
        examples = data.test()
        chosen = np.ones(len(examples), bool)
        if self.classes is not None:
            chosen = np.isin(examples.targets, self.classes)
        if not chosen.any():
            raise DataError(
                f"Expected test images of classes {self.classes} in {data.name}, received none."
            )
        images = examples.inputs[chosen]
        return images[: self.n_images]


def uncertainties(plain: Floats, mc: McPrediction) -> dict[str, Floats]:
    """Return the scores of uncertainty of the same images by name, (N,) each.

    Args:
        plain: The plain distributions, (N, C).
        mc: The prediction of MC Dropout.
    """
    return {
        "plain/one_minus_confidence": 1.0 - plain.max(axis=1),
        "plain/entropy": metrics.predictive_entropy(plain),
        "mc/entropy": mc.predictive_entropy,
        "mc/mutual_information": mc.mutual_information,
    }


def auroc(known: Floats, unknown: Floats) -> float:
    """Return the probability that an unknown image has a higher score than a known one.

    Ties count half.

    Args:
        known: Scores of known images, (N,).
        unknown: Scores of unknown images, (M,).
    """
    detection = _as_detection(known, unknown)
    area = roc_auc_score(*detection)
    return float(area)


def fpr_at_95(known: Floats, unknown: Floats) -> float:
    """Return the share of known images that are refused if 95 % of the unknown ones are.

    Args:
        known: Scores of known images, (N,).
        unknown: Scores of unknown images, (M,).
    """
    detection = _as_detection(known, unknown)
    false_positive, true_positive, _ = roc_curve(*detection, drop_intermediate=False)
    first = np.argmax(true_positive >= 0.95)
    return float(false_positive[first])


def _as_detection(known: Floats, unknown: Floats) -> tuple[Flags, Floats]:
    """Return whether each image is unknown, and its score, (N + M,) each."""
    scores = np.concatenate([known, unknown])
    places = np.arange(len(scores))
    is_unknown = places >= len(known)
    return is_unknown, scores


def fitted(images: Images, like: Images) -> Images:
    """Return images with the size, channels, scale and dtype of the images that a model knows.

    Inputs that are no images are returned as they are.

    Args:
        images: Pixels, (M, h, w, 1 or 3), or other inputs of the form of `like`.
        like: Pixels, (N, H, W, 1 or 3), or other inputs, (N, ...).

    Raises:
        DataError: The inputs are no images, and their shapes or dtypes differ.
    """
    if images.ndim != 4 or like.ndim != 4:
        if images.shape[1:] != like.shape[1:]:
            raise DataError(
                f"Expected unknown inputs of shape {like.shape[1:]}, received {images.shape[1:]}; "
                "only images (H, W, C) can be resized."
            )
        if images.dtype != like.dtype:
            raise DataError(
                f"Expected unknown inputs of {like.dtype}, as the model's own, received "
                f"{images.dtype}; only images (H, W, C) can be scaled."
            )
        return images
    _, height, width, channels = like.shape
    mode = "RGB"
    if channels == 1:
        mode = "L"
    brightness = images / white(images) * 255
    in_bytes = np.round(brightness).astype(np.uint8)
    if in_bytes.shape[-1] == 1:
        in_bytes = in_bytes[..., 0]
    size = (width, height)
    shape = like.shape[1:]
    resized = np.empty((len(images), *shape))
    for place, pixels in enumerate(in_bytes):
        picture = Image.fromarray(pixels).convert(mode)
        picture = picture.resize(size, Image.Resampling.BILINEAR)
        array = np.asarray(picture)
        resized[place] = np.reshape(array, shape)
    scale = 255.0 / white(like)
    return (resized / scale).astype(like.dtype)
