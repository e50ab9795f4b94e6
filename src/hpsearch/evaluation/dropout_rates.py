"""Search the dropout rates and active layers of MC Dropout that fit a trained model best.

The model is not retrained. The rates are chosen on validation data alone, and the choice is then
compared on test with the model's own rates.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from hpsearch import metrics
from hpsearch.errors import ConfigError
from hpsearch.evaluation.differences import Difference, compare
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.html_report.section import Section
from hpsearch.metrics import Floats


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
        outside = [rate for rate in self.rates if not 0 < rate < 1]
        if outside or self.n_samples < 1:
            raise ConfigError(
                "Expected test-time rates between 0 and 1 and a positive n_samples, received "
                f"rates={list(self.rates)}, n_samples={self.n_samples}."
            )

    def examine(self, evaluated: EvaluatedModel) -> Section:
        """Choose the rates with the lowest NLL on val, and test them against the model's own."""
        tried = choices(evaluated.sampler.split.rates, self.rates)
        on_val = {}
        for choice, rates in tried.items():
            probs = self._on_val(evaluated, rates)
            on_val[choice] = metrics.nll(probs, evaluated.val.targets)
        ranked = sorted(on_val, key=lambda choice: on_val[choice])
        best = ranked[0]
        found = self._compared(evaluated, tried[best])
        values = {}
        for difference in found:
            values[f"test/mc_tuned/{difference.measure}"] = difference.values[1]
        values["val/mc_tuned/nll"] = on_val[best]
        rows = [("layers", "rate", "NLL on val")]
        for choice in ranked[:8]:
            rows.append((choice[0], _shown(choice[1]), f"{on_val[choice]:.4f}"))
        layers, rate = best
        text = (
            f"Best of {len(tried)} choices on validation data: layers {layers}, rate "
            f"{_shown(rate)}. On test, against the model's own rates: {self._sentence(found)}."
        )
        return Section("Dropout at test time", text, rows, values)

    def _on_val(self, evaluated: EvaluatedModel, rates: Sequence[float]) -> Floats:
        images = evaluated.val.inputs
        return evaluated.sampler.predict(images, n_samples=self.n_samples, rates=rates).probs

    def _compared(self, evaluated: EvaluatedModel, rates: Sequence[float]) -> list[Difference]:
        """Return the differences on test between the model's own rates and these rates."""
        tuned = evaluated.sampler.predict(evaluated.test.inputs, rates=rates)
        return compare(
            evaluated.on_test["mc"],
            tuned.probs,
            evaluated.test.targets,
            n_resamples=self.n_resamples,
            level=self.level,
            seed=self.seed,
        )

    def _sentence(self, found: Sequence[Difference]) -> str:
        said = []
        for difference in found:
            verdict = difference.verdict(self.level)
            said.append(f"{difference.measure} {difference.value:+z.4f} ({verdict})")
        return "; ".join(said)


def choices(
    own: Sequence[float], rates: Sequence[float]
) -> dict[tuple[str, float | None], tuple[float, ...]]:
    """Return the rate of every dropout call for each choice of layers and rate.

    Calls whose own rate is 0 stay off. Of choices with the same rates only the first is returned.

    Args:
        own: The model's own rate of each dropout call.
        rates: Rates to try beside the model's own.

    Returns:
        The rates by the name of the layers and their rate; None keeps each layer's own rate.
    """
    active = [place for place, rate in enumerate(own) if rate]
    half = (len(active) + 1) // 2
    layers = {
        "all": active,
        "last half": active[-half:],
        "first half": active[:half],
        "last": active[-1:],
        "first": active[:1],
    }
    found: dict[tuple[str, float | None], tuple[float, ...]] = {}
    for name, places in layers.items():
        for rate in (None, *rates):
            values = _rate_of_each_call(own, places, rate)
            if values not in found.values():
                found[name, rate] = values
    return found


def _rate_of_each_call(
    own: Sequence[float], places: Collection[int], rate: float | None
) -> tuple[float, ...]:
    """Return a rate for each dropout call. A call that is not in `places` has the rate 0."""
    values = []
    for place, own_rate in enumerate(own):
        if place not in places:
            values.append(0.0)
        elif rate is None:
            values.append(own_rate)
        else:
            values.append(rate)
    return tuple(values)


def _shown(rate: float | None) -> str:
    if rate is None:
        return "own"
    return f"{rate:g}"
