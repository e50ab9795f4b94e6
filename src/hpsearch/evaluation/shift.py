"""Measure how well predictions hold when images are corrupted.

`Shift` compares the arms at five severities of each kind of corruption. `corruptions` makes them
of the test images; `Shift.stored` reads the files of CIFAR-10-C instead (Hendrycks and Dietterich,
"Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", 2019).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from hpsearch import metrics
from hpsearch.data.pixel_range import Bytes
from hpsearch.errors import DataError
from hpsearch.evaluation import settings
from hpsearch.evaluation.corruptions import SEVERITIES, corrupt
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.html_report.section import Figure, Section, drawn
from hpsearch.metrics import Floats, Ints

_TITLE = "Under shift"
_MEASURES = (metrics.accuracy, metrics.nll, metrics.ece)


class Shift(settings.Shift):
    """The part of an evaluation that measures predictions of corrupted images.

    `evaluation.settings` describes its settings.
    """

    def examine(self, evaluated: EvaluatedModel) -> Section:
        """Measure each arm at each severity of each corruption.

        Where the inputs cannot be read as pixels, the section says why.

        Raises:
            DataError: The files of CIFAR-10-C or the photographs of frost do not fit.
        """
        pixels = evaluated.pixels
        if pixels is None:
            text = f"No corruptions are made. {evaluated.why_no_pixels}"
            return Section(title=_TITLE, text=text)
        inputs = evaluated.test.inputs[: self.n_images]
        labels = evaluated.test.targets[: self.n_images]
        images = pixels.to_bytes(inputs)
        clean = self._measured(evaluated.by_arm(inputs, n_samples=self.n_samples), labels)
        means = {key: [value] for key, value in clean.items()}
        curves = defaultdict(list)
        for severity in SEVERITIES:
            found = defaultdict(list)
            for name in self._made():
                corrupted, their_labels = self._corrupted(images, labels, name, severity)
                as_inputs = pixels.from_bytes(corrupted, inputs.dtype)
                by_arm = evaluated.by_arm(as_inputs, n_samples=self.n_samples)
                _check_labels(their_labels, by_arm)
                for key, value in self._measured(by_arm, their_labels).items():
                    point = (severity, value)
                    curves[f"test/shift/{name}/{key}"].append(point)
                    found[key].append(value)
            for key, values in found.items():
                mean = float(np.mean(values))
                means[key].append(mean)
        for key, values in means.items():
            curves[f"test/shift/mean/{key}"] = list(enumerate(values))
        figure = _figure(means)
        return Section(
            title=_TITLE,
            text=self._text("mc/nll" in means),
            table=_table(means),
            curves=curves,
            figures=[figure],
        )

    def _made(self) -> list[str]:
        """Return the kinds of corruption that can be made, or read."""
        made = []
        for name in self.names:
            if name != "frost" or self.path or self.frost:
                made.append(name)
        return made

    def _text(self, has_mc: bool) -> str:
        made = self._made()
        source = "made from the test images as CIFAR-10-C defines them"
        if self.path:
            source = "read from the files of CIFAR-10-C"
        kinds = "kinds"
        if len(made) == 1:
            kinds = "kind"
        text = f"Means over {len(made)} {kinds} of corruption, {source}"
        if has_mc:
            text += f", with {self.n_samples} passes of MC Dropout"
        text += "."
        if "frost" in self.names and "frost" not in made:
            text += (
                " Left out is frost, which needs a folder of photographs: parts.shift.frost=FOLDER."
            )
        unnamed = [name for name in settings.KINDS if name not in self.names]
        if unnamed:
            text += f" Not in parts.shift.names: {', '.join(unnamed)}."
        return text

    def _corrupted(
        self,
        images: Bytes,
        labels: Ints,
        name: str,
        severity: int,
    ) -> tuple[Bytes, Ints]:
        """Return corrupted images and their labels, of CIFAR-10-C if its folder is given."""
        if self.path is None:
            corrupted = corrupt(images, name, severity, seed=self.seed, photographs=self.frost)
            return corrupted, labels
        theirs, their_labels = self.stored(name, severity)
        expected = images.shape[1:]
        received = theirs.shape[1:]
        if received != expected:
            raise DataError(
                f"Expected images of shape {expected} in parts.shift.path, received "
                f"{received}. CIFAR-10-C fits only models of CIFAR-10."
            )
        return theirs, their_labels

    def stored(self, name: str, severity: int) -> tuple[Bytes, Ints]:
        """Return the first images of one severity of the original CIFAR-10-C, and their labels.

        Raises:
            DataError: The folder does not hold the files, or they have another form.
        """
        try:
            images = np.load(f"{self.path}/{name}.npy", mmap_mode="r")
            labels = np.load(f"{self.path}/labels.npy")
        except (OSError, ValueError) as error:
            raise DataError(
                f"Expected {name}.npy and labels.npy of CIFAR-10-C in {self.path}, received "
                f"{error}. parts.shift.path=null makes corruptions from the test images."
            ) from error
        if not _has_form(images, labels):
            raise DataError(
                f"Expected {name}.npy of CIFAR-10-C in {self.path} to hold uint8 images (N, H, W, "
                "C), those of severity 1 first, and labels.npy the same labels for each of the "
                f"five severities, received {images.dtype} {images.shape} with labels "
                f"{labels.dtype} {labels.shape}."
            )
        n_each = len(labels) // len(SEVERITIES)
        first = (severity - 1) * n_each
        last = first + min(self.n_images, n_each)
        chosen = slice(first, last)
        their_images = np.array(images[chosen])
        their_labels = labels[chosen].astype(np.int64)
        return their_images, their_labels

    def _measured(self, by_arm: Mapping[str, Floats], labels: Ints) -> dict[str, float]:
        """Return each measure of each arm by a key such as `mc/nll`."""
        found = {}
        for measure in _MEASURES:
            for arm, probs in by_arm.items():
                found[f"{arm}/{measure.__name__}"] = measure(probs, labels)
        return found


def _has_form(images: NDArray[Any], labels: NDArray[Any]) -> bool:
    """Return whether arrays hold five severities of the same images, one after the other."""
    is_of_images = images.dtype == np.uint8 and images.ndim == 4
    is_of_labels = labels.dtype.kind in "iu" and labels.ndim == 1
    n_severities = len(SEVERITIES)
    if not is_of_images or not is_of_labels or len(labels) < n_severities:
        return False
    if len(images) != len(labels) or len(labels) % n_severities:
        return False
    by_severity = labels.reshape(n_severities, -1)
    return bool((by_severity == by_severity[0]).all())


def _check_labels(labels: Ints, by_arm: Mapping[str, Floats]) -> None:
    """Raise DataError for labels that a model has no class for."""
    for probs in by_arm.values():
        n_classes = probs.shape[1]
        if labels.min() < 0 or labels.max() >= n_classes:
            raise DataError(
                f"Expected labels from 0 to {n_classes - 1} in labels.npy of parts.shift.path, as "
                f"the model has {n_classes} classes, received labels from {labels.min()} to "
                f"{labels.max()}."
            )


def _table(means: Mapping[str, Sequence[float]]) -> list[list[str]]:
    """Return the rows of a table of the means by severity, by keys such as `mc/nll`."""
    head = ["measure", "arm", "clean"]
    for severity in SEVERITIES:
        head.append(f"severity {severity}")
    rows = [head]
    for key, values in means.items():
        arm, measure = key.split("/")
        cells = [f"{value:.4f}" for value in values]
        rows.append([measure, arm, *cells])
    return rows


def _figure(means: Mapping[str, Sequence[float]]) -> Figure:
    """Draw measures over the severity of corruptions.

    Args:
        means: Means over kinds of corruption for each severity from 0, by keys such as `mc/nll`.
    """
    inches = (12.0, 3.6)
    plot, axes = plt.subplots(1, len(_MEASURES), figsize=inches, layout="constrained")
    for axis, function in zip(axes, _MEASURES, strict=True):
        for key, curve in means.items():
            arm, measure = key.split("/")
            if measure == function.__name__:
                axis.plot(curve, "o-", label=arm)
        axis.set_xlabel("severity")
        axis.set_ylabel(function.__name__)
        axis.set_xticks(range(len(SEVERITIES) + 1))
        axis.legend()
    caption = (
        "Measures as images get worse, averaged over kinds of corruption. Severity 0 is the test "
        "set as it is. If the uncertainty of a model can be trusted, its accuracy falls while its "
        "ECE stays low."
    )
    return drawn("shift", plot, caption)
