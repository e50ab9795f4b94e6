"""Measures of a learning curve: a value for each epoch, the first epoch first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RACE_EPOCHS, RACE_SECONDS = "race/epochs", "race/seconds"


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


def common_target(curves: Sequence[Sequence[float]], share: float = 0.75) -> float | None:
    """Return the loss to race to: this share of the curves get there."""
    lowest = [min(curve) for curve in curves if curve]
    return float(np.quantile(lowest, share)) if lowest else None


def race(losses: Sequence[float], epoch_s: Sequence[float], target: float) -> dict[str, float]:
    """Return epochs and seconds to a loss; nothing where it is never reached."""
    epochs = epochs_to(losses, target)
    return {} if epochs is None else {RACE_EPOCHS: float(epochs), RACE_SECONDS: float(sum(epoch_s[:epochs]))}


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
