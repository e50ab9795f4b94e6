"""Search the dropout rates and active layers of MC Dropout that fit a trained model best.

The model is not retrained. The rates are chosen on validation data alone, and the choice is then
compared on test with the model's own rates.
"""

from __future__ import annotations

from collections.abc import Sequence

from hpsearch import metrics
from hpsearch.evaluation import settings
from hpsearch.evaluation.differences import LABELS, Difference, compare
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.html_report.section import Section


class DropoutRates(settings.DropoutRates):
    """The part of an evaluation that searches dropout rates for test time.

    `evaluation.settings` describes its settings.
    """

    def examine(self, evaluated: EvaluatedModel) -> Section | None:
        """Choose the rates with the lowest NLL on val, and test them against the model's own.

        Returns:
            A section, or None without MC Dropout.
        """
        if evaluated.left_out is not None:
            return None
        sampler = evaluated.sampler
        tried = self.choices(sampler.split.rates)
        val = evaluated.val
        on_val = {}
        for choice, rates in tried.items():
            mc = sampler.predict(val.inputs, n_samples=self.n_samples, rates=rates)
            on_val[choice] = metrics.nll(mc.probs, val.targets)
        ranked = sorted(on_val, key=on_val.__getitem__)
        best = ranked[0]
        test = evaluated.test
        tuned = sampler.predict(test.inputs, rates=tried[best]).probs
        found = compare(
            evaluated.on_test["mc"],
            tuned,
            test.targets,
            n_resamples=self.n_resamples,
            level=self.level,
            seed=self.seed,
        )
        values = {"test/mc_tuned/ece": metrics.ece(tuned, test.targets)}
        for difference in found:
            values[f"test/mc_tuned/{difference.measure}"] = difference.values[1]
        values["val/mc_tuned/nll"] = on_val[best]
        rows = [("layers", "rate", "NLL on val")]
        for choice in ranked[:8]:
            rows.append((*choice, f"{on_val[choice]:.4f}"))
        layers, rate = best
        text = (
            f"Best of {len(tried)} choices on validation data: layers {layers}, rate {rate}. On "
            f"test, against the model's own rates: {self._sentence(found)}. These verdicts hold "
            "for one set of masks of each; another set may give others."
        )
        if tried[best] == sampler.split.rates:
            text = (
                f"Of {len(tried)} choices on validation data, the model's own rates are the best."
            )
        return Section(
            title="Dropout at test time",
            text=text,
            table=rows,
            metrics=values,
        )

    def choices(self, own: Sequence[float]) -> dict[tuple[str, str], tuple[float, ...]]:
        """Return the rate of every dropout call for each choice of layers and rate.

        Calls whose own rate is 0 stay off. Of choices with the same rates only the first is
        returned.

        Args:
            own: The model's own rate of each dropout call.

        Returns:
            The rates by the names of the layers and of their rate, such as ("last half", "0.1").
            The rate "own" is each layer's own.
        """
        active = []
        for place, own_rate in enumerate(own):
            if own_rate:
                active.append(place)
        half = (len(active) + 1) // 2
        layers = {
            "all": active,
            "last half": active[-half:],
            "first half": active[:half],
            "last": active[-1:],
            "first": active[:1],
        }
        to_try = {"own": own}
        for rate in self.rates:
            to_try[str(rate)] = [rate] * len(own)
        found: dict[tuple[str, str], tuple[float, ...]] = {}
        for name, places in layers.items():
            for label, rates in to_try.items():
                values = [0.0] * len(own)
                for place in places:
                    values[place] = rates[place]
                choice = tuple(values)
                if choice not in found.values():
                    found[name, label] = choice
        return found

    def _sentence(self, found: Sequence[Difference]) -> str:
        said = []
        for difference in found:
            verdict = difference.verdict(self.level)
            said.append(f"{LABELS[difference.measure]} {difference.value:+z.4f} ({verdict})")
        return "; ".join(said)
