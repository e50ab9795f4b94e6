"""Measures of a learning curve: a value for each epoch, the first epoch first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def overshoot(losses: Sequence[float]) -> float:
    """Return how far the loss rises above its first low after its first descent; 0 where it never rises."""
    for place in range(len(losses) - 1):
        if losses[place + 1] > losses[place]:
            return float(max(losses[place + 1 :]) - losses[place])
    return 0.0


def oscillation(losses: Sequence[float]) -> float:
    """Return the sum of all rises from one epoch to the next."""
    steps = np.diff(np.asarray(losses, np.float64))
    return float(steps[steps > 0].sum())


def epochs_to(losses: Sequence[float], target: float) -> int | None:
    """Return the first epoch (counted from 1) whose loss is at most `target`; None where there is none (censored)."""
    return next((epoch for epoch, loss in enumerate(losses, 1) if loss <= target), None)


def seconds_to(losses: Sequence[float], epoch_s: Sequence[float], target: float) -> float | None:
    """Return the seconds until the end of that epoch."""
    epoch = epochs_to(losses, target)
    return None if epoch is None else float(sum(epoch_s[:epoch]))


def common_target(curves: Sequence[Sequence[float]]) -> float | None:
    """Return the loss to race to: three quarters of the curves get there."""
    lowest = [min(curve) for curve in curves if curve]
    return float(np.quantile(lowest, 0.75)) if lowest else None


def of_training(curves: dict[str, list[float]]) -> dict[str, float]:
    """Return the scalars that every training has, from its curves by epoch."""
    losses = curves.get("train/loss", [])
    if not losses:
        return {}
    times = curves["time/epoch_s"]
    return {
        "overshoot": overshoot(losses),
        "oscillation": oscillation(losses),
        "final/train/loss": losses[-1],
        "time/epoch_s": float(np.median(times[1:] or times)),  # the first epoch compiles
        "n_epochs": float(len(losses)),
    }
