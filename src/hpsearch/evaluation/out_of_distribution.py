"""Examine whether a model is less certain of a data set on which it was not trained.

An unknown example is a positive one, as in the words "true positive": a score detects it where the
score is high. The measures of detection here have this convention.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image
from sklearn.metrics import roc_auc_score, roc_curve

from hpsearch import metrics
from hpsearch.data.forms import Images
from hpsearch.data.pixel_range import PixelRange
from hpsearch.data.split import Data
from hpsearch.errors import DataError
from hpsearch.evaluation import settings
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.html_report.section import Section
from hpsearch.mc_dropout.prediction import McPrediction
from hpsearch.metrics import Flags, Floats

_TITLE = "The unknown"


class OutOfDistribution(settings.OutOfDistribution):
    """The part of an evaluation that compares known with unknown examples.

    `evaluation.settings` describes its settings.
    """

    def examine(self, evaluated: EvaluatedModel) -> Section | None:
        """Measure how well each score of uncertainty tells unknown from known test examples.

        Raises:
            DataError: The data set has no test examples of the classes.
        """
        if self.data is None:
            return None
        known = evaluated.test.inputs[: self.n_images]
        as_stored = self._unknown(self.data)
        unknown = as_stored
        if _are_pictures(known) and _are_pictures(as_stored):
            of_known = evaluated.pixels
            of_unknown = self.data.for_search().pixel_range
            if of_known is None or of_unknown is None or not of_unknown.is_of(as_stored):
                return self._left_out(evaluated)
            unknown = fitted(as_stored, known, of_unknown, of_known)
        else:
            _check_alike(as_stored, known)
        scores = []
        for inputs in (known, unknown):
            arms = {}
            mc = None
            for arm in evaluated.arms:
                if arm == "mc":
                    mc = evaluated.sampler.predict(inputs, n_samples=self.n_samples)
                    arms[arm] = mc.probs
                else:
                    arms[arm] = evaluated.predict(arm, inputs)
            scores.append(uncertainties(arms, mc))
        rows, found = _detection(*scores)
        source = self.data.name
        if self.classes is not None:
            source = f"{source}, classes {list(self.classes)}"
        text = (
            f"{len(known):,} test examples are compared with {len(unknown):,} of {source}. The "
            "positive class is the unknown one. AUROC is the probability that an unknown example "
            "has a higher score than a known one. FPR, the false positive rate, is the share of "
            "known examples that are refused if 95 % of the unknown ones are (TPR, the true "
            "positive rate). Some papers take the known as positive: their AUROC is the same, "
            "their FPR at 95 % TPR is another number."
        )
        return Section(
            title=_TITLE,
            text=text,
            table=rows,
            metrics=found,
        )

    def _left_out(self, evaluated: EvaluatedModel) -> Section:
        why = evaluated.why_no_pixels
        if not why:
            why = (
                "The values of black and white in the unknown images cannot be told from their "
                "training images; parts.unknown.data.range=[LOW, HIGH] gives them."
            )
        return Section(title=_TITLE, text=f"No unknown images are compared. {why}")

    def _unknown(self, data: Data) -> Images:
        """Return the first unknown inputs as they are in their data set."""
        examples = data.test()
        chosen = np.ones(len(examples), bool)
        if self.classes is not None:
            chosen = np.isin(examples.targets, self.classes)
        if not chosen.any():
            raise DataError(
                f"Expected test examples of classes {self.classes} in {data.name}, received none."
            )
        images = examples.inputs[chosen]
        return images[: self.n_images]


def _detection(
    known: Mapping[str, Floats],
    unknown: Mapping[str, Floats],
) -> tuple[list[tuple[str, str, str]], dict[str, float]]:
    """Return the table of how well scores detect the unknown, and its numbers by MLflow key.

    Args:
        known: Scores of known examples by name, (N,) each.
        unknown: The same scores of unknown examples, (M,) each.
    """
    rows = [("score", "AUROC", "FPR at 95 % TPR")]
    found = {}
    for name, score in known.items():
        area = auroc(score, unknown[name])
        refused = fpr_at_95(score, unknown[name])
        rows.append((name, f"{area:.4f}", f"{refused:.4f}"))
        found[f"test/unknown/{name}/auroc"] = area
        found[f"test/unknown/{name}/fpr_at_95"] = refused
    return rows, found


def uncertainties(
    distributions: Mapping[str, Floats],
    mc: McPrediction | None,
) -> dict[str, Floats]:
    """Return the scores of uncertainty of the same examples by name, (N,) each.

    Args:
        distributions: The distributions by arm, (N, C) each. One arm is "plain".
        mc: The prediction of MC Dropout; None where there is none.
    """
    scores = {"plain/one_minus_confidence": 1.0 - distributions["plain"].max(axis=1)}
    for arm, probs in distributions.items():
        scores[f"{arm}/entropy"] = metrics.predictive_entropy(probs)
    if mc is not None:
        scores["mc/mutual_information"] = mc.mutual_information
    return scores


def auroc(known: Floats, unknown: Floats) -> float:
    """Return the probability that an unknown example has a higher score than a known one.

    This is the area under the ROC curve with the unknown as the positive class. Ties count half.

    Args:
        known: Scores of known examples, (N,).
        unknown: Scores of unknown examples, (M,).
    """
    detection = _as_detection(known, unknown)
    area = roc_auc_score(*detection)
    return float(area)


def fpr_at_95(known: Floats, unknown: Floats) -> float:
    """Return the share of known examples that are refused if 95 % of the unknown ones are.

    This is the false positive rate at a true positive rate of at least 95 %, with the unknown as
    the positive class. With the known as the positive class, as in some papers, it is another
    number: the share of unknown examples that pass if 95 % of the known ones do.

    Args:
        known: Scores of known examples, (N,).
        unknown: Scores of unknown examples, (M,).
    """
    detection = _as_detection(known, unknown)
    false_positive, true_positive, _ = roc_curve(*detection, drop_intermediate=False)
    first = np.argmax(true_positive >= 0.95)
    return float(false_positive[first])


def _as_detection(known: Floats, unknown: Floats) -> tuple[Flags, Floats]:
    """Return whether each example is unknown, and its score, (N + M,) each."""
    scores = np.concatenate([known, unknown])
    places = np.arange(len(scores))
    is_unknown = places >= len(known)
    return is_unknown, scores


def fitted(
    images: Images,
    like: Images,
    of_images: PixelRange,
    of_like: PixelRange,
) -> Images:
    """Return images with the size, channels, range and dtype of the images that a model knows.

    Args:
        images: Pixels, (M, h, w, 1 or 3).
        like: Pixels, (N, H, W, 1 or 3).
        of_images: The values of black and white in `images`.
        of_like: The values of black and white in `like`.
    """
    _, height, width, channels = like.shape
    mode = "RGB"
    if channels == 1:
        mode = "L"
    in_bytes = of_images.to_bytes(images)
    if in_bytes.shape[-1] == 1:
        in_bytes = in_bytes[..., 0]
    size = (width, height)
    shape = like.shape[1:]
    resized = np.empty((len(images), *shape), np.uint8)
    for place, pixels in enumerate(in_bytes):
        picture = Image.fromarray(pixels).convert(mode)
        picture = picture.resize(size, Image.Resampling.BILINEAR)
        array = np.asarray(picture)
        resized[place] = np.reshape(array, shape)
    return of_like.from_bytes(resized, like.dtype)


def _are_pictures(inputs: Images) -> bool:
    """Return whether inputs are grey or coloured images, which can be resized."""
    return inputs.ndim == 4 and inputs.shape[-1] in (1, 3)


def _check_alike(inputs: Images, like: Images) -> None:
    """Raise DataError for unknown inputs of another shape or dtype than those of a model."""
    if inputs.shape[1:] != like.shape[1:]:
        raise DataError(
            f"Expected unknown inputs of shape {like.shape[1:]}, received {inputs.shape[1:]}; "
            "only grey and coloured images (H, W, 1 or 3) can be resized."
        )
    if inputs.dtype != like.dtype:
        raise DataError(
            f"Expected unknown inputs of {like.dtype}, as the model's own, received "
            f"{inputs.dtype}; only grey and coloured images (H, W, 1 or 3) can be scaled."
        )
