"""Examine whether a model's class probabilities are calibrated.

`Calibration` measures the calibration error (ECE) of each arm, before and after temperature
scaling, and compares it with the error that chance alone would show.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.random import Generator
from scipy.optimize import brentq

from hpsearch import metrics
from hpsearch.evaluation import settings
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.html_report.section import Figure, Section, drawn, panels
from hpsearch.metrics import Flags, Floats, Ints, Reliability
from hpsearch.seeds import derive

# The range in which a temperature is searched. Examples that are all answered rightly would have
# the lowest of any range, however few they are, so it ends where a confident error costs four times
# its NLL. High temperatures do no such harm; 100 takes all confidence from a probability of 1.
TEMPERATURES = (0.25, 100.0)


class Calibration(settings.Calibration):
    """The part of an evaluation that measures calibration.

    `evaluation.settings` describes its settings.
    """

    _HEAD: ClassVar = (
        "arm",
        "temperature",
        "NLL",
        "Brier score",
        "ECE",
        "null band",
        "adaptive ECE",
        "null band",
    )

    def examine(self, evaluated: EvaluatedModel) -> Section:
        """Measure all arms on test, before and after temperature scaling."""
        labels = evaluated.test.targets
        fitted_on = evaluated.calibrating
        rows: list[tuple[str, ...]] = [self._HEAD]
        found = {}
        confidences = {}
        rights = {}
        at_bounds = []
        for arm, probs in evaluated.on_test.items():
            fitted = temperature(evaluated.on_calibrating[arm], fitted_on.targets)
            if fitted in TEMPERATURES:
                at_bounds.append(f"{fitted:g} of {arm}")
            found[f"test/{arm}_scaled/temperature"] = fitted
            after = scaled(probs, fitted)
            for key, name, shown, distributions in (
                (arm, arm, "", probs),
                (f"{arm}_scaled", f"{arm}, scaled", f"{fitted:.3f}", after),
            ):
                confidences[name] = distributions.max(axis=1)
                rights[name] = metrics.correct(probs, labels)  # scaling keeps the order of classes
                measured = self._measured(key, distributions, labels)
                for measure, value in measured.items():
                    found[f"test/{key}/{measure}"] = value
                rows.append((name, shown, *_cells(measured)))
        text = (
            "A null band holds the ECEs that chance alone would give a calibrated model on "
            f"{len(labels):,} examples. A model with an ECE above its band is over- or "
            f"underconfident. ECE has {Reliability.N_BINS} bins of equal width, adaptive ECE as "
            f"many of equal mass. Temperatures are fitted on {evaluated.calibrated_on}."
        )
        if at_bounds:
            low, high = TEMPERATURES
            text += (
                f" The temperature {' and '.join(at_bounds)} is the end of the range from {low:g} "
                f"to {high:g} that is searched: these examples would have it beyond, as where all "
                "answers are right or most are wrong, and do not determine it."
            )
        diagrams = self._diagrams(confidences, rights)
        return Section("Calibration", text, rows, found, figures=[diagrams])

    def _measured(self, name: str, probs: Floats, labels: Ints) -> dict[str, float]:
        """Return the measures of distributions on test by their names in MLflow."""
        confidence = probs.max(axis=1)
        low, high = self.null_band(confidence, name)
        of_equal_mass = Reliability.equal_mass(confidence)
        adaptive_low, adaptive_high = self.null_band(confidence, name, of_equal_mass)
        return {
            "nll": metrics.nll(probs, labels),
            "brier_score": metrics.brier_score(probs, labels),
            "ece": metrics.ece(probs, labels),
            "ece_null_low": low,
            "ece_null_high": high,
            "adaptive_ece": metrics.adaptive_ece(probs, labels),
            "adaptive_ece_null_low": adaptive_low,
            "adaptive_ece_null_high": adaptive_high,
        }

    def null_band(
        self,
        confidence: Floats,
        name: str,
        bins: Ints | None = None,
    ) -> tuple[float, float]:
        """Return the ECEs, (low, high), between which a calibrated model would fall.

        Each simulation lets every answer be right with the probability that the model gave it. The
        ECE that remains is the error that N examples show by chance.

        Args:
            confidence: Probability of the predicted class of each example, (N,).
            name: A name of the model, so that each has simulations of its own.
            bins: The number of each example's bin, (N,); None takes bins of equal width.

        Reference: Broecker and Smith, "Increasing the Reliability of Reliability Diagrams", 2007.
        """
        seed = derive(self.seed, name)
        rng = np.random.default_rng(seed)
        if bins is None:
            bins = Reliability.equal_width(confidence)
        simulated = _simulated(bins, confidence, self.n_simulations, rng)
        eces = [bins.ece for bins in simulated]
        low, high = np.quantile(eces, self._ends)
        return float(low), float(high)

    def _diagrams(self, confidences: dict[str, Floats], rights: dict[str, Flags]) -> Figure:
        """Draw accuracy over confidence for each arm, with the band of a calibrated model."""
        plot, axes = panels(len(confidences), width=3.4, height=3.6)
        seed = derive(self.seed, "diagram")
        rng = np.random.default_rng(seed)
        for axis, name in zip(axes, confidences, strict=True):
            confidence = confidences[name]
            numbers = Reliability.equal_width(confidence)
            bins = Reliability.in_bins(numbers, confidence, rights[name])
            simulated = _simulated(numbers, confidence, 500, rng)
            accuracies = [simulation.accuracy for simulation in simulated]
            low, high = np.quantile(accuracies, self._ends, axis=0)
            filled = bins.count > 0
            x = bins.confidence[filled]
            y = bins.accuracy[filled]
            diagonal = [0, 1]
            axis.plot(diagonal, diagonal, color="grey", linewidth=1)
            axis.fill_between(
                x,
                low[filled],
                high[filled],
                color="tab:blue",
                alpha=0.2,
            )
            axis.plot(x, y, "o-", color="tab:blue", markersize=4)
            axis.set_title(f"{name} (ECE {bins.ece:.3f})")
            axis.set_xlabel("confidence")
            axis.set_xlim(0, 1)
            axis.set_ylim(0, 1)
        axes[0].set_ylabel("accuracy")
        caption = (
            f"Accuracy of the answers over their confidence, in {Reliability.N_BINS} bins. Each "
            "point of a calibrated model falls into the blue band with probability "
            f"{settings.percent(1 - self.level)}. A model whose points lie below the band is "
            "overconfident."
        )
        return drawn("reliability", plot, caption)

    @property
    def _ends(self) -> list[float]:
        """The shares of simulations below the two ends of a band."""
        below = self.level / 2
        return [below, 1 - below]


def _simulated(
    bins: Ints,
    confidence: Floats,
    n: int,
    rng: Generator,
) -> list[Reliability]:
    """Return the bins of `n` models whose answers are right as often as they are confident."""
    found = []
    for _ in range(n):
        right = rng.random(len(confidence)) < confidence
        found.append(Reliability.in_bins(bins, confidence, right))
    return found


def temperature(probs: Floats, labels: Ints) -> float:
    """Return the temperature T in `TEMPERATURES` that minimizes the NLL of softmax(log(probs) / T).

    The NLL is convex in 1 / T, so the zero of its slope is the one minimum. Where the minimum lies
    beyond an end of the range, that end is returned; where each distribution is uniform, so that no
    temperature changes anything, 1.

    Args:
        probs: Distributions, (N, C), N >= 1; they may hold 0 and 1.
        labels: Class of each example, (N,). Any classes may be missing.

    Reference: Guo et al., "On Calibration of Modern Neural Networks", 2017.
    """
    logits = metrics.log(probs)
    logits -= logits.max(axis=1, keepdims=True)
    if not logits.any():
        return 1.0
    rows = np.arange(len(labels))
    of_labels = logits[rows, labels].mean()

    def slope(log_temperature: float) -> float:
        """Return the derivative of the NLL by 1 / T."""
        weighted = scaled(probs, np.exp(log_temperature)) * logits
        return float(weighted.sum(axis=1).mean() - of_labels)

    low, high = TEMPERATURES
    if slope(np.log(low)) <= 0:
        return low
    if slope(np.log(high)) >= 0:
        return high
    return float(np.exp(brentq(slope, np.log(low), np.log(high))))


def scaled(probs: Floats, temperature: float) -> Floats:
    """Return softmax(log(probs) / temperature), (N, C)."""
    logits = metrics.log(probs) / temperature
    highest = logits.max(axis=1, keepdims=True)
    powers = np.exp(logits - highest)
    sums = powers.sum(axis=1, keepdims=True)
    return np.asarray(powers / sums)


def _cells(values: dict[str, float]) -> tuple[str, ...]:
    """Return the measures of a row as they are shown."""
    return (
        f"{values['nll']:.4f}",
        f"{values['brier_score']:.4f}",
        f"{values['ece']:.4f}",
        f"{values['ece_null_low']:.4f} to {values['ece_null_high']:.4f}",
        f"{values['adaptive_ece']:.4f}",
        f"{values['adaptive_ece_null_low']:.4f} to {values['adaptive_ece_null_high']:.4f}",
    )
