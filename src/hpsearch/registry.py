"""The model registry: keep a trial's model in its run, make the best one a version, move the aliases."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import keras
import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from hpsearch.data import SearchData
from hpsearch.errors import ModelError
from hpsearch.runs import TrackedRun

KEPT = "checkpoint/model.keras"
CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True)
class Version:
    """A version of a registered model, and whether it became champion."""

    name: str
    number: str
    is_champion: bool
    why: str

    @property
    def uri(self) -> str:
        """Where MLflow loads it from."""
        return f"models:/{self.name}/{self.number}"


class Registry:
    """Registers models in the MLflow store that `client` is connected to."""

    def __init__(self, client: MlflowClient) -> None:
        self.client = client

    def keep(self, model: keras.Model, run: TrackedRun) -> None:
        """Keep a trial's model with its run, without the optimizer's state."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(KEPT).name
            model.save(path, include_optimizer=False)
            run.move(path, str(Path(KEPT).parent))

    def kept(self, run_id: str) -> keras.Model:
        """Return the model that `keep` has kept with a run."""
        with tempfile.TemporaryDirectory() as folder:
            return keras.models.load_model(self.client.download_artifacts(run_id, KEPT, folder), compile=False)

    def register(
        self, name: str, run_id: str, model: keras.Model, *, data: SearchData, tags: Mapping[str, object], metric: str
    ) -> Version:
        """Make the model of a trial's run a version of registered model `name`, and its challenger.

        The challenger becomes champion where there is none or where its `metric` tag is lower than the champion's.
        A trial that is a version already is not registered again.
        """
        known = [v for v in self.client.search_model_versions(f"name='{name}'") if v.run_id == run_id]
        number = known[0].version if known else self._log(name, run_id, model, data)
        for key, value in tags.items():
            self.client.set_model_version_tag(name, number, key, str(value))
        self.client.set_registered_model_alias(name, CHALLENGER, number)
        return self._promote(name, str(number), metric)

    def _log(self, name: str, run_id: str, model: keras.Model, data: SearchData) -> str:
        """Write the model as an artifact of its run and make that a version: by ids, so that no run is active."""
        with tempfile.TemporaryDirectory() as folder:
            mlflow.keras.save_model(
                model,
                folder,
                signature=_signature(model, data),
                input_example=data.val.images[:2],
                pip_requirements=requirements(),
                save_model_kwargs={"include_optimizer": False},
            )
            self.client.log_artifacts(run_id, folder, "model")
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return str(self.client.create_model_version(name, f"runs:/{run_id}/model", run_id).version)

    def _promote(self, name: str, number: str, metric: str) -> Version:
        champion = self._by_alias(name, CHAMPION)
        if champion is not None and champion.version == number:
            return Version(name, number, True, "it is the champion already")
        mine = float(self.client.get_model_version(name, number).tags[metric])
        theirs = float(champion.tags.get(metric, "nan")) if champion is not None else float("nan")
        if champion is not None and not mine < theirs:
            why = f"{metric} {mine:.4f} is not below the {theirs:.4f} of champion version {champion.version}"
            return Version(name, number, False, why)
        why = "there was no champion" if champion is None else f"{metric} {mine:.4f} is below {theirs:.4f}"
        self.client.set_registered_model_alias(name, CHAMPION, number)
        self.client.set_model_version_tag(name, number, "hpsearch.champion_because", why)
        return Version(name, number, True, why)

    def _by_alias(self, name: str, alias: str) -> mlflow.entities.model_registry.ModelVersion | None:
        try:
            return self.client.get_model_version_by_alias(name, alias)
        except MlflowException:
            return None

    def load(self, name: str, which: str) -> tuple[keras.Model, mlflow.entities.model_registry.ModelVersion]:
        """Return the Keras model of a version, by its number or alias, and what the registry knows of it.

        Raises:
            ModelError: There is no such model or version.
        """
        try:
            found = self.client.get_model_version(name, which) if which.isdigit() else self._by_alias(name, which)
            if found is None:
                raise ModelError(f"Registered model {name} has no version with alias {which!r}.")
            return mlflow.keras.load_model(f"models:/{name}/{found.version}"), found
        except MlflowException as error:
            names = ", ".join(sorted(m.name for m in self.client.search_registered_models())) or "none"
            raise ModelError(f"There is no version {which} of registered model {name}; registered: {names}.") from error


def requirements() -> list[str]:
    """Return the exact versions that a registered model needs to be loaded."""
    return [f"{name}=={version(name)}" for name in ("keras", keras.backend.backend(), "numpy", "mlflow")]


def _signature(model: keras.Model, data: SearchData) -> ModelSignature:
    n_outputs = model.output_shape[-1]
    # Without names: MLflow would hand a dictionary to a model that takes one array.
    images = TensorSpec(data.train.images.dtype, (-1, *data.image_shape))
    return ModelSignature(Schema([images]), Schema([TensorSpec(np.dtype("float32"), (-1, n_outputs))]))
