"""Make the ways to predict with uncertainty that an evaluation compares with MC Dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from hpsearch.alternatives.ensemble import Ensemble
from hpsearch.alternatives.settings import Uncertainty
from hpsearch.data.split import SearchData
from hpsearch.errors import ConfigError, ModelError
from hpsearch.experiments.seeded_ensemble import train_anew
from hpsearch.jobs.composed import Plain
from hpsearch.jobs.recipe import arm_of
from hpsearch.tracking.tracking import Tracking


def _silent(text: str) -> None:
    """Tell nobody."""


def ensemble(
    tracking: Tracking,
    found: ModelVersion,
    known: SearchData,
    settings: Uncertainty,
    rebuild: Callable[[Plain], Any],
    *,
    careful: str,
    say: Callable[[str], None] = _silent,
) -> Ensemble:
    """Train the model of a version anew from fresh seeds, and return the ensemble.

    Args:
        tracking: The MLflow store.
        found: The version, whose own code is imported already.
        known: The data set on which the models are trained.
        settings: The number of trainings, their root seed, and what the models return.
        rebuild: Returns the objects that recorded settings describe.
        careful: How the data set differs from that of the search; empty where it does not.
        say: Takes a sentence for the person before the trainings, which may take minutes.

    Raises:
        ConfigError: The data set is not that of the search, or recorded settings cannot be built.
        ModelError: The version has no recipe, or fewer than two trainings came to their end.
    """
    name = f"version {found.version} of {found.name}"
    if careful:
        raise ConfigError(
            f"uncertainty=ensemble trains the model of {name} anew, for which data={known.name} is "
            "not the data set of its search: leave out data=, or choose another uncertainty."
        )
    arm = arm_of(tracking, found, known, rebuild)
    n_seeds = settings.ensemble_seeds
    say(f"Training {n_seeds} models anew with the hyperparameters of {name}.")
    trained = train_anew(known, arm, settings.seed, n_seeds)
    if len(trained.models) < 2:
        raise ModelError(
            f"Of {n_seeds} trainings anew of {name}, {len(trained.diverged)} diverged "
            f"({trained.diverged[0].rstrip('.')}), and an ensemble needs two models: give more, "
            "uncertainty.ensemble_seeds=N, or choose another uncertainty."
        )
    how = (
        f"Each of {len(trained.models)} models was trained anew with the hyperparameters of {name} "
        f"from a seed of its own (root seed {settings.seed})."
    )
    if trained.diverged:
        how += f" Left out, since their training diverged: {len(trained.diverged)} of {n_seeds}."
    return Ensemble(trained.models, settings, trained.seconds, how, known.val.inputs[:256])
