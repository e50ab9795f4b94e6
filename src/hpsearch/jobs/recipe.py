"""The recipe of a registered version: all that trains its model anew, from other seeds.

It is the configuration that the search has recorded, with the hyperparameters of the trial. A
search records them only where its configuration describes the whole model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras_tuner
from mlflow.entities.model_registry import ModelVersion

from hpsearch.data.split import SearchData
from hpsearch.errors import ModelError
from hpsearch.experiments.arms import Arm, Workbench
from hpsearch.jobs.composed import Plain
from hpsearch.models.code_digest import code_digest
from hpsearch.space.bounds import Value
from hpsearch.tracking.absent import unless_absent
from hpsearch.tracking.recipe import Recipe
from hpsearch.tracking.tracking import Tracking


def recorder(
    config: Plain,
    arch: partial[keras_tuner.HyperModel],
    code: str | None,
) -> Callable[[Mapping[str, Value]], dict[str, str]]:
    """Return a function that returns the tags that record the recipe of a trial.

    There are none where the configuration does not describe the whole model: where it was given to
    `hpsearch.search` as a HyperModel object or with arguments that are objects.

    Args:
        config: The composed configuration of the search.
        arch: The architecture of the search.
        code: The digest of the person's own code that makes the models.
    """
    settings = config["arch"]
    is_described = (
        _named(str(settings["_target_"])) is arch.func
        and not arch.args
        and arch.keywords.keys() <= settings.keys()
    )

    def tags(values: Mapping[str, Value]) -> dict[str, str]:
        if not is_described:
            return {}
        return Recipe(values, code).tags()

    return tags


def _named(path: str) -> object:
    """Return what an import path names among the modules that are imported; None if nothing."""
    parts = path.split(".")
    for n in range(len(parts) - 1, 0, -1):
        found: object = sys.modules.get(".".join(parts[:n]))
        if found is not None:
            for name in parts[n:]:
                found = getattr(found, name, None)
            return found
    return None


def arm_of(
    tracking: Tracking,
    found: ModelVersion,
    known: SearchData,
    rebuild: Callable[[Plain], Any],
) -> Arm:
    """Return the arm that trains the model of a version anew.

    Args:
        tracking: The MLflow store.
        found: The version, whose own code is imported already.
        known: The data set of the search.
        rebuild: Returns the objects that recorded settings describe.

    Raises:
        ModelError: The version is of no search, has no record of its recipe, or the code that
            makes its model is another one here.
        ConfigError: The recorded settings cannot be built.
    """
    name = f"version {found.version} of {found.name}"
    recipe, config = _recorded(tracking, found, name)
    plain = {key: config[key] for key in Arm.PARTS if key in config}
    parts = rebuild(plain)
    bounded = list(config["space"]["bounds"])
    arm = Arm(name, parts, recipe.hyperparameters, config=plain, bounded=bounded)
    if recipe.code != _code(arm, known):
        raise ModelError(
            f"The code of {plain['arch']['_target_']} is not that with which {name} was trained, "
            "or is run by another version of Python: run this where that code is, in a new process."
        )
    return arm


def _recorded(tracking: Tracking, found: ModelVersion, name: str) -> tuple[Recipe, Plain]:
    """Return the recipe of a version and the configuration of its search."""
    parent = found.tags.get("parent_run")
    if parent is None:
        raise ModelError(
            f"{name.capitalize()} was registered by no search, so nothing says how to train its "
            "model anew: uncertainty=ensemble needs a version of hpsearch search."
        )
    config = tracking.recorded_config(parent)
    run = unless_absent(lambda: tracking.client.get_run(str(found.run_id)))
    recipe = None
    if run is not None:
        recipe = Recipe.read(run.data.tags)
    if config is None or recipe is None:
        raise ModelError(
            f"Nothing says how to train the model of {name} anew, since its search was one of an "
            "earlier hpsearch or was given an object in place of a function or class: search "
            "again, with a function or class and study.name=NAME."
        )
    return recipe, config


def _code(arm: Arm, known: SearchData) -> str | None:
    """Return the digest of the person's own code that makes the models of an arm."""
    bench = Workbench(known)
    bench.build(arm, 0)
    parts = arm.parts
    makers = (parts["arch"], parts["optimizer"], parts["schedule"], parts.get("sparsity"))
    return code_digest(makers, lambda: bench.build(arm, 0))
