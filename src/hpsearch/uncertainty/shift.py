"""What plain and MC Dropout predictions are worth when images get worse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpsearch import metrics
from hpsearch.errors import ConfigError, DataError, did_you_mean
from hpsearch.metrics import Floats, Ints
from hpsearch.pages.section import Section
from hpsearch.uncertainty import figures
from hpsearch.uncertainty.corruptions import CORRUPTIONS, SEVERITIES, corrupt, stored
from hpsearch.uncertainty.subject import ARMS, Subject

MEASURES = {"accuracy": metrics.accuracy, "nll": metrics.nll, "ece": metrics.ece}


@dataclass(frozen=True)
class Shift:
    """Settings of the part on corrupted images.

    Attributes:
        names: Kinds of corruption.
        n_images: The first so many test images, at most.
        n_samples: Passes of MC Dropout.
        path: Folder of the real CIFAR-10-C; None makes corruptions from the test images.
        seed: Root of all noise.
    """

    names: Sequence[str]
    n_images: int
    n_samples: int
    path: str | None
    seed: int

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        for name in self.names:
            if name not in CORRUPTIONS:
                raise ConfigError(
                    f"There is no corruption {name} for parts.shift.names.{did_you_mean(name, CORRUPTIONS)}"
                )
        if not self.names or self.n_images < 1 or self.n_samples < 1:
            raise ConfigError(
                "Expected corruptions with positive n_images and n_samples, received "
                f"names={list(self.names)}, n_images={self.n_images}, n_samples={self.n_samples}."
            )

    def examine(self, subject: Subject) -> Section:
        """Measure both arms at each severity of each corruption."""
        clean = self._measure(subject, subject.test.images[: self.n_images], subject.test.labels[: self.n_images])
        by_key: dict[str, list[tuple[int, float]]] = {}
        for name, severity, images, labels in self._corrupted(subject):
            for key, value in self._measure(subject, images, labels).items():
                by_key.setdefault(f"{name}/{key}", []).append((severity, value))
        mean = {
            key: [value, *(float(np.mean([by_key[f"{n}/{key}"][i][1] for n in self.names])) for i in range(5))]
            for key, value in clean.items()
        }
        n_steps = len(SEVERITIES) + 1
        rows = [("measure", "arm", "clean", *(f"severity {s}" for s in SEVERITIES))]
        rows += [(*reversed(key.split("/")), *(f"{v:.4f}" for v in values)) for key, values in mean.items()]
        curves = {f"test/shift/{key}": values for key, values in by_key.items()}
        curves |= {f"test/shift/mean/{key}": list(zip(range(n_steps), v, strict=True)) for key, v in mean.items()}
        drawn = {measure: {arm: mean[f"{arm}/{measure}"] for arm in ARMS} for measure in MEASURES}
        source = "CIFAR-10-C" if self.path else "made from the test images"
        return Section(
            "Under shift",
            f"Means over {len(self.names)} kinds of corruption, {source}, {self.n_samples} passes.",
            rows,
            curves=curves,
            figures=[figures.under_shift(drawn, list(MEASURES))],
        )

    def _corrupted(self, subject: Subject) -> Iterator[tuple[str, int, NDArray[Any], Ints]]:
        images, labels = subject.test.images[: self.n_images], np.asarray(subject.test.labels[: self.n_images])
        for name in self.names:
            for severity in SEVERITIES:
                if self.path is None:
                    yield name, severity, corrupt(images, name, severity, seed=self.seed), labels
                else:
                    theirs, their_labels = stored(Path(self.path), name, severity, self.n_images)
                    if theirs.shape[1:] != images.shape[1:]:
                        raise DataError(
                            f"Expected images of shape {images.shape[1:]} in parts.shift.path, "
                            f"received {theirs.shape[1:]}: it fits models of CIFAR-10 alone."
                        )
                    yield name, severity, theirs.astype(images.dtype), their_labels

    def _measure(self, subject: Subject, images: NDArray[Any], labels: Any) -> dict[str, float]:
        mc: Floats = subject.sampler.predict(images, n_samples=self.n_samples).probs
        arms = {"plain": subject.plain(images), "mc": mc}
        return {f"{arm}/{name}": how(arms[arm], labels) for name, how in MEASURES.items() for arm in ARMS}
