"""Make the ways to predict with uncertainty that an evaluation compares with MC Dropout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
from mlflow.entities.model_registry import ModelVersion

from hpsearch.alternatives.ensemble import Ensemble
from hpsearch.alternatives.laplace import Laplace
from hpsearch.alternatives.method import Alternative
from hpsearch.alternatives.settings import Uncertainty, methods_of
from hpsearch.data.split import SearchData
from hpsearch.errors import ConfigError, ModelError, UserError
from hpsearch.experiments.seeded_ensemble import train_anew
from hpsearch.jobs.composed import Plain
from hpsearch.jobs.recipe import arm_of
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.tracking.tracking import Tracking


def made(
    settings: McDropout,
    makers: Mapping[str, Callable[[], Alternative]],
) -> tuple[dict[str, Alternative], dict[str, str]]:
    """Make what settings ask for, and return it by arm, with the reasons of what cannot be made.

    Args:
        settings: They name the methods.
        makers: What makes each method that needs making.

    Raises:
        UserError: The only method that was asked for cannot be made.
    """
    asked = methods_of(settings)
    alternatives = {}
    not_made = {}
    for name in asked:
        if name not in makers:
            continue
        try:
            alternatives[name] = makers[name]()
        except UserError as error:
            if len(asked) == 1:
                raise
            not_made[name] = str(error)
    return alternatives, not_made


def laplace(
    model: keras.Model,
    settings: McDropout,
    known: SearchData,
    careful: str,
) -> Laplace:
    """Return the Laplace approximation of the last layer of a version's model.

    Args:
        model: The model.
        settings: The settings of the evaluation.
        known: The data on which the model was trained.
        careful: A text that is not empty where these data are not those of the search.

    Raises:
        ModelError: The last layer is not linear, or the training examples are unknown.
    """
    if careful:
        raise ModelError(
            "Laplace needs the examples on which the model was trained, and this data set is "
            "another: leave out data=NAME, or leave laplace out of uncertainty.methods."
        )
    return Laplace(model, settings, known.train)


def ensemble(
    tracking: Tracking,
    found: ModelVersion,
    known: SearchData,
    settings: Uncertainty,
    rebuild: Callable[[Plain], Any],
    *,
    careful: str,
    say: Callable[[str], None],
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
