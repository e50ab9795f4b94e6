"""The settings of the parts of an evaluation, which are checked before anything is measured.

Each part inherits from the class of its name here. This module imports no Keras, so that a mistake
in a setting is answered at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hpsearch.data.split import Data
from hpsearch.errors import ConfigError, did_you_mean

MEASURES = ("accuracy", "nll", "brier_score", "ece", "aurc")
# Kinds of corruption; `evaluation.shift` has a function for each.
KINDS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "motion_blur",
    "fog",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
)


@dataclass(frozen=True)
class Verdict:
    """The part of an evaluation that compares the two arms on test.

    Attributes:
        level: Probability that equally good arms are called different by any measure, in (0, 1).
        n_resamples: Number of resamples of the paired bootstrap and of the permutation test.
        n_seeds: Number of sets of masks over which the spread of MC Dropout is measured.
        seed: Seed of the resampling.
    """

    level: float
    n_resamples: int
    n_seeds: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        if not 0 < self.level < 1:
            raise ConfigError(f"level must lie between 0 and 1, but is {self.level}.")
        fewest = math.ceil(len(MEASURES) / self.level)
        if self.n_resamples < fewest or self.n_seeds < 1:
            raise ConfigError(
                f"Expected at least {fewest} resamples for the level {self.level} and at least "
                f"one seed, received n_resamples={self.n_resamples}, n_seeds={self.n_seeds}."
            )


@dataclass(frozen=True)
class Calibration:
    """The part of an evaluation that measures calibration.

    Attributes:
        n_simulations: Number of simulated test sets behind a null band.
        level: Probability that a calibrated model falls outside of its null band.
        seed: Root of the seeds of the simulations.
    """

    n_simulations: int
    level: float
    seed: int


@dataclass(frozen=True)
class Conformal:
    """The part of an evaluation that makes conformal sets.

    Attributes:
        coverage: Probability with which a set must hold the right class, in (0, 1).
    """

    coverage: float

    def __post_init__(self) -> None:
        """Refuse a coverage that is out of range."""
        if not 0 < self.coverage < 1:
            raise ConfigError(
                f"parts.conformal.coverage must lie between 0 and 1, but is {self.coverage}."
            )


@dataclass(frozen=True)
class Selective:
    """The part of an evaluation in which the model answers only where it is certain.

    Attributes:
        coverage: Share of images answered at which the error rate is measured, in (0, 1].
    """

    coverage: float


@dataclass(frozen=True)
class NumberOfPasses:
    """The part of an evaluation that examines the number of passes.

    Attributes:
        tolerance: Acceptable distance of the NLL from that of infinitely many passes, in nats.
        n_orders: Number of orders of the passes over which the curve is averaged.
        seed: Seed of these orders.
    """

    tolerance: float
    n_orders: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse a tolerance that is not positive."""
        if self.tolerance <= 0:
            raise ConfigError(
                f"Expected a positive tolerance of the curve of passes, received {self.tolerance}."
            )


@dataclass(frozen=True)
class DropoutRates:
    """The part of an evaluation that searches dropout rates for test time.

    Attributes:
        rates: Rates to try beside each layer's own, in (0, 1).
        n_samples: Number of passes with each choice on val.
        n_resamples: Number of resamples of the comparison on test.
        level: Level of the comparison on test.
        seed: Seed of the comparison on test.
    """

    rates: Sequence[float]
    n_samples: int
    n_resamples: int
    level: float
    seed: int

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        outside = []
        for rate in self.rates:
            if not 0 < rate < 1:
                outside.append(rate)
        if outside or self.n_samples < 1:
            raise ConfigError(
                "Expected test-time rates between 0 and 1 and a positive n_samples, received "
                f"rates={list(self.rates)}, n_samples={self.n_samples}."
            )


@dataclass(frozen=True)
class Ensembles:
    """The part of an evaluation that measures ensembles.

    Attributes:
        n_members: Number of members, at most: the best trials whose models the study has kept.
        n_samples: Number of passes of MC Dropout of each member.
    """

    n_members: int
    n_samples: int

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        if self.n_members < 2 or self.n_samples < 1:
            raise ConfigError(
                "Expected at least two members and one pass of an ensemble, received "
                f"n_members={self.n_members}, n_samples={self.n_samples}."
            )


@dataclass(frozen=True)
class Shift:
    """The part of an evaluation that measures predictions of corrupted images.

    Attributes:
        names: Kinds of corruption, from `KINDS`.
        n_images: Number of test images, at most; the first ones are taken.
        n_samples: Number of passes of MC Dropout.
        path: Folder of the original CIFAR-10-C. None corrupts the test images instead.
        seed: Root of all random draws.
    """

    names: Sequence[str]
    n_images: int
    n_samples: int
    path: str | None
    seed: int

    def __post_init__(self) -> None:
        """Refuse unknown corruptions and settings that are out of range."""
        for name in self.names:
            if name not in KINDS:
                raise ConfigError(
                    f"There is no corruption {name} for "
                    f"parts.shift.names.{did_you_mean(name, KINDS)}"
                )
        are_positive = self.n_images >= 1 and self.n_samples >= 1
        if not self.names or not are_positive:
            raise ConfigError(
                "Expected corruptions with positive n_images and n_samples, received "
                f"names={list(self.names)}, n_images={self.n_images}, n_samples={self.n_samples}."
            )


@dataclass(frozen=True)
class OutOfDistribution:
    """The part of an evaluation that compares known with unknown images.

    Attributes:
        data: The data set whose test images are unknown. None leaves this part out.
        classes: The labels in it whose images are taken, such as classes that training has held
            out. None takes all.
        n_images: Number of known and of unknown images, at most.
        n_samples: Number of passes of MC Dropout.
    """

    data: Data | None
    classes: Sequence[int] | None
    n_images: int
    n_samples: int

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        if self.n_images < 1 or self.n_samples < 1:
            raise ConfigError(
                "Expected positive n_images and n_samples of the part on the unknown, received "
                f"n_images={self.n_images}, n_samples={self.n_samples}."
            )
