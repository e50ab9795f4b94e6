"""Make the ways to predict with uncertainty that an evaluation compares with MC Dropout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from mlflow.entities.model_registry import ModelVersion

from hpsearch.alternatives.ensemble import Ensemble
from hpsearch.alternatives.laplace import Laplace
from hpsearch.alternatives.method import LABELS, Alternative
from hpsearch.alternatives.settings import Uncertainty
from hpsearch.alternatives.swag import Swag
from hpsearch.data.split import Examples, SearchData
from hpsearch.errors import ConfigError, ModelError, UserError
from hpsearch.experiments.seeded_ensemble import train_anew
from hpsearch.jobs.composed import Plain
from hpsearch.jobs.recipe import arm_of
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.tracking.registry import Registry
from hpsearch.tracking.tracking import Tracking


@dataclass(frozen=True)
class Makers:
    """Makes what the settings of an evaluation ask for.

    Attributes:
        tracking: The MLflow store.
        registry: The registry that has the version.
        found: The version, whose own code is imported already.
        model: Its model.
        known: The data set of the evaluation.
        careful: How the data set differs from that of the search; empty where it does not.
        rebuild: Returns the objects that recorded settings describe.
        say: Takes a sentence for the person before what takes minutes.
    """

    tracking: Tracking
    registry: Registry
    found: ModelVersion
    model: keras.Model
    known: SearchData
    careful: str
    rebuild: Callable[[Plain], Any]
    say: Callable[[str], None]

    def made(self, settings: McDropout) -> tuple[dict[str, Alternative], dict[str, str]]:
        """Return what settings ask for by arm, and the reasons of what cannot be made.

        What takes long is made last.

        Raises:
            UserError: None of the methods can be made.
        """
        made: dict[str, Alternative] = {}
        not_made: dict[str, str] = {}
        if not isinstance(settings, Uncertainty):
            return made, not_made
        for name in ("laplace", "swag", "ensemble"):
            if name not in settings.methods:
                continue
            try:
                made[name] = self._made(name, settings)
            except UserError as error:
                if len(settings.methods) == 1:
                    raise
                not_made[name] = str(error)
        if not made and "mc_dropout" not in settings.methods:
            reasons = [f"{LABELS[name]}: {why.rstrip('.')}" for name, why in not_made.items()]
            raise ModelError(f"None of uncertainty.methods can be used; {'; '.join(reasons)}.")
        return made, not_made

    def _made(self, name: str, settings: Uncertainty) -> Alternative:
        if name == "ensemble":
            return self._ensemble(settings)
        if self.careful:
            raise ModelError(
                f"{LABELS[name]} needs the examples on which the model was trained, and this data "
                f"set is another: leave out data=NAME, or give uncertainty.methods without {name}."
            )
        if name == "swag":
            return swag(self.registry, self.found, self.model, settings, self.known.train)
        made = Laplace(self.model, settings, self.known.train)
        if "parent_run" not in self.found.tags:
            made.how += (
                f" The training examples are those of data={self.known.name}; nothing proves that "
                "the model was trained on them, as no search has registered it."
            )
        return made

    def _ensemble(self, settings: Uncertainty) -> Ensemble:
        return ensemble(
            self.tracking,
            self.found,
            self.known,
            settings,
            self.rebuild,
            careful=self.careful,
            say=self.say,
        )


def swag(
    registry: Registry,
    found: ModelVersion,
    model: keras.Model,
    settings: Uncertainty,
    train: Examples,
) -> Swag:
    """Return SWAG for a version of a registered model.

    Args:
        registry: The registry that has the version.
        found: The version.
        model: Its model.
        settings: The settings of the evaluation.
        train: The examples on which it was trained.

    Raises:
        ModelError: The version has no moments, or they do not fit its model.
    """
    moments = registry.moments(found)
    if moments is None:
        raise ModelError(
            f"Version {found.version} of {found.name} has no moments of SWAG: search with "
            "training.swag=true, or give uncertainty.methods without swag."
        )
    return Swag(model, moments, settings, train)


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
