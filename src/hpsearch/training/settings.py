"""The settings of a fit: epochs, batch size, the monitored metric, precision and so on.

`Training` holds and checks what conf/training sets. `use_precision` applies the precision to Keras.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from hpsearch.errors import ConfigError, did_you_mean
from hpsearch.study.direction import Direction

VAL_BATCH_SIZE = 1000


def use_precision(precision: str) -> None:
    """Let Keras build models in a precision, as in `Training`, from now on."""
    import keras  # noqa: PLC0415 (a mistake in the settings below is answered without it)

    floatx = "float32"
    if precision == "float64":
        floatx = "float64"
    if keras.backend.backend() == "jax":
        jax = sys.modules["jax"]
        is_double = floatx == "float64"
        jax.config.update("jax_enable_x64", is_double)
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(precision)


@dataclass(frozen=True)
class Training:
    """Settings of a fit; see conf/training for what each means."""

    epochs: int
    batch_size: int
    patience_epochs: int
    monitor: str
    averaging_epochs: float | None
    steps_per_call: int
    precision: str
    jit_compile: bool | None
    # Studies of earlier versions have recorded neither.
    direction: str | None = None
    swag: bool = False

    def __post_init__(self) -> None:
        leasts = {
            "epochs": 1,
            "batch_size": 1,
            "patience_epochs": 1,
            "steps_per_call": 0,
        }
        for name, least in leasts.items():
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"training.{name} must be at least {least}, but is {value}.")
        precisions = ("float32", "mixed_bfloat16", "float64")
        if self.precision not in precisions:
            hint = did_you_mean(self.precision, precisions)
            raise ConfigError(f"There is no training.precision={self.precision}.{hint}")
        if self.averaging_epochs is not None and self.averaging_epochs < 0:
            raise ConfigError(
                f"training.averaging_epochs must be 0 or more, but is {self.averaging_epochs}."
            )
        if self.swag and self.epochs < 5:
            raise ConfigError(
                "training.swag=true needs three epochs in the last half of a training, so "
                f"training.epochs must be at least 5, but is {self.epochs}."
            )
        directions = [direction.value for direction in Direction]
        if self.direction is not None and self.direction not in directions:
            hint = did_you_mean(str(self.direction), directions)
            raise ConfigError(f"There is no training.direction={self.direction}.{hint}")

    @property
    def is_directed(self) -> bool:
        """Whether it is known if less or more of the monitored metric is better.

        A loss is the one metric whose name says it.
        """
        if self.direction is not None:
            return True
        _, _, name = self.monitor.partition("/")
        return name == "loss"

    @property
    def goal(self) -> Direction:
        """The direction of the monitored metric.

        Raises:
            ValueError: The direction is not known; see `is_directed`.
        """
        if self.direction is not None:
            return Direction(self.direction)
        if not self.is_directed:
            raise ValueError(f"Expected a direction of {self.monitor}. Received: direction=None")
        return Direction.MINIMIZE
