"""Settings of a fit."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import keras

from hpsearch.errors import ConfigError, did_you_mean
from hpsearch.study.direction import Direction

BATCH_SIZE = "batch_size"  # the one hyperparameter that is the fit's and not the model's
VAL_BATCH_SIZE = 1000
PRECISIONS = ("float32", "mixed_bfloat16", "float64")
LOSS = "loss"  # the one metric whose name says which way it is better


def use_precision(precision: str) -> None:
    """Let models be built in a precision, one of `PRECISIONS`, from now on."""
    floatx = "float64" if precision == "float64" else "float32"
    if keras.backend.backend() == "jax":
        sys.modules["jax"].config.update("jax_enable_x64", floatx == "float64")
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
    direction: str | None = None  # studies of earlier versions have recorded none

    def __post_init__(self) -> None:
        for name, least in (
            ("epochs", 1),
            ("batch_size", 1),
            ("patience_epochs", 1),
            ("steps_per_call", 0),
        ):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"training.{name} must be at least {least}, but is {getattr(self, name)}."
                )
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"There is no "
                f"training.precision={self.precision}.{did_you_mean(self.precision, PRECISIONS)}"
            )
        if self.averaging_epochs is not None and self.averaging_epochs < 0:
            raise ConfigError(
                f"training.averaging_epochs must be 0 or more, but is {self.averaging_epochs}."
            )

        if self.direction not in (None, *Direction):
            said = did_you_mean(str(self.direction), Direction)
            raise ConfigError(f"There is no training.direction={self.direction}.{said}")

    @property
    def is_directed(self) -> bool:
        """Whether it is known which way the monitored metric is better."""
        return self.direction is not None or self.monitor.partition("/")[2] == LOSS

    @property
    def goal(self) -> Direction:
        """The direction of the monitored metric, once it is known."""
        if self.direction is not None:
            return Direction(self.direction)
        if not self.is_directed:
            raise ValueError(f"Expected a direction of {self.monitor}. Received: direction=None")
        return Direction.MINIMIZE
