"""The learning rate test (Smith 2017, "Cyclical learning rates"): a few hundred steps at ever
larger rates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import keras_tuner
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from hpsearch.errors import ConfigError, ModelError
from hpsearch.html_report.section import Figure, drawn
from hpsearch.models.architecture import build_model
from hpsearch.seeds import derive
from hpsearch.space.bounds import COMPLEMENT, Fixed, Range, Value, is_number
from hpsearch.space.space import Space
from hpsearch.training.trainer import Trainer

SMOOTHING = 0.7  # what the running mean of the losses keeps of itself


@dataclass(frozen=True)
class Curve:
    """Learning rates and the training loss at each, (n,); the loss stops where it explodes."""

    learning_rates: NDArray[np.float64]
    losses: NDArray[np.float64]

    def smooth(self) -> NDArray[np.float64]:
        """Return the running mean of the losses, without the bias of its start."""
        mean, smooth = 0.0, []
        for n, loss in enumerate(self.losses, 1):
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            smooth.append(mean / (1 - SMOOTHING**n))
        return np.array(smooth)

    @property
    def largest_stable(self) -> float:
        """The rate at which the smoothed loss is lowest: beyond it, steps undo each other."""
        return float(self.learning_rates[int(self.smooth().argmin())])

    @property
    def proposal(self) -> float:
        """A rate to begin with, a quarter of the largest stable one (Smith 2017)."""
        return self.largest_stable / 4


@dataclass(frozen=True)
class RangeTest:
    """Settings of the test; see conf/range_test.

    Attributes:
        low: First learning rate.
        high: Last one.
        n_points: Rates, evenly spaced on a log scale.
        steps_per_point: Training steps at each.
        margin: The upper bound is so many times the largest stable rate.
    """

    low: float
    high: float
    n_points: int
    steps_per_point: int
    margin: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ConfigError(
                f"range_test.low must lie between 0 and range_test.high={self.high}, but is "
                f"{self.low}."
            )

    def measure(
        self, trainer: Trainer, hypermodel: keras_tuner.HyperModel, space: Space, seed: int
    ) -> Curve:
        """Test with the other hyperparameters in the middle of their bounds."""
        return self.curve(trainer, hypermodel, middles(space), seed)

    def curve(
        self,
        trainer: Trainer,
        hypermodel: keras_tuner.HyperModel,
        values: Mapping[str, Value],
        seed: int,
    ) -> Curve:
        """Train a fresh model at ever larger rates.

        Args:
            trainer: Its compiled program is used, so that trials find it ready.
            hypermodel: Builds the model.
            values: Its other hyperparameters.
            seed: Of weights, order and masks.

        Raises:
            ModelError: The loss explodes at once.
        """
        rates = np.geomspace(self.low, self.high, self.n_points)
        keras.utils.set_random_seed(derive(seed, "weights"))
        hp = keras_tuner.HyperParameters()
        hp.values.update({**values, "learning_rate": self.low})
        model = build_model(hypermodel, hp)
        losses = trainer.sweep(
            hypermodel, hp, model, derive(seed, "fit"), rates, self.steps_per_point
        )
        if len(losses) < 3:
            raise ModelError(
                f"The learning rate test diverged at {self.low:g}; give a smaller range_test.low."
            )
        return Curve(rates[: len(losses)], losses)


def advice(settings: RangeTest, space: Space, curve: Curve) -> dict[str, Any]:
    """Return what a study remembers of the test: `bounds` for people, and the `first` trial as the
    study stores it.

    The first trial is empty where the learning rate is not drawn from a range.
    """
    high = settings.margin * curve.largest_stable
    narrow = below(space, high)
    rule = narrow.rules["learning_rate"]
    bounds = {"largest_stable": curve.largest_stable, "proposal": curve.proposal, "high": high}
    if not isinstance(rule, Range):
        return {"bounds": bounds, "first": {}}
    drawn = {
        name: value
        for name, value in middles(space).items()
        if not isinstance(space.rules[name], Fixed)
    }
    drawn["learning_rate"] = min(max(curve.proposal, rule.low), rule.high)
    return {"bounds": bounds, "first": narrow.params(drawn)}


def below(space: Space, high: float) -> Space:
    """Return the space with learning rates of at most `high`; fixed ones and choices stay as they
    are.
    """
    rule = space.rules.get("learning_rate")
    if not isinstance(rule, Range):
        return space
    high = min(rule.high, max(high, 2 * rule.low))
    found = Space({})
    found.rules = {
        **space.rules,
        "learning_rate": Range(rule.low, high, rule.scale, rule.step, rule.integer),
    }
    return found


def middles(space: Space) -> dict[str, float]:
    """Return the middle of each bound, on its scale; a fixed hyperparameter has its value."""
    fixed = {
        name: r.value
        for name, r in space.rules.items()
        if isinstance(r, Fixed) and is_number(r.value)
    }
    points = {stored: values[0] for stored, values in space.grid(1).items()}
    drawn = {
        stored.removeprefix(COMPLEMENT): 1 - value if stored.startswith(COMPLEMENT) else value
        for stored, value in points.items()
        if is_number(value)
    }
    return fixed | drawn


def figure(curve: Curve) -> Figure:
    """Draw a learning rate test."""
    plot, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    axis.semilogx(curve.learning_rates, curve.losses, color="0.7", label="training loss")
    axis.semilogx(curve.learning_rates, curve.smooth(), color="black", label="smoothed")
    axis.axvline(curve.largest_stable, color="C3", linestyle="--", label="largest stable")
    axis.axvline(curve.proposal, color="C2", linestyle=":", label="proposed")
    axis.set(xlabel="learning_rate", ylabel="train/loss (nats)")
    axis.legend()
    return drawn("lr_test", plot, "Training loss while the learning rate rises.")
