"""The model registry: keep a trial's model in its run, make the best one a version, move the aliases."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from hpsearch.errors import ModelError, did_you_mean
from hpsearch.tracking.runs import TrackedRun

KEPT = "checkpoint/model.keras"
RANKED_BY = "best/val/loss"
CHAMPION, CHALLENGER = "champion", "challenger"
IsBetter = Callable[[keras.Model], tuple[bool, str]]


@dataclass(frozen=True)
class Version:
    """A version of a registered model, the alias that it was given, and why."""

    name: str
    number: str
    alias: str
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

    def kept_of_study(self, parent_run_id: str) -> list[keras.Model]:
        """Return the models that the trials of a study have kept, the best first by validation NLL."""
        experiment = self.client.get_run(parent_run_id).info.experiment_id
        query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_run_id}' and attributes.status = 'FINISHED'"
        runs = self.client.search_runs([experiment], query, order_by=[f"metrics.`{RANKED_BY}` ASC"])
        folder = str(Path(KEPT).parent)
        return [self.kept(run.info.run_id) for run in runs if self.client.list_artifacts(run.info.run_id, folder)]

    def register(
        self, name: str, run_id: str, *, save: Callable[[Path], None], tags: Mapping[str, object], is_better: IsBetter
    ) -> Version:
        """Make the model of a trial's run a version of registered model `name`, and its challenger.

        A trial that is a version already is not registered again.

        Args:
            name: Of the registered model.
            run_id: The trial's run.
            save: Writes the model to a folder as MLflow keeps it.
            tags: Of the version.
            is_better: Told the champion, says whether the challenger takes its place, and why.
        """
        number = self._version(name, run_id, save, tags)
        self.client.set_registered_model_alias(name, CHALLENGER, number)
        return self._promote(name, number, is_better)

    def give_alias(
        self, alias: str, name: str, run_id: str, *, save: Callable[[Path], None], tags: Mapping[str, object], why: str
    ) -> Version:
        """Make the model of a trial's run a version, as `register` does, and give it an alias that none contests."""
        number = self._version(name, run_id, save, tags)
        self.client.set_registered_model_alias(name, alias, number)
        self.client.set_model_version_tag(name, number, f"hpsearch.{alias}_because", why)
        return Version(name, number, alias, why)

    def _version(self, name: str, run_id: str, save: Callable[[Path], None], tags: Mapping[str, object]) -> str:
        known = [v for v in self.client.search_model_versions(f"name='{name}'") if v.run_id == run_id]
        number = str(known[0].version) if known else self._log(name, run_id, save)
        for key, value in tags.items():
            self.client.set_model_version_tag(name, number, key, str(value))
        return number

    def _log(self, name: str, run_id: str, save: Callable[[Path], None]) -> str:
        """Write the model as an artifact of its run and make that a version: by ids, so that no run is active."""
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "model"
            save(made)
            self.client.log_artifacts(run_id, str(made), "model")
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return str(self.client.create_model_version(name, f"runs:/{run_id}/model", run_id).version)

    def _promote(self, name: str, number: str, is_better: IsBetter) -> Version:
        champion = self._by_alias(name, CHAMPION)
        if champion is not None and champion.version == number:
            return Version(name, number, CHAMPION, "it is the champion already")
        promoted, why = True, "there was no champion"
        if champion is not None:
            promoted, why = is_better(self.load(name, CHAMPION)[0])
            why = f"{why}, version {champion.version}"
        if promoted:
            self.client.set_registered_model_alias(name, CHAMPION, number)
        tag = "hpsearch.champion_because" if promoted else "hpsearch.not_champion_because"
        self.client.set_model_version_tag(name, number, tag, why)
        return Version(name, number, CHAMPION if promoted else CHALLENGER, why)

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
        except MlflowException:
            found = None
        if found is None:
            raise ModelError(self._no_version(name, which))
        return _loaded(f"models:/{name}/{found.version}"), found

    def _no_version(self, name: str, which: str) -> str:
        models = {model.name: model for model in self.client.search_registered_models()}
        if not models:
            return f"There is no registered model {name}; none is registered yet: python -m hpsearch.search makes one."
        if name not in models:
            return f"There is no registered model {name}.{did_you_mean(name, models)}"
        numbers = [str(found.version) for found in self.client.search_model_versions(f"name = '{name}'")]
        return f"There is no version {which} of {name}.{did_you_mean(which, [*numbers, *models[name].aliases])}"


def _loaded(uri: str) -> keras.Model:
    """Load a Keras model by the flavour with which it was logged."""
    flavors = mlflow.models.get_model_info(uri).flavors
    if "keras" in flavors:
        return mlflow.keras.load_model(uri, load_model_kwargs={"compile": False})
    if "tensorflow" in flavors:
        model = mlflow.tensorflow.load_model(uri, keras_model_kwargs={"compile": False})
        if isinstance(model, keras.Model):
            return model
    raise ModelError(f"Expected {uri} to be a Keras model, received one of flavours {', '.join(sorted(flavors))}.")
