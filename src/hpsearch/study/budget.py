"""What a study may cost, and how much of that its trials hold."""

from __future__ import annotations

from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from hpsearch.errors import ConfigError, SearchError
from hpsearch.study.sampling import has_no_ticket
from hpsearch.study.trial_end import is_failure, spends_budget


@dataclass(frozen=True)
class Budget:
    """What a study may cost; see conf/budget for what each means."""

    n_trials: int
    timeout_s: float | None
    max_failures: int
    max_retries: int
    lease_s: float
    linger: bool
    grace_s: float
    trial_timeout_s: float | None = None

    def __post_init__(self) -> None:
        for name, least in (
            ("n_trials", 1),
            ("max_failures", 0),
            ("max_retries", 0),
            ("grace_s", 0),
        ):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"budget.{name} must be at least {least}, but is {getattr(self, name)}."
                )
        if self.lease_s <= 0:
            raise ConfigError(f"budget.lease_s must be above 0, but is {self.lease_s}.")
        for name, value in (
            ("timeout_s", self.timeout_s),
            ("trial_timeout_s", self.trial_timeout_s),
        ):
            if value is not None and not value > 0:
                raise ConfigError(
                    f"budget.{name} must be above 0, or null for no limit, but is {value}."
                )

    def has_room(self, trials: list[FrozenTrial]) -> bool:
        """Return whether these trials leave any of it; one that runs holds its place."""
        return n_held(trials) < self.n_trials

    def check_failures(self, trials: list[FrozenTrial]) -> None:
        """Raise SearchError where more than `max_failures` trials have failed."""
        failed = [t for t in trials if is_failure(t)]
        if len(failed) > self.max_failures:
            raise SearchError(
                f"{len(failed)} trials failed, more than budget.max_failures={self.max_failures}; "
                f"the last one: {failed[-1].user_attrs.get('message')}"
            )


def n_held(trials: list[FrozenTrial]) -> int:
    """Return how many trials are spent or run."""
    return sum(t.state == TrialState.RUNNING or spends_budget(t) for t in trials)


def n_tickets(trials: list[FrozenTrial]) -> int:
    """Return how many tickets have been given out."""
    n_others = sum(has_no_ticket(t) for t in trials)
    return len(trials) - n_others
