"""The settings of the parts of an evaluation, which are checked before anything is measured.

Each part inherits from the class of its name here. This module imports no Keras, so that a mistake
in a setting is answered at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpsearch.data.split import Data
from hpsearch.errors import ConfigError, did_you_mean

MEASURES = ("accuracy", "nll", "brier_score", "squared_calibration_error", "aurc")
# Kinds of corruption; `evaluation.corruptions` makes them.
KINDS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
# Further kinds that the files of CIFAR-10-C hold.
_STORED_KINDS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")


def percent(share: float) -> str:
    """Return a share in percent with as many digits as it has, so that 0.9995 is not 100%."""
    return f"{100 * share:.6g}%"


def _check_level(level: float) -> None:
    """Raise ConfigError for a level that is no probability of an error."""
    if not 0 < level < 1:
        raise ConfigError(f"level must lie between 0 and 1, but is {level}.")


def _check_resamples(n_resamples: int, level: float) -> None:
    """Raise ConfigError for so few resamples that no difference could be called."""
    _check_level(level)
    fewest = math.ceil(len(MEASURES) / level)
    if n_resamples < fewest:
        raise ConfigError(
            f"Expected at least {fewest} resamples for the level {level}, received "
            f"n_resamples={n_resamples}."
        )


@dataclass(frozen=True)
class Verdict:
    """The part of an evaluation that compares each arm with the plain prediction on test.

    Attributes:
        level: Probability that equally good arms are called different by any measure, in (0, 1).
        n_resamples: Number of resamples of the paired bootstrap.
        n_seeds: Number of sets of random draws with which an arm that draws is compared.
        seed: Seed of the resampling.
    """

    level: float
    n_resamples: int
    n_seeds: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        _check_resamples(self.n_resamples, self.level)
        if self.n_seeds < 1:
            raise ConfigError(
                f"Expected at least one set of masks, received n_seeds={self.n_seeds}."
            )


@dataclass(frozen=True)
class Methods:
    """The part of an evaluation that tells what each way to predict costs."""


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

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        _check_level(self.level)
        if self.n_simulations < 1:
            raise ConfigError(
                "Expected at least one simulated test set, received "
                f"parts.calibration.n_simulations={self.n_simulations}."
            )


@dataclass(frozen=True)
class Conformal:
    """The part of an evaluation that makes conformal sets.

    Attributes:
        coverage: Probability with which a set must hold the right class, in (0, 1).
        raps_penalty: What each place behind the first `raps_rank` ones adds to a score of RAPS.
        raps_rank: Number of the most probable classes without this penalty.
        level: Probability of a coverage outside of its interval by chance, in (0, 1).
    """

    coverage: float
    raps_penalty: float
    raps_rank: int
    level: float

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        if not 0 < self.coverage < 1:
            raise ConfigError(
                f"parts.conformal.coverage must lie between 0 and 1, but is {self.coverage}."
            )
        if self.raps_penalty < 0 or self.raps_rank < 1:
            raise ConfigError(
                "Expected raps_penalty from 0 on and raps_rank from 1 on in parts.conformal, "
                f"received raps_penalty={self.raps_penalty}, raps_rank={self.raps_rank}."
            )
        _check_level(self.level)


@dataclass(frozen=True)
class Selective:
    """The part of an evaluation in which the model answers only where it is certain.

    Attributes:
        coverage: Share of examples answered at which the error rate is measured, in (0, 1].
    """

    coverage: float

    def __post_init__(self) -> None:
        """Refuse a coverage that is out of range."""
        if not 0 < self.coverage <= 1:
            raise ConfigError(
                "Expected parts.selective.coverage above 0 and at most 1, received "
                f"{self.coverage}."
            )


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
        _check_resamples(self.n_resamples, self.level)
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
        names: Kinds of corruption, from `KINDS`; with `path` also from `_STORED_KINDS`.
        n_images: Number of test images, at most; the first ones are taken.
        n_samples: Number of passes of MC Dropout.
        path: Folder of the original CIFAR-10-C. None corrupts the test images instead.
        seed: Root of all random draws.
        frost: Folder of photographs of frost, which the kind `frost` needs. None leaves it out.
    """

    names: Sequence[str]
    n_images: int
    n_samples: int
    path: str | None
    seed: int
    frost: str | None = None

    def __post_init__(self) -> None:
        """Refuse unknown corruptions, settings that are out of range and files that are missing."""
        known: Sequence[str] = KINDS
        if self.path is not None:
            known = (*KINDS, *_STORED_KINDS)
        for name in self.names:
            if name in _STORED_KINDS and self.path is None:
                raise ConfigError(
                    f"The corruption {name} is only read from the files of CIFAR-10-C: give their "
                    "folder, parts.shift.path=FOLDER, or leave it out of parts.shift.names."
                )
            if name not in known:
                raise ConfigError(
                    f"There is no corruption {name} for "
                    f"parts.shift.names.{did_you_mean(name, known)}"
                )
        are_positive = self.n_images >= 1 and self.n_samples >= 1
        if not self.names or not are_positive:
            raise ConfigError(
                "Expected corruptions with positive n_images and n_samples, received "
                f"names={list(self.names)}, n_images={self.n_images}, n_samples={self.n_samples}."
            )
        self._check_folders()

    def _check_folders(self) -> None:
        """Raise ConfigError where a folder that is given lacks files."""
        if self.path is not None:
            for name in (*self.names, "labels"):
                if not (Path(self.path) / f"{name}.npy").is_file():
                    raise ConfigError(
                        f"Expected {name}.npy of CIFAR-10-C in parts.shift.path={self.path}, "
                        "received nothing there; parts.shift.path=null makes corruptions from the "
                        "test images."
                    )
        elif self.frost is not None and not Path(self.frost).is_dir():
            raise ConfigError(
                f"Expected a folder of photographs of frost at parts.shift.frost={self.frost}, "
                "received none; parts.shift.frost=null leaves this corruption out."
            )
        elif self.frost is None and set(self.names) == {"frost"}:
            raise ConfigError(
                "The corruption frost needs a folder of photographs: give parts.shift.frost=FOLDER."
            )


@dataclass(frozen=True)
class OutOfDistribution:
    """The part of an evaluation that compares known with unknown examples.

    Attributes:
        data: The data set whose test examples are unknown. None leaves this part out.
        classes: The labels in it whose examples are taken, such as classes that training has held
            out. None takes all.
        n_images: Number of known and of unknown examples, at most.
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
