"""What a model costs those who use it: a second objective of a search, or limits that none of its
models may exceed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from hpsearch.errors import ConfigError, InfeasibleError, did_you_mean

WARM_UP = 3  # calls that compile and fill caches
ALIASES = {"latency_ms": "fastest", "n_parameters": "smallest"}
UNITS = {"latency_ms": "one prediction", "n_parameters": "weights"}


def latency_ms(model: keras.Model, n_images: int, n_repeats: int) -> float:
    """Return the milliseconds of one plain prediction of `n_images`, the least of `n_repeats`.

    The least, for what other work on the machine adds is not the model's.
    """
    images = keras.ops.convert_to_numpy(keras.ops.zeros((n_images, *model.input_shape[1:])))
    times = []
    for _ in range(WARM_UP + n_repeats):
        begin = time.perf_counter()
        model.predict_on_batch(images)
        times.append(time.perf_counter() - begin)
    return 1000 * min(times[WARM_UP:])


@dataclass(frozen=True)
class Costs:
    """Settings of what is measured of each model; see conf/costs.

    Attributes:
        second_objective: The cost that is searched together with `training.monitor`, or None.
        constraints: The most of each cost that a model may have, None for any.
        tolerance: How much worse than the best, as a share of it, the cheapest model may be to get
            its alias.
        n_images: Images of the prediction that is timed.
        n_repeats: How often it is timed.
    """

    second_objective: str | None
    constraints: Mapping[str, float | None]
    tolerance: float
    n_images: int
    n_repeats: int

    def __post_init__(self) -> None:
        named = [self.second_objective, *self.constraints]
        for name in named:
            if name is not None and name not in ALIASES:
                raise ConfigError(f"There is no cost {name!r}.{did_you_mean(str(name), ALIASES)}")
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
    def objectives(self) -> list[str]:
        """The costs that are objectives: one or none."""
        return [self.second_objective] if self.second_objective else []

    @property
    def alias(self) -> str:
        """The alias of the version that is cheapest by the second objective."""
        return ALIASES[self.second_objective or "latency_ms"]

    def of(self, model: keras.Model) -> dict[str, float]:
        """Measure what a search asks for of a model's costs; its weights do not matter."""
        measure: dict[str, Callable[[], Any]] = {
            "latency_ms": lambda: latency_ms(model, self.n_images, self.n_repeats),
            "n_parameters": model.count_params,
        }
        return {
            name: float(measure[name]())
            for name in measure
            if name in (*self.limits, self.second_objective)
        }

    def excess(self, found: Mapping[str, float]) -> dict[str, float]:
        """Return by how much each limit is exceeded, as a share of it; 0 or less where it is kept."""
        return {name: found[name] / limit - 1 for name, limit in self.limits.items()}

    def check(self, found: Mapping[str, float]) -> None:
        """Raise InfeasibleError where a limit is exceeded."""
        for name, share in self.excess(found).items():
            if share > 0:
                raise InfeasibleError(
                    f"{name} {found[name]:.4g} is above "
                    f"costs.constraints.{name}={self.limits[name]:g}"
                )
