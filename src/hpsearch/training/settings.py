"""Settings of a fit, and whether a model can be fitted by them."""

from __future__ import annotations

from dataclasses import dataclass

import keras

from hpsearch.errors import ConfigError, did_you_mean

BATCH_SIZE = "batch_size"  # the one hyperparameter that is the fit's and not the model's
VAL_BATCH_SIZE = 1000
PRECISIONS = ("float32", "mixed_bfloat16")


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

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience_epochs", 1), ("steps_per_call", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"training.{name} must be at least {least}, but is {getattr(self, name)}.")
        if self.precision not in PRECISIONS:
            raise ConfigError(
                f"There is no training.precision={self.precision}.{did_you_mean(self.precision, PRECISIONS)}"
            )
        if self.averaging_epochs is not None and self.averaging_epochs < 0:
            raise ConfigError(f"training.averaging_epochs must be 0 or more, but is {self.averaging_epochs}.")

    @property
    def maximize(self) -> bool:
        """Whether more of the monitored metric is better."""
        return not self.monitor.endswith(("loss", "error"))


def check_monitor(model: keras.Model, monitor: str) -> None:
    """Raise ConfigError unless fitting `model` will report `monitor`."""
    names = ["loss", *(m if isinstance(m, str) else m.name for m in model.get_compile_config()["metrics"] or [])]
    valid = [f"{part}/{name}" for part in ("train", "val") for name in names]
    if monitor not in valid:
        raise ConfigError(f"training.monitor={monitor} is no metric of this model.{did_you_mean(monitor, valid)}")
