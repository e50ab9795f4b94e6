"""Another dropout rate, or other active layers, at test time: chosen on validation data alone,
without retraining.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpsearch import metrics
from hpsearch.errors import ConfigError
from hpsearch.evaluation.differences import compare
from hpsearch.evaluation.evaluated_model import Subject
from hpsearch.html_report.section import Section

Choice = tuple[str, float | None]  # which layers, and at what rate: None is each layer's own


def choices(own: Sequence[float], rates: Sequence[float]) -> dict[Choice, tuple[float, ...]]:
    """Return the rate of every dropout call for each choice of layers and rate; layers whose own
    rate is 0 stay off.
    """
    active = [place for place, rate in enumerate(own) if rate]
    half = (len(active) + 1) // 2
    layers = {"all": active, "last half": active[-half:], "first half": active[:half], "last": active[-1:],
              "first": active[:1]}  # fmt: skip
    found: dict[Choice, tuple[float, ...]] = {}
    for name, places in layers.items():
        for rate in (None, *rates):
            values = tuple(
                (own[i] if rate is None else rate) if i in places else 0.0 for i in range(len(own))
            )
            if values not in found.values():
                found[name, rate] = values
    return found


@dataclass(frozen=True)
class Rates:
    """Settings of the search over test-time rates.

    Attributes:
        rates: Rates to try, in (0, 1), beside each layer's own.
        n_samples: Passes for each try.
        n_resamples: Of the comparison on test.
        level: Of the comparison on test.
        seed: Of the comparison on test.
    """

    rates: Sequence[float]
    n_samples: int
    n_resamples: int
    level: float
    seed: int

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if any(not 0 < rate < 1 for rate in self.rates) or self.n_samples < 1:
            raise ConfigError(
                "Expected test-time rates between 0 and 1 and a positive n_samples, received "
                f"rates={list(self.rates)}, n_samples={self.n_samples}."
            )

    def examine(self, subject: Subject) -> Section:
        """Choose on val by NLL; compare the choice with the model's own rates on test."""
        tried = choices(subject.sampler.split.rates, self.rates)
        on_val = {
            choice: metrics.nll(
                subject.sampler.predict(
                    subject.val.images, n_samples=self.n_samples, rates=values
                ).probs,
                subject.val.labels,
            )
            for choice, values in tried.items()
        }
        best = min(on_val, key=lambda choice: on_val[choice])
        tuned = subject.sampler.predict(subject.test.images, rates=tried[best]).probs
        labels = np.asarray(subject.test.labels)
        found = compare(
            subject.on_test["mc"],
            tuned,
            labels,
            n_resamples=self.n_resamples,
            level=self.level,
            seed=self.seed,
        )
        rows = [("layers", "rate", "NLL on val")]
        rows += [
            (*_shown(c), f"{on_val[c]:.4f}")
            for c in sorted(on_val, key=lambda choice: on_val[choice])[:8]
        ]
        said = "; ".join(f"{d.measure} {d.value:+z.4f} ({d.verdict(self.level)})" for d in found)
        layers, rate = _shown(best)
        text = (
            f"Best of {len(tried)} choices on validation data: layers {layers}, rate {rate}. "
            f"On test, against the model's own rates: {said}."
        )
        values = {f"test/mc_tuned/{d.measure}": d.values[1] for d in found}
        return Section(
            "Dropout at test time", text, rows, {**values, "val/mc_tuned/nll": on_val[best]}
        )


def _shown(choice: Choice) -> tuple[str, str]:
    return choice[0], "own" if choice[1] is None else f"{choice[1]:g}"
