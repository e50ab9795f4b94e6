"""Which of two values of the monitored metric is better."""

from __future__ import annotations

from enum import StrEnum

import optuna


class Direction(StrEnum):
    """Whether the monitored metric is minimized or maximized; the text is the setting's value."""

    MINIMIZE = "minimize"
    MAXIMIZE = "maximize"

    @classmethod
    def of(cls, study: optuna.Study) -> Direction:
        """Return the direction of the monitored metric, which is a study's first objective."""
        return cls[study.directions[0].name]

    @property
    def better(self) -> str:
        """The word for a better value: `more` or `less`."""
        if self == Direction.MAXIMIZE:
            return "more"
        return "less"

    def as_loss(self, value: float) -> float:
        """Return the value where less is better, and minus the value where more is better.

        Sorting by the result puts the best value first. Applied twice, it returns the value.
        """
        if self == Direction.MAXIMIZE:
            return -value
        return value

    def is_better(self, value: float, than: float) -> bool:
        """Return whether a value is better than another one; equal values and NaN are not."""
        return self.as_loss(value) < self.as_loss(than)
