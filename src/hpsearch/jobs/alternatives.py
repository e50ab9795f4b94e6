"""Make the ways to predict with uncertainty that an evaluation compares with MC Dropout."""

from __future__ import annotations

import keras
from mlflow.entities.model_registry import ModelVersion

from hpsearch.alternatives.settings import Uncertainty
from hpsearch.alternatives.swag import Swag
from hpsearch.data.split import Examples
from hpsearch.errors import ModelError
from hpsearch.tracking.registry import Registry


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
            "training.swag=true, or leave swag out of uncertainty.methods."
        )
    return Swag(model, moments, settings, train)
