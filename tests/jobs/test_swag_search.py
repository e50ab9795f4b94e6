"""A search with `training.swag=true` registers a version from whose moments SWAG predicts."""

from __future__ import annotations

import os
from typing import Any
from unittest import mock

import numpy as np
import pytest

from hpsearch.alternatives.settings import Uncertainty
from hpsearch.alternatives.swag import Swag
from hpsearch.data.datasets import digits
from hpsearch.data.split import Examples
from hpsearch.errors import ModelError
from hpsearch.jobs.alternatives import swag
from hpsearch.mc_dropout.plain import PlainModel
from hpsearch.metrics import Floats
from hpsearch.models.own_code import import_own_code
from hpsearch.tracking.registry import Registry
from workplace import SMALL

SETTINGS = Uncertainty(10, False, 0, 512, 256.0, False, ["swag"], 5, 2)


def search(place: Any, *words: str) -> str:
    """Search one trial, and return what the terminal shows."""
    small = (*SMALL, "arch=selu", "budget.n_trials=1", "pruner=none")
    done = place.here(*small, "space.bounds.learning_rate=0.003", *words)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def predicted(place: Any, train: Examples) -> tuple[Swag, Floats, Floats]:
    """Return SWAG of the version that was registered, its distributions, and the plain ones."""
    registry = Registry(place.client, import_own_code)
    uri = f"sqlite:///{place.folder}/mlflow.db"
    with mock.patch.dict(os.environ, {"MLFLOW_TRACKING_URI": uri}):
        model, found = registry.load("digits-selu", "1")
        made = swag(registry, found, model, SETTINGS, train)
        probs = made.predict(train.inputs)
    return made, probs, PlainModel(model, SETTINGS).predict(train.inputs)


@pytest.fixture(name="train")
def examples() -> Examples:
    arrays = digits()
    return Examples(arrays.x_train[:200], np.asarray(arrays.y_train[:200], np.int32))


@pytest.mark.slow
def test_a_version_has_moments_that_predict(workplace: Any, train: Examples) -> None:
    search(workplace, "training.swag=true")
    made, probs, plain = predicted(workplace, train)
    assert made.moments.n_snapshots == 3  # epochs 4 to 6 of 6
    right = [(p.argmax(axis=1) == train.targets).mean() for p in (probs, plain)]
    assert right[0] > max(0.6, right[1] - 0.1)
    np.testing.assert_allclose(probs.sum(axis=1), 1)
    (run,) = workplace.runs("trial")
    kept = [file.path for file in workplace.client.list_artifacts(run.info.run_id, "checkpoint")]
    assert "checkpoint/swag.npz" in kept


@pytest.mark.slow
def test_a_version_without_moments_is_told_in_a_sentence(workplace: Any, train: Examples) -> None:
    search(workplace)
    said = (
        "Version 1 of digits-selu has no moments of SWAG: search with training.swag=true, or give "
        "uncertainty.methods without swag."
    )
    with pytest.raises(ModelError) as caught:
        predicted(workplace, train)
    assert str(caught.value) == said


@pytest.mark.slow
def test_too_short_a_training_is_told(workplace: Any, train: Examples) -> None:
    """The loss is to grow, so the first epoch stays the best and patience ends the fit."""
    shown = search(
        workplace,
        "training.swag=true",
        "training.patience_epochs=1",
        "training.monitor=train/loss",
        "training.direction=maximize",
    )
    assert "The model of trial 0 is registered without moments of SWAG" in " ".join(shown.split())
    with pytest.raises(ModelError, match="has no moments of SWAG"):
        predicted(workplace, train)
