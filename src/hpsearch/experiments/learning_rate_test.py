"""The learning rate test: a few hundred training steps at larger and larger learning rates.

`RangeTest` runs the test (Smith 2017, "Cyclical learning rates") and returns a `Curve` of the
training loss over the learning rate. From the curve, `RangeTest.advice` derives a first trial and
an upper bound for a search; `below` applies the bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypedDict

import keras
import keras_tuner
import matplotlib.pyplot as plt
import numpy as np

from hpsearch.errors import ModelError
from hpsearch.experiments import settings
from hpsearch.html_report.section import Figure, drawn
from hpsearch.metrics import Floats
from hpsearch.models.architecture import build_model
from hpsearch.seeds import derive
from hpsearch.space.bounds import Fixed, Range, Value, as_read, is_number
from hpsearch.space.space import Space
from hpsearch.training.trainer import Trainer


@dataclass(frozen=True)
class Curve:
    """The training loss over the learning rate.

    Attributes:
        learning_rates: The learning rates, (n,).
        losses: The training loss at each, in nats, (n,); the curve ends before the loss explodes.
    """

    learning_rates: Floats
    losses: Floats

    def smooth(self) -> Floats:
        """Return the running mean of the losses, (n,), corrected for the bias of its start."""
        kept = 0.7  # the share of the mean that is kept at each step
        mean = 0.0
        smooth = []
        for n, loss in enumerate(self.losses, 1):
            mean = kept * mean + (1 - kept) * loss
            smooth.append(mean / (1 - kept**n))
        return np.array(smooth)

    @property
    def largest_stable(self) -> float:
        """The learning rate of the lowest smoothed loss; beyond it, steps undo each other."""
        lowest = int(self.smooth().argmin())
        return float(self.learning_rates[lowest])

    @property
    def proposal(self) -> float:
        """The learning rate to begin with: a quarter of the largest stable one (Smith 2017)."""
        return self.largest_stable / 4

    def figure(self) -> Figure:
        """Return a picture of the curve."""
        plot, axis = plt.subplots(figsize=(7, 4), layout="constrained")
        rates = self.learning_rates
        axis.semilogx(rates, self.losses, color="0.7", label="training loss")
        axis.semilogx(rates, self.smooth(), color="black", label="smoothed")
        axis.axvline(self.largest_stable, color="C3", linestyle="--", label="largest stable")
        axis.axvline(self.proposal, color="C2", linestyle=":", label="proposed")
        axis.set(xlabel="learning_rate", ylabel="train/loss (nats)")
        axis.legend()
        return drawn("lr_test", plot, "Training loss while the learning rate rises.")


class RangeTest(settings.RangeTest):
    """Settings of the test; see conf/range_test.

    `experiments.settings` describes its settings.
    """

    def curve(
        self,
        trainer: Trainer,
        hypermodel: keras_tuner.HyperModel,
        values: Mapping[str, Value],
        seed: int,
    ) -> Curve:
        """Train a new model at larger and larger learning rates.

        Args:
            trainer: Trains the model. Its compiled program is used, so that trials need not
                compile it again.
            hypermodel: Builds the model.
            values: The other hyperparameters.
            seed: The seed of weights, order of examples and dropout masks.

        Raises:
            ModelError: The loss explodes at once.
        """
        rates = np.geomspace(self.low, self.high, self.n_points)
        keras.utils.set_random_seed(derive(seed, "weights"))
        hp = keras_tuner.HyperParameters()
        hp.values.update({**values, "learning_rate": self.low})
        model = build_model(hypermodel, hp, trainer.data.image_shape)
        fit_seed = derive(seed, "fit")
        losses = trainer.sweep(hypermodel, hp, model, fit_seed, rates, self.steps_per_point)
        if len(losses) < 3:
            raise ModelError(
                f"The learning rate test diverged at {self.low:g}; give a smaller range_test.low."
            )
        return Curve(rates[: len(losses)], losses)

    def advice(self, space: Space, curve: Curve) -> _Advice:
        """Return the bounds and the first trial that follow from a test.

        The first trial is empty where the learning rate is not drawn from a range.

        Args:
            space: The bounds of the search.
            curve: The result of the test.
        """
        high = self.margin * curve.largest_stable
        first: dict[str, Value] = {}
        narrow = below(space, high)
        rule = narrow.rules["learning_rate"]
        if isinstance(rule, Range):
            drawn = middles(space)
            at_least_low = max(curve.proposal, rule.low)
            drawn["learning_rate"] = min(at_least_low, rule.high)
            first = narrow.params(drawn)
        bounds = {
            "largest_stable": curve.largest_stable,
            "proposal": curve.proposal,
            "high": high,
        }
        return {"bounds": bounds, "first": first}


class _Advice(TypedDict):
    """The advice of a test, as a study stores it.

    Attributes:
        bounds: Learning rates for people: `largest_stable`, `proposal`, and the upper bound `high`.
        first: The first trial, by the names under which a study stores hyperparameters.
    """

    bounds: dict[str, float]
    first: dict[str, Value]


def below(space: Space, high: float) -> Space:
    """Return the space with learning rates of at most `high`.

    A fixed learning rate and a choice of learning rates stay as they are. The new upper bound is
    at least twice the lower bound and at most the old upper bound.
    """
    rule = space.rules.get("learning_rate")
    if not isinstance(rule, Range):
        return space
    high = max(high, 2 * rule.low)
    new_high = min(rule.high, high)
    narrowed = replace(rule, high=new_high)
    found = Space({})
    found.rules = {**space.rules, "learning_rate": narrowed}
    return found


def middles(space: Space) -> dict[str, float]:
    """Return the middle of each bound, on its scale; a fixed hyperparameter has its value.

    Hyperparameters whose values are no numbers are left out.
    """
    found: dict[str, float] = {}
    for name, rule in space.rules.items():
        if isinstance(rule, Fixed) and is_number(rule.value):
            found[name] = rule.value
    for stored, points in space.grid(1).items():
        name, middle = as_read(stored, points[0])
        if is_number(middle):
            found[name] = middle
    return found
