"""Examine whether a model is less certain of its wrong answers than of its right ones."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np

from hpsearch import metrics
from hpsearch.alternatives.method import LABELS
from hpsearch.data.pixel_range import PixelRange
from hpsearch.evaluation import settings
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.evaluation.out_of_distribution import auroc, uncertainties
from hpsearch.html_report.section import Figure, Section, drawn, panels
from hpsearch.metrics import Flags, Floats


class Selective(settings.Selective):
    """The part of an evaluation in which the model answers only where it is certain.

    `evaluation.settings` describes its settings.
    """

    def examine(self, evaluated: EvaluatedModel) -> Section:
        """Rank the test examples by each score of uncertainty, and measure the errors."""
        labels = evaluated.test.targets
        mc = None
        if "mc" in evaluated.on_test:
            mc = evaluated.mc_test
        doubts = uncertainties(evaluated.on_test, mc)
        if mc is not None:
            doubts["mc/variation_ratio"] = mc.variation_ratio
        rights = {}
        coverage = settings.percent(self.coverage)
        rows = [["uncertainty", "AURC", f"risk at {coverage}", "AUROC of errors"]]
        found = {}
        for name, doubt in doubts.items():
            arm, _ = name.split("/")
            right = metrics.correct(evaluated.on_test[arm], labels)
            rights[name] = right
            values = self._measures(doubt, right)
            for key, value in values.items():
                found[f"test/selective/{name}/{key}"] = value
            cells = [f"{value:.4f}" for value in values.values()]
            rows.append([name, *cells])
        drawn_figures = [
            _risk_coverage(doubts, rights),
            _entropies(doubts, rights),
        ]
        pixels = evaluated.pixels
        if pixels is not None:
            arm = "plain"
            if mc is not None:
                arm = "mc"
            drawn_figures.append(_extremes(evaluated, pixels, arm, doubts[f"{arm}/entropy"]))
        text = (
            "The model answers only where its uncertainty is low. The table shows the error rate "
            f"at {coverage} coverage, and the probability that a wrong answer is more "
            "uncertain than a right one (AUROC; the positive class is the wrong answer)."
        )
        if pixels is None:
            text += f" No pictures are shown. {evaluated.why_no_pixels}"
        return Section(
            title="Knowing its errors",
            text=text,
            table=rows,
            metrics=found,
            figures=drawn_figures,
        )

    def _measures(self, doubt: Floats, right: Flags) -> dict[str, float]:
        values = {
            "aurc": metrics.aurc(doubt, right),
            "risk": metrics.risk_at_coverage(doubt, right, self.coverage),
        }
        if 0 < right.mean() < 1:
            of_right = doubt[right]
            of_wrong = doubt[~right]
            values["auroc"] = auroc(of_right, of_wrong)
        return values


def _risk_coverage(doubts: dict[str, Floats], rights: dict[str, Flags]) -> Figure:
    """Draw the error rate among the most certain answers, by score of uncertainty."""
    plot, axis = plt.subplots(figsize=(5.5, 3.8))
    for name, doubt in doubts.items():
        coverage, risk = metrics.risk_coverage(doubt, rights[name])
        area = risk.mean()
        axis.plot(coverage, risk, label=f"{name} (AURC {area:.4f})")
    axis.set_xlabel("share of examples answered, the most certain first")
    axis.set_ylabel("error rate")
    axis.set_xlim(0, 1)
    axis.set_ylim(bottom=0)
    axis.legend()
    caption = (
        "Error rate if the model answers only the examples of which it is most certain. Lower is "
        "better. A curve that does not rise means that the uncertainty is unrelated to errors."
    )
    return drawn("risk_coverage", plot, caption)


def _entropies(doubts: dict[str, Floats], rights: dict[str, Flags]) -> Figure:
    """Draw how the predictive entropy is distributed over right and over wrong answers."""
    shown = [name for name in doubts if name.endswith("/entropy")]
    plot, axes = panels(len(shown), width=4.2, height=3.4)
    maxima = [doubts[name].max() for name in shown]
    highest = max(maxima)
    edges = np.linspace(0, highest + 1e-9, 31)
    for axis, name in zip(axes, shown, strict=True):
        arm, _ = name.split("/")
        title = LABELS[arm]
        right = rights[name]
        groups = [
            ("right", right, "tab:green"),
            ("wrong", ~right, "tab:red"),
        ]
        for label, group, colour in groups:
            values = doubts[name][group]
            n = len(values)
            if n:
                weights = np.full(n, 1 / n)
                axis.hist(
                    values,
                    list(edges),
                    weights=weights,
                    alpha=0.55,
                    color=colour,
                    label=label,
                )
        axis.set_title(title)
        axis.set_xlabel("predictive entropy, nats")
        axis.legend()
    axes[0].set_ylabel("share of answers")
    caption = (
        "Predictive entropy of right and of wrong answers. Each group sums to one. The farther "
        "the two groups are apart, the better the entropy tells which answers are wrong."
    )
    return drawn("entropy", plot, caption)


def _extremes(
    evaluated: EvaluatedModel,
    pixels: PixelRange,
    arm: str,
    doubt: Floats,
) -> Figure:
    """Draw the test images of which an arm is most and least certain.

    Args:
        evaluated: The model with its examples.
        pixels: The values of black and white in the inputs.
        arm: The arm.
        doubt: Predictive entropy of each test image, (N,), in nats.
    """
    images = evaluated.test.inputs
    labels = evaluated.test.targets
    answers = evaluated.on_test[arm].argmax(axis=1)
    order = np.argsort(doubt, kind="stable")
    n = min(8, len(order))  # images in a row
    inches = (1.5 * n, 4.0)
    plot, axes = plt.subplots(2, n, figsize=inches)
    most_certain = order[:n]
    least_certain = order[::-1][:n]
    places = [*most_certain, *least_certain]
    for axis, place in zip(axes.ravel(), places, strict=True):
        shown = pixels.to_bytes(images[place])
        if shown.shape[-1] != 3:
            shown = shown[..., 0]
        title = str(labels[place])
        if answers[place] != labels[place]:
            title += f", not {answers[place]}"
        axis.imshow(shown, cmap="gray", vmin=0, vmax=255)
        axis.set_title(f"{title}\n{doubt[place]:.2g}", fontsize=7)
        axis.set_axis_off()
    name = {"mc": "MC Dropout", "plain": "the plain prediction"}[arm]  # the arms that are drawn
    caption = (
        f"The test images of which {name} is most certain (above) and least certain (below). "
        "Above each image are its class, the answer if it is another class, and the predictive "
        "entropy in nats."
    )
    return drawn("extremes", plot, caption)
