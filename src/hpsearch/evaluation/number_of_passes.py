"""How many passes are enough? NLL over S, its 1/S law, and its value at infinity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hpsearch.errors import ConfigError
from hpsearch.evaluation import figures
from hpsearch.evaluation.evaluated_model import Subject
from hpsearch.html_report.section import Section
from hpsearch.mc_dropout.prediction import McPrediction
from hpsearch.metrics import SMALLEST, Floats, Ints

FIRST_FITTED = 4  # groups of passes from which on the law holds well


@dataclass(frozen=True)
class PassesLaw:
    """NLL(S) = at_infinity + slope / S, as measured.

    Attributes:
        n_samples: The S of each measurement, (G,).
        nll: NLL of the mean of S passes, (G,), averaged over orders of the passes.
        at_infinity: The fitted NLL of infinitely many passes.
        slope: What one pass adds to it; the law follows from -log's curvature: Var(p) / (2 p^2),
            averaged.
    """

    n_samples: Ints
    nll: Floats
    at_infinity: float
    slope: float

    def n_within(self, tolerance: float) -> int:
        """Return the smallest S whose NLL is within `tolerance` of that at infinity."""
        return max(1, math.ceil(self.slope / tolerance - 1e-9))


def passes_law(prediction: McPrediction, n_orders: int, seed: int) -> PassesLaw:
    """Measure the law on the groups of passes that a prediction has kept apart.

    Raises:
        ConfigError: Too few passes for a fit.
    """
    groups = prediction.label_probs[
        : prediction.n_samples // prediction.group_size
    ]  # the last may be smaller
    if len(groups) < 2 * FIRST_FITTED:
        raise ConfigError(
            f"Expected at least {2 * FIRST_FITTED} passes for the curve of passes, received "
            f"uncertainty.n_samples={prediction.n_samples}: give more, or parts.passes=null."
        )
    rng = np.random.default_rng(seed)
    counts = np.arange(1, len(groups) + 1)
    total = np.zeros(len(groups))
    for _ in range(n_orders):
        means = np.cumsum(groups[rng.permutation(len(groups))], axis=0) / counts[:, None]
        total += -np.log(np.maximum(means, SMALLEST)).mean(axis=1)
    n_samples, nll = counts * prediction.group_size, total / n_orders
    fitted = slice(FIRST_FITTED - 1, None)
    slope, at_infinity = np.polyfit(1.0 / n_samples[fitted], nll[fitted], 1)
    return PassesLaw(n_samples, nll, float(at_infinity), float(max(slope, 0.0)))


@dataclass(frozen=True)
class Passes:
    """Settings of the part on the number of passes.

    Attributes:
        tolerance: Nats of NLL by which one may stay above the value at infinity.
        n_orders: Orders of the passes over which the curve is averaged.
        seed: Draws these orders.
    """

    tolerance: float
    n_orders: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if self.tolerance <= 0:
            raise ConfigError(
                f"Expected a positive tolerance of the curve of passes, received {self.tolerance}."
            )

    def examine(self, subject: Subject) -> Section:
        """Fit the law on test: it describes MC Dropout and chooses nothing."""
        law = passes_law(subject.mc_test, self.n_orders, self.seed)
        enough = law.n_within(self.tolerance)
        found = {
            "nll_at_infinity": law.at_infinity,
            "nll_slope": law.slope,
            "n_samples_enough": float(enough),
        }
        curve = [(int(s), float(v)) for s, v in zip(law.n_samples, law.nll, strict=True)]
        text = (
            f"NLL(S) = {law.at_infinity:.4f} + {law.slope:.4f} / S. {enough} passes come within "
            f"{self.tolerance:g} "
            f"nats of infinitely many; {subject.mc_test.n_samples} passes are "
            f"{law.slope / subject.mc_test.n_samples:.2g} above."
        )
        return Section(
            "How many passes?",
            text,
            metrics={f"test/mc/{name}": value for name, value in found.items()},
            curves={"test/mc/nll_over_passes": curve},
            figures=[
                figures.over_passes(
                    law.n_samples, law.nll, law.at_infinity, law.slope, self.tolerance
                )
            ],
        )
