"""The settings of an evaluation that compares several ways to predict with uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpsearch.errors import ConfigError, did_you_mean
from hpsearch.mc_dropout.prediction import McDropout

METHODS = ("mc_dropout", "laplace", "swag", "ensemble")


@dataclass(frozen=True)
class Uncertainty(McDropout):
    """The settings of MC Dropout, and the methods that are compared with the plain prediction.

    Attributes:
        methods: From `METHODS`.
        swag_samples: Number of models that SWAG draws.
        ensemble_seeds: Number of models that an ensemble trains anew.
    """

    methods: Sequence[str]
    swag_samples: int
    ensemble_seeds: int

    def __post_init__(self) -> None:
        """Raise ConfigError if a setting is out of range."""
        super().__post_init__()
        if isinstance(self.methods, str):
            raise ConfigError(
                f"uncertainty.methods must be a list, but is {self.methods}: give "
                f"uncertainty.methods=[{self.methods}]."
            )
        for method in self.methods:
            if method not in METHODS:
                raise ConfigError(
                    f"There is no method {method} for uncertainty.methods."
                    f"{did_you_mean(method, METHODS)}"
                )
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ConfigError(
                "Expected at least one method, each once, in uncertainty.methods, received "
                f"{list(self.methods)}."
            )
        for name, least in {"swag_samples": 1, "ensemble_seeds": 2}.items():
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"uncertainty.{name} must be at least {least}, but is {value}.")


def methods_of(settings: McDropout) -> Sequence[str]:
    """Return the methods that settings ask for; those of MC Dropout alone ask for it alone."""
    if isinstance(settings, Uncertainty):
        return settings.methods
    return ("mc_dropout",)
