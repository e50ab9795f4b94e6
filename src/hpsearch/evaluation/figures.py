"""Draw the figures of an evaluation, each with a caption that says how to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot

from hpsearch import metrics
from hpsearch.evaluation.differences import Difference
from hpsearch.evaluation.evaluated_model import ARMS, Images, white
from hpsearch.html_report.section import Figure, drawn
from hpsearch.metrics import Flags, Floats, Ints


def reliability(
    confidences: Mapping[str, Floats], rights: Mapping[str, Flags], seed: int, level: float
) -> Figure:
    """Draw accuracy over confidence for each arm, with the band of a calibrated model.

    Args:
        confidences: Probability of the predicted class by arm, (N,) each.
        rights: Whether the predicted class is right by arm, (N,) each.
        seed: Seed of the simulations behind the bands.
        level: Probability that a point of a calibrated model falls outside of its band.
    """
    plot, axes = _row_of_axes(len(confidences), 3.4, 3.6)
    rng = np.random.default_rng(seed)
    for axis, (name, confidence) in zip(axes, confidences.items(), strict=True):
        bins = metrics.reliability(confidence, rights[name])
        low, high = _calibrated_band(confidence, rng, level)
        filled = bins.count > 0
        x = bins.confidence[filled]
        axis.plot([0, 1], [0, 1], color="grey", linewidth=1)
        axis.fill_between(x, low[filled], high[filled], color="tab:blue", alpha=0.2)
        axis.plot(x, bins.accuracy[filled], "o-", color="tab:blue", markersize=4)
        axis.set_title(f"{name} (ECE {bins.ece:.3f})")
        axis.set_xlabel("confidence")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
    axes[0].set_ylabel("accuracy")
    caption = (
        f"Accuracy of the answers over their confidence, in {metrics.N_BINS} bins. Each point of "
        f"a calibrated model falls into the blue band with probability {1 - level:.0%}. A model "
        "whose points lie below the band is overconfident."
    )
    return drawn("reliability", plot, caption)


def _row_of_axes(n: int, width: float, height: float) -> tuple[Plot, Sequence[Axes]]:
    """Return a plot of `n` axes side by side, which share the scale of y; sizes are in inches."""
    plot, axes = plt.subplots(1, n, figsize=(width * n, height), sharey=True, squeeze=False)
    return plot, axes[0]


def _calibrated_band(
    confidence: Floats, rng: np.random.Generator, level: float
) -> tuple[Floats, Floats]:
    """Return the lowest and highest accuracies of a calibrated model's bins, (B,) each."""
    simulated = []
    for _ in range(500):
        right = rng.random(len(confidence)) < confidence
        bins = metrics.reliability(confidence, right)
        simulated.append(bins.accuracy)
    ends = [level / 2, 1 - level / 2]
    low, high = np.quantile(simulated, ends, axis=0)
    return low, high


def risk_coverage(doubts: Mapping[str, Floats], rights: Mapping[str, Flags]) -> Figure:
    """Draw the error rate among the most certain answers, by score of uncertainty."""
    plot, axis = plt.subplots(figsize=(5.5, 3.8))
    for name, doubt in doubts.items():
        coverage, risk = metrics.risk_coverage(doubt, rights[name])
        axis.plot(coverage, risk, label=f"{name} (AURC {risk.mean():.4f})")
    axis.set_xlabel("share of images answered, the most certain first")
    axis.set_ylabel("error rate")
    axis.set_xlim(0, 1)
    axis.set_ylim(bottom=0)
    axis.legend()
    caption = (
        "Error rate if the model answers only the images of which it is most certain. Lower is "
        "better. A curve that does not rise means that the uncertainty is unrelated to errors."
    )
    return drawn("risk_coverage", plot, caption)


def entropies(entropy: Mapping[str, Floats], rights: Mapping[str, Flags]) -> Figure:
    """Draw how the predictive entropy is distributed over right and over wrong answers."""
    plot, axes = _row_of_axes(len(entropy), 4.2, 3.4)
    highest = max(values.max() for values in entropy.values())
    edges = np.linspace(0, highest + 1e-9, 31)
    for axis, (name, values) in zip(axes, entropy.items(), strict=True):
        right = np.asarray(rights[name], bool)
        _add_histogram(axis, values[right], edges, "right", "tab:green")
        _add_histogram(axis, values[~right], edges, "wrong", "tab:red")
        axis.set_title(name)
        axis.set_xlabel("predictive entropy, nats")
        axis.legend()
    axes[0].set_ylabel("share of answers")
    caption = (
        "Predictive entropy of right and of wrong answers. Each group sums to one. The farther "
        "the two groups are apart, the better the entropy tells which answers are wrong."
    )
    return drawn("entropy", plot, caption)


