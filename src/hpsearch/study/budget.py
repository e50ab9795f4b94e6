"""The budget of a study: how many trials it may run, how long, and how many may fail."""

from __future__ import annotations

from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from hpsearch.errors import ConfigError, SearchError
from hpsearch.study.trial_end import TrialEnd


@dataclass(frozen=True)
class Budget:
    """What a study may cost; conf/budget explains each value."""

    n_trials: int
    timeout_s: float | None
    max_failures: int
    max_retries: int
    lease_s: float
    linger: bool
    grace_s: float
    trial_timeout_s: float | None = None

    def __post_init__(self) -> None:
        _check_least("n_trials", self.n_trials, 1)
        _check_least("max_failures", self.max_failures, 0)
        _check_least("max_retries", self.max_retries, 0)
        _check_least("grace_s", self.grace_s, 0)
        if self.lease_s <= 0:
            raise ConfigError(f"budget.lease_s must be above 0, but is {self.lease_s}.")
        _check_limit("timeout_s", self.timeout_s)
        _check_limit("trial_timeout_s", self.trial_timeout_s)

    def has_room(self, trials: list[FrozenTrial]) -> bool:
        """Return whether the budget has room for a trial beside these; a running one counts."""
        n_held = 0
        for trial in trials:
            if trial.state == TrialState.RUNNING or TrialEnd.has_spent(trial):
                n_held += 1
        return n_held < self.n_trials

    def check_failures(self, trials: list[FrozenTrial]) -> None:
        """Raise SearchError if more than `max_failures` trials have failed."""
        failed = [t for t in trials if TrialEnd.has_failed(t)]
        if len(failed) > self.max_failures:
            raise SearchError(
                f"{len(failed)} trials failed, more than budget.max_failures={self.max_failures}; "
                f"the last one: {failed[-1].user_attrs.get('message')}"
            )


def _check_least(name: str, value: float, least: int) -> None:
    if value < least:
        raise ConfigError(f"budget.{name} must be at least {least}, but is {value}.")


def _check_limit(name: str, value: float | None) -> None:
    if value is not None and not value > 0:  # NaN is not above 0 either
        raise ConfigError(f"budget.{name} must be above 0, or null for no limit, but is {value}.")
