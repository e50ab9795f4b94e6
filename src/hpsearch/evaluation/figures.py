"""The pictures of an evaluation, each with a caption that says what it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from hpsearch import metrics
from hpsearch.evaluation.differences import Difference
from hpsearch.html_report.section import Figure, drawn
from hpsearch.metrics import Floats, Ints

N_BAND = 500  # simulations behind the band of a diagram
N_SHOWN = 8  # images in a row


def reliability(
    confidences: Mapping[str, Floats], rights: Mapping[str, Any], seed: int, level: float
) -> Figure:
    """Draw accuracy over confidence for each arm, with the band in which a calibrated model's bins
    fall.
    """
    plot, axes = plt.subplots(
        1, len(confidences), figsize=(3.4 * len(confidences), 3.6), sharey=True, squeeze=False
    )
    rng = np.random.default_rng(seed)
    for axis, (name, confidence) in zip(axes[0], confidences.items(), strict=True):
        bins = metrics.reliability(confidence, rights[name])
        filled = bins.count > 0
        simulated = np.stack(
            [
                metrics.reliability(confidence, rng.random(len(confidence)) < confidence).accuracy
                for _ in range(N_BAND)
            ]
        )
        low, high = np.quantile(simulated, [level / 2, 1 - level / 2], axis=0)
        axis.plot([0, 1], [0, 1], color="grey", linewidth=1)
        axis.fill_between(
            bins.confidence[filled], low[filled], high[filled], color="tab:blue", alpha=0.2
        )
        axis.plot(
            bins.confidence[filled], bins.accuracy[filled], "o-", color="tab:blue", markersize=4
        )
        axis.set(
            title=f"{name} (ECE {bins.ece:.3f})", xlabel="confidence", xlim=(0, 1), ylim=(0, 1)
        )
    axes[0][0].set_ylabel("accuracy")
    return drawn(
        "reliability",
        plot,
        f"Accuracy of answers over their confidence, in {metrics.N_BINS} bins. A calibrated "
        f"model's points fall into "
        f"the blue band with probability {1 - level:.0%} each; below it the model is "
        f"overconfident.",
    )


def risk_coverage(doubts: Mapping[str, Floats], rights: Mapping[str, Any]) -> Figure:
    """Draw the error rate among the most certain answers."""
    plot, axis = plt.subplots(figsize=(5.5, 3.8))
    for name, doubt in doubts.items():
        coverage, risk = metrics.risk_coverage(doubt, rights[name])
        axis.plot(coverage, risk, label=f"{name} (AURC {risk.mean():.4f})")
    axis.set(
        xlabel="share of images answered, the most certain first", ylabel="error rate", xlim=(0, 1)
    )
    axis.set_ylim(bottom=0)
    axis.legend()
    return drawn(
        "risk_coverage",
        plot,
        "Error rate if the model answers only the images of which it is most certain. Lower is "
        "better; a curve that "
        "does not rise means that the uncertainty knows nothing of errors.",
    )


def entropies(entropy: Mapping[str, Floats], rights: Mapping[str, Any]) -> Figure:
    """Draw how entropy is distributed over right and over wrong answers."""
    plot, axes = plt.subplots(
        1, len(entropy), figsize=(4.2 * len(entropy), 3.4), sharey=True, squeeze=False
    )
    edges = np.linspace(0, max(float(e.max()) for e in entropy.values()) + 1e-9, 31)
    for axis, (name, values) in zip(axes[0], entropy.items(), strict=True):
        right = np.asarray(rights[name], bool)
        for chosen, label, colour in ((right, "right", "tab:green"), (~right, "wrong", "tab:red")):
            if chosen.any():
                weights = np.full(int(chosen.sum()), 1 / chosen.sum())
                axis.hist(
                    values[chosen], edges, weights=weights, alpha=0.55, color=colour, label=label
                )
        axis.set(title=name, xlabel="predictive entropy, nats")
        axis.legend()
    axes[0][0].set_ylabel("share of answers")
    return drawn(
        "entropy",
        plot,
        "Predictive entropy of right and of wrong answers, each group summing to one. The farther "
        "apart the two, the "
        "better can errors be told beforehand.",
    )


def over_passes(
    n_samples: Ints, nll: Floats, at_infinity: float, slope: float, tolerance: float
) -> Figure:
    """Draw NLL over S with its law."""
    plot, axis = plt.subplots(figsize=(5.5, 3.8))
    axis.plot(n_samples, nll, "o", markersize=3, label="measured")
    axis.plot(
        n_samples, at_infinity + slope / n_samples, label="fitted: NLL at infinity + slope / S"
    )
    axis.axhspan(
        at_infinity, at_infinity + tolerance, color="grey", alpha=0.3, label=f"within {tolerance:g}"
    )
    axis.set(xlabel="passes S", ylabel="NLL on test, nats", xscale="log")
    axis.legend()
    return drawn(
        "nll_over_passes",
        plot,
        "NLL of the mean of S passes, averaged over orders of the passes. Where the curve has "
        "entered the grey band, "
        "more passes gain nothing worth having.",
    )


def differences(found: Sequence[Difference], level: float) -> Figure:
    """Draw each difference with its interval, in units of what could have been detected."""
    plot, axis = plt.subplots(figsize=(5.5, 0.5 * len(found) + 1.4))
    for row, d in enumerate(reversed(found)):
        unit = d.detectable or 1.0
        axis.plot([d.low / unit, d.high / unit], [row, row], color="tab:blue")
        axis.plot(d.value / unit, row, "o", color="tab:blue")
    axis.axvline(0, color="grey", linewidth=1)
    axis.set_yticks(range(len(found)), [d.measure for d in reversed(found)])
    axis.set_xlabel("MC Dropout minus plain, in smallest detectable differences")
    return drawn(
        "differences",
        plot,
        f"Differences with their {1 - level:.0%} bootstrap intervals. An interval that holds 0 is "
        f"no difference; for "
        "accuracy right of 0 is better, for all else left.",
    )


def under_shift(
    curves: Mapping[str, Mapping[str, Sequence[float]]], measures: Sequence[str]
) -> Figure:
    """Draw measures over severity, averaged over corruptions: `curves[measure][arm]`, severities
    from 0.
    """
    plot, axes = plt.subplots(
        1, len(measures), figsize=(4.0 * len(measures), 3.6), squeeze=False, layout="constrained"
    )
    for axis, measure in zip(axes[0], measures, strict=True):
        for arm, values in curves[measure].items():
            axis.plot(range(len(values)), values, "o-", label=arm)
        axis.set(xlabel="severity", ylabel=measure, xticks=range(6))
        axis.legend()
    return drawn(
        "shift",
        plot,
        "Measures as images get worse, averaged over kinds of corruption; severity 0 is the test "
        "set as it is. A model "
        "that knows what it does not know loses accuracy without its ECE rising.",
    )


def extremes(images: NDArray[Any], titles: Sequence[str], doubt: Floats) -> Figure:
    """Draw the images of which the model is most and least certain."""
    order = np.argsort(doubt, kind="stable")
    n = min(N_SHOWN, len(order))
    plot, axes = plt.subplots(2, n, figsize=(1.5 * n, 4.0), squeeze=False)
    white = 255.0 if images.dtype == np.uint8 or images.max() > 1 else 1.0
    for row, chosen in zip(axes, (order[:n], order[::-1][:n]), strict=True):
        for axis, i in zip(row, chosen, strict=True):
            shown = np.clip(images[i] / white, 0, 1)
            axis.imshow(
                shown if shown.shape[-1] == 3 else shown[..., 0], cmap="gray", vmin=0, vmax=1
            )
            axis.set_title(f"{titles[i]}\n{doubt[i]:.2g}", fontsize=7)
            axis.set_axis_off()
    return drawn(
        "extremes",
        plot,
        "The test images of which MC Dropout is most (above) and least (below) certain, with the "
        "true class, "
        "the answer where it differs, and the predictive entropy in nats.",
    )
