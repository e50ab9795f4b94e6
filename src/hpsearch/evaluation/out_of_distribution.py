"""Does the model notice images of something that it has never learnt?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_auc_score, roc_curve

from hpsearch import metrics
from hpsearch.data.split import Data
from hpsearch.errors import ConfigError, DataError
from hpsearch.evaluation.evaluated_model import Subject
from hpsearch.html_report.section import Section
from hpsearch.metrics import Floats

CAUGHT = 0.95


def auroc(known: Floats, unknown: Floats) -> float:
    """Return the chance that an unknown image has a higher score than a known one, ties counting
    half.
    """
    return float(roc_auc_score(*_as_detection(known, unknown)))


def fpr_at_95(known: Floats, unknown: Floats) -> float:
    """Return the share of known images that are refused where 95 % of the unknown ones are."""
    false_positive, true_positive, _ = roc_curve(
        *_as_detection(known, unknown), drop_intermediate=False
    )
    return float(false_positive[np.argmax(true_positive >= CAUGHT)])


def _as_detection(known: Floats, unknown: Floats) -> tuple[NDArray[np.int64], Floats]:
    return np.repeat([0, 1], [len(known), len(unknown)]), np.concatenate([known, unknown])


def fitted(images: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    """Return images with the size, channels, scale and dtype of those that a model knows.

    Args:
        images: Pixels, (M, h, w, 1 or 3).
        like: Pixels, (N, H, W, 1 or 3).
    """
    height, width, channels = like.shape[1:]
    white = 255.0 if images.dtype == np.uint8 or images.max() > 1 else 1.0
    bytes_ = np.round(images / white * 255).astype(np.uint8)
    mode = "L" if channels == 1 else "RGB"
    shown = [Image.fromarray(i[..., 0] if i.shape[-1] == 1 else i).convert(mode) for i in bytes_]
    resized = np.stack(
        [np.asarray(i.resize((width, height), Image.Resampling.BILINEAR)) for i in shown]
    )
    resized = resized.reshape(len(images), height, width, channels)
    bright = 1.0 if like.dtype == np.uint8 or like.max() > 1 else 255.0
    return (resized / bright).astype(like.dtype)


@dataclass(frozen=True)
class Unknown:
    """Settings of the part on the unknown.

    Attributes:
        data: The data set whose test images are unknown; None leaves this part out.
        classes: Only these of its labels, such as classes that training has held out; None takes
            all.
        n_images: Of each kind, at most.
        n_samples: Passes of MC Dropout.
    """

    data: Data | None
    classes: Sequence[int] | None
    n_images: int
    n_samples: int

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if self.n_images < 1 or self.n_samples < 1:
            raise ConfigError(
                "Expected positive n_images and n_samples of the part on the unknown, received "
                f"n_images={self.n_images}, n_samples={self.n_samples}."
            )

    def examine(self, subject: Subject) -> Section | None:
        """Compare scores of known and unknown test images."""
        if self.data is None:
            return None
        strange = self.data.test()
        chosen = (
            np.isin(strange.labels, self.classes)
            if self.classes is not None
            else np.ones(len(strange), bool)
        )
        if not chosen.any():
            raise DataError(
                f"Expected test images of classes {self.classes} in {self.data.name}, received "
                f"none."
            )
        known = subject.test.images[: self.n_images]
        unknown = fitted(strange.images[chosen][: self.n_images], known)
        scores = [self._scores(subject, images) for images in (known, unknown)]
        rows, found = [("score", "AUROC", "FPR at 95 %")], dict[str, float]()
        for name in scores[0]:
            area, refused = (
                auroc(scores[0][name], scores[1][name]),
                fpr_at_95(scores[0][name], scores[1][name]),
            )
            rows.append((name, f"{area:.4f}", f"{refused:.4f}"))
            found |= {f"test/unknown/{name}/auroc": area, f"test/unknown/{name}/fpr_at_95": refused}
        of = (
            f"{self.data.name}, classes {list(self.classes)}"
            if self.classes is not None
            else self.data.name
        )
        text = (
            f"{len(known):,} test images against {len(unknown):,} of {of}. AUROC: the chance that "
            f"an unknown image has "
            "the higher score; FPR: known images refused where 95 % of the unknown ones are."
        )
        return Section("The unknown", text, rows, found)

    def _scores(self, subject: Subject, images: NDArray[Any]) -> dict[str, Floats]:
        plain, mc = subject.plain(images), subject.sampler.predict(images, n_samples=self.n_samples)
        return {
            "plain/one_minus_confidence": 1.0 - plain.max(axis=1),
            "plain/entropy": metrics.predictive_entropy(plain),
            "mc/entropy": mc.predictive_entropy,
            "mc/mutual_information": mc.mutual_information,
        }
