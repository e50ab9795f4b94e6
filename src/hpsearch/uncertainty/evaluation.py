"""Plain against MC Dropout on the test set: the same weights, twice asked."""

from __future__ import annotations

from dataclasses import dataclass

from hpsearch import metrics
from hpsearch.pages.section import Section
from hpsearch.uncertainty.certificate import Certificate, certify
from hpsearch.uncertainty.mc_dropout import McPrediction
from hpsearch.uncertainty.subject import Subject


@dataclass(frozen=True)
class Evaluation:
    """What a model's plain and MC Dropout predictions are worth.

    Attributes:
        plain: Measures of one deterministic pass, by name.
        mc: Measures of the mean of S passes, by name, with the uncertainties that only samples have.
        n_samples: S.
        certificate: The self-test of the conversion.
    """

    plain: dict[str, float]
    mc: dict[str, float]
    n_samples: int
    certificate: Certificate

    def metrics(self) -> dict[str, float]:
        """Return all measures by their MLflow keys, such as `test/mc/nll`."""
        arms = {"plain": self.plain, "mc": self.mc}
        return {f"test/{arm}/{name}": value for arm, values in arms.items() for name, value in values.items()}

    def section(self) -> Section:
        """Return both arms side by side, with the certificate in words."""
        head = ("measure", "plain", f"MC Dropout (S = {self.n_samples})", "difference")
        rows = [head, *(self._row(name) for name in self.mc)]
        return Section("On the test set, same weights", self.certificate.sentence(), rows, self.metrics())

    def _row(self, name: str) -> tuple[str, str, str, str]:
        before, after = self.plain.get(name), self.mc[name]
        if before is None:
            return name, "", f"{after:.4f}", ""
        return name, f"{before:.4f}", f"{after:.4f}", f"{after - before:+z.4f}"


def evaluate(subject: Subject) -> Evaluation:
    """Compare the plain prediction with MC Dropout on test examples, after a self-test of the conversion.

    Raises:
        ModelError: The model has no active dropout, cannot be converted, or fails the self-test.
    """
    certificate = certify(subject.model, subject.sampler, subject.test.images)
    labels, mc = subject.test.labels, subject.mc_test
    return Evaluation(
        plain=metrics.summary(subject.on_test["plain"], labels),
        mc=metrics.summary(mc.probs, labels) | uncertainty(mc),
        n_samples=mc.n_samples,
        certificate=certificate,
    )


def uncertainty(prediction: McPrediction) -> dict[str, float]:
    """Return the measures that need samples: means over examples."""
    return {
        "expected_entropy": float(prediction.expected_entropy.mean()),
        "mutual_information": float(prediction.mutual_information.mean()),
        "variation_ratio": float(prediction.variation_ratio.mean()),
    }