def _add_histogram(axis: Axes, values: Floats, edges: Floats, label: str, colour: str) -> None:
    n = len(values)
    if n == 0:
        return
    weights = np.full(n, 1 / n)
    bins = list(edges)
    axis.hist(values, bins, weights=weights, alpha=0.55, color=colour, label=label)


def over_passes(
    n_samples: Ints, nll: Floats, at_infinity: float, slope: float, tolerance: float
) -> Figure:
    """Draw the NLL over the number of passes S, with the fitted law."""
    plot, axis = plt.subplots(figsize=(5.5, 3.8))
    law = at_infinity + slope / n_samples
    highest = at_infinity + tolerance
    axis.plot(n_samples, nll, "o", markersize=3, label="measured")
    axis.plot(n_samples, law, label="fitted: NLL at infinity + slope / S")
    axis.axhspan(at_infinity, highest, color="grey", alpha=0.3, label=f"within {tolerance:g}")
    axis.set_xlabel("passes S")
    axis.set_ylabel("NLL on test, nats")
    axis.set_xscale("log")
    axis.legend()
    caption = (
        "NLL of the mean of S passes, averaged over orders of the passes. Once the curve is in "
        "the grey band, more passes improve the NLL by less than the tolerance."
    )
    return drawn("nll_over_passes", plot, caption)


def differences(found: Sequence[Difference], level: float) -> Figure:
    """Draw each difference with its interval, in units of the smallest detectable difference."""
    plot, axis = plt.subplots(figsize=(5.5, 0.5 * len(found) + 1.4))
    from_below = list(reversed(found))
    for row, difference in enumerate(from_below):
        unit = difference.detectable or 1.0
        interval = [difference.low / unit, difference.high / unit]
        axis.plot(interval, [row, row], color="tab:blue")
        axis.plot(difference.value / unit, row, "o", color="tab:blue")
    axis.axvline(0, color="grey", linewidth=1)
    names = [difference.measure for difference in from_below]
    axis.set_yticks(range(len(names)), names)
    axis.set_xlabel("MC Dropout minus plain, in smallest detectable differences")
    caption = (
        f"Differences with their {1 - level:.0%} bootstrap intervals. An interval that holds 0 "
        "shows no difference. MC Dropout is better to the right of 0 for accuracy, and to the "
        "left of 0 for every other measure."
    )
    return drawn("differences", plot, caption)


def under_shift(means: Mapping[str, Sequence[float]], measures: Sequence[str]) -> Figure:
    """Draw measures over the severity of corruptions.

    Args:
        means: Means over kinds of corruption for each severity from 0, by keys such as `mc/nll`.
        measures: The measures to draw.
    """
    n = len(measures)
    plot, axes = plt.subplots(1, n, figsize=(4.0 * n, 3.6), squeeze=False, layout="constrained")
    for axis, measure in zip(axes[0], measures, strict=True):
        for arm in ARMS:
            values = means[f"{arm}/{measure}"]
            axis.plot(range(len(values)), values, "o-", label=arm)
        axis.set_xlabel("severity")
        axis.set_ylabel(measure)
        axis.set_xticks(range(6))
        axis.legend()
    caption = (
        "Measures as images get worse, averaged over kinds of corruption. Severity 0 is the test "
        "set as it is. If the uncertainty of a model can be trusted, its accuracy falls while its "
        "ECE stays low."
    )
    return drawn("shift", plot, caption)


def extremes(images: Images, titles: Sequence[str], doubt: Floats) -> Figure:
    """Draw the images of which the model is most and least certain.

    Args:
        images: Raw pixels, (N, H, W, 1 or 3).
        titles: What is written above each image.
        doubt: Predictive entropy of each image, (N,), in nats.
    """
    order = np.argsort(doubt, kind="stable")
    n = min(8, len(order))  # images in a row
    plot, axes = plt.subplots(2, n, figsize=(1.5 * n, 4.0), squeeze=False)
    brightest = white(images)
    most_certain = order[:n]
    least_certain = order[::-1][:n]
    places = [*most_certain, *least_certain]
    for axis, place in zip(axes.ravel(), places, strict=True):
        shown = np.clip(images[place] / brightest, 0, 1)
        if shown.shape[-1] != 3:
            shown = shown[..., 0]
        axis.imshow(shown, cmap="gray", vmin=0, vmax=1)
        axis.set_title(f"{titles[place]}\n{doubt[place]:.2g}", fontsize=7)
        axis.set_axis_off()
    caption = (
        "The test images of which MC Dropout is most certain (above) and least certain (below). "
        "Above each image are its class, the answer if it is another class, and the predictive "
        "entropy in nats."
    )
    return drawn("extremes", plot, caption)
