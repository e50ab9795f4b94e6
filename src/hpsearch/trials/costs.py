"""The costs of a model: milliseconds of a prediction, and the number of its weights.

`Costs` holds the settings. `Costs.of` measures a model, and `Costs.check` refuses one above a
limit. A cost may also be the second objective of a search.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpsearch.errors import ConfigError, InfeasibleError, did_you_mean
from hpsearch.tracking.names import CHEAPEST

if TYPE_CHECKING:
    # A mistake in the settings is answered without Keras.
    import keras


@dataclass(frozen=True)
class Costs:
    """Settings of what is measured of each model; see conf/costs.

    Attributes:
        second_objective: The cost that is searched together with `training.monitor`, or None.
        constraints: The most of each cost that a model may have; None for no limit.
        tolerance: How much worse than the best model the cheapest one may be to get its alias, as a
            share of the best value.
        n_images: The number of images in the prediction that is timed.
        n_repeats: How often the prediction is timed.
    """

    second_objective: str | None
    constraints: Mapping[str, float | None]
    tolerance: float
    n_images: int
    n_repeats: int

    def __post_init__(self) -> None:
        for name in (self.second_objective, *self.constraints):
            if name is not None and name not in CHEAPEST:
                hint = did_you_mean(str(name), CHEAPEST)
                raise ConfigError(f"There is no cost {name!r}.{hint}")
        for name, limit in self.limits.items():
            if isinstance(limit, str) or not limit > 0:
                raise ConfigError(
                    f"Expected costs.constraints.{name} to be a number above 0; received {limit!r}."
                )
        if self.tolerance < 0 or min(self.n_images, self.n_repeats) < 1:
            raise ConfigError(
                "Expected costs.tolerance of at least 0, and costs.n_images and n_repeats of at "
                "least 1."
            )

    @property
    def limits(self) -> dict[str, float]:
        """The constraints that are given."""
        return {name: limit for name, limit in self.constraints.items() if limit is not None}

    @property
    def alias(self) -> str:
        """The alias of the version that is cheapest by the second objective."""
        return CHEAPEST[self.second_objective or "latency_ms"]

    def of(self, model: keras.Model) -> dict[str, float]:
        """Return the costs of a model that a search asks for; they do not depend on its weights."""
        asked = {*self.limits, self.second_objective}
        found: dict[str, float] = {}
        if "latency_ms" in asked:
            found["latency_ms"] = _latency_ms(model, self.n_images, self.n_repeats)
        if "n_parameters" in asked:
            found["n_parameters"] = float(model.count_params())
        return found

    def excess(self, found: Mapping[str, float]) -> dict[str, float]:
        """Return by how much each limit is exceeded, as a share of it; at most 0 if it is kept."""
        return {name: found[name] / limit - 1 for name, limit in self.limits.items()}

    def check(self, found: Mapping[str, float]) -> None:
        """Raise InfeasibleError if a limit is exceeded."""
        for name, share in self.excess(found).items():
            if share > 0:
                limit = f"costs.constraints.{name}={self.limits[name]:g}"
                raise InfeasibleError(f"{name} {found[name]:.4g} is above {limit}")


def _latency_ms(
    model: keras.Model,
    n_images: int,
    n_repeats: int,
) -> float:
    """Return the milliseconds of one plain prediction of `n_images`: the least of `n_repeats`.

    The least is the best estimate, because other work on the machine only ever adds time.
    """
    shape = (n_images, *model.input_shape[1:])
    images = np.zeros(shape, np.float32)
    seconds = []
    n_warm_up = 3  # calls that compile and fill caches
    for _ in range(n_warm_up + n_repeats):
        begin = time.perf_counter()
        model.predict_on_batch(images)
        seconds.append(time.perf_counter() - begin)
    return 1000 * min(seconds[n_warm_up:])
