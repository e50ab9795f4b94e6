"""The settings of a study's budget, and two checks: room for one more trial, too many failures.

The other limits are applied elsewhere: `timeout_s` and `grace_s` by `study.worker_process`,
`trial_timeout_s` by `trials.watchdog`, `lease_s` by `study.leases`, `max_retries` by `study.study`
and `linger` by `trials.worker`.
"""

from __future__ import annotations

from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from hpsearch.errors import ConfigError, SearchError
from hpsearch.study.failures import failures, summary
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
        least = {
            "n_trials": 1,
            "max_failures": 0,
            "max_retries": 0,
            "grace_s": 0,
        }
        for name, smallest in least.items():
            value = getattr(self, name)
            if value < smallest:
                raise ConfigError(f"budget.{name} must be at least {smallest}, but is {value}.")
        if self.lease_s <= 0:
            raise ConfigError(f"budget.lease_s must be above 0, but is {self.lease_s}.")
        for name in ("timeout_s", "trial_timeout_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:  # NaN is not above 0 either
                raise ConfigError(
                    f"budget.{name} must be above 0, or null for no limit, but is {value}."
                )

    def has_room(self, trials: list[FrozenTrial]) -> bool:
        """Return whether the budget has room for a trial beside these; a running one counts."""
        running = [t for t in trials if t.state == TrialState.RUNNING]
        spent = [t for t in trials if TrialEnd.has_spent(t)]
        return len(running) + len(spent) < self.n_trials

    def check_failures(self, trials: list[FrozenTrial]) -> None:
        """Raise SearchError if more than `max_failures` trials have failed."""
        found = failures(trials)
        n_failed = sum(len(group.trials) for group in found)
        if n_failed > self.max_failures:
            raise SearchError(
                f"{n_failed} trials failed, more than budget.max_failures={self.max_failures}: "
                f"{summary(found)}."
            )
