"""Estimate how many passes of MC Dropout are enough.

The NLL of the mean of S passes falls with 1 / S. The fit of this law gives the NLL of infinitely
many passes, and the number of passes that comes close to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np

from hpsearch import metrics
from hpsearch.evaluation import settings
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.html_report.section import Figure, Section, drawn
from hpsearch.mc_dropout.prediction import McPrediction
from hpsearch.metrics import Floats, Ints

_FIRST_FITTED = 4  # The number of groups of passes from which on the law holds well.


class NumberOfPasses(settings.NumberOfPasses):
    """The part of an evaluation that examines the number of passes.

    `evaluation.settings` describes its settings.
    """

    def examine(self, evaluated: EvaluatedModel) -> Section | None:
        """Fit the law on test. This describes MC Dropout and chooses nothing.

        Returns:
            A section, or None without MC Dropout.
        """
        if evaluated.left_out is not None:
            return None
        title = "How many passes?"
        law = self.law(evaluated.mc_test)
        if law is None:
            return Section(
                title,
                f"This needs at least {2 * _FIRST_FITTED} passes, and uncertainty.n_samples is "
                f"{evaluated.mc_test.n_samples}.",
            )
        enough = law.n_within(self.tolerance)
        n_samples = evaluated.mc_test.n_samples
        found = {
            "test/mc/nll_at_infinity": law.at_infinity,
            "test/mc/nll_slope": law.slope,
            "test/mc/n_samples_enough": float(enough),
        }
        steps = law.n_samples.tolist()
        nlls = law.nll.tolist()
        curve = list(zip(steps, nlls, strict=True))
        text = (
            f"NLL(S) = {law.at_infinity:.4f} + {law.slope:.4f} / S. At S = {enough} the NLL is "
            f"within {self.tolerance:g} nats of that of infinitely many passes. At S = "
            f"{n_samples} it is {law.slope / n_samples:.2g} nats above that."
        )
        return Section(
            title=title,
            text=text,
            metrics=found,
            curves={"test/mc/nll_over_passes": curve},
            figures=[self._figure(law)],
        )

    def law(self, prediction: McPrediction) -> _PassesLaw | None:
        """Fit the law to a prediction, which holds the label's probability in each group of passes.

        Returns:
            The law; None where there are too few passes for a fit.
        """
        group_size = prediction.group_size
        n_groups = prediction.n_samples // group_size  # leaves out a last group that is smaller
        groups = prediction.label_probs[:n_groups]
        if n_groups < 2 * _FIRST_FITTED:
            return None
        rng = np.random.default_rng(self.seed)
        counts = np.arange(1, n_groups + 1)
        total = np.zeros(n_groups)
        for _ in range(self.n_orders):
            order = rng.permutation(n_groups)
            sums = np.cumsum(groups[order], axis=0)
            log_probs = metrics.log(sums / counts[:, None])
            total -= log_probs.mean(axis=1)
        n_samples = counts * group_size
        nll = total / self.n_orders
        fitted = slice(_FIRST_FITTED - 1, None)
        inverse = 1.0 / n_samples[fitted]
        slope, at_infinity = np.polyfit(inverse, nll[fitted], 1)
        slope = max(slope, 0.0)
        return _PassesLaw(
            n_samples=n_samples,
            nll=nll,
            at_infinity=float(at_infinity),
            slope=float(slope),
        )

    def _figure(self, law: _PassesLaw) -> Figure:
        """Draw the NLL over the number of passes S, with the fitted law."""
        plot, axis = plt.subplots(figsize=(5.5, 3.8))
        s = law.n_samples
        fitted = law.at_infinity + law.slope / s
        axis.plot(s, law.nll, "o", markersize=3, label="measured")
        axis.plot(s, fitted, label="fitted: NLL at infinity + slope / S")
        axis.axhspan(
            law.at_infinity,
            law.at_infinity + self.tolerance,
            color="grey",
            alpha=0.3,
            label=f"within {self.tolerance:g}",
        )
        axis.set(xlabel="passes S", ylabel="NLL on test, nats", xscale="log")
        axis.legend()
        caption = (
            "NLL of the mean of S passes, averaged over orders of the passes. Once the curve is in "
            "the grey band, more passes improve the NLL by less than the tolerance."
        )
        return drawn("nll_over_passes", plot, caption)


@dataclass(frozen=True)
class _PassesLaw:
    """The law NLL(S) = at_infinity + slope / S, with the measurements to which it is fitted.

    Attributes:
        n_samples: The number of passes S of each measurement, (G,).
        nll: NLL of the mean of S passes, averaged over orders of the passes, (G,).
        at_infinity: The fitted NLL of infinitely many passes.
        slope: How much higher the NLL of a single pass is. By the curvature of -log it is the
            mean of Var(p) / (2 p^2).
    """

    n_samples: Ints
    nll: Floats
    at_infinity: float
    slope: float

    def n_within(self, tolerance: float) -> int:
        """Return the smallest S whose NLL is within `tolerance` of that at infinity."""
        n_samples = math.ceil(self.slope / tolerance - 1e-9)
        return max(1, n_samples)
