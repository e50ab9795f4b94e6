"""The model registry: keep a trial's model in its run, make the best one a version, move the
aliases.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import mlflow
import numpy as np
from keras import ops
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from numpy.typing import NDArray

from hpsearch.errors import ModelError, did_you_mean, first_line
from hpsearch.models.own_code import bring
from hpsearch.tracking.runs import TrackedRun

KEPT, OUTPUTS = "checkpoint/model.keras", "checkpoint/outputs.npy"
RANKED_BY = "best/val/loss"
CHAMPION, CHALLENGER = "champion", "challenger"
BECAME, DID_NOT = "hpsearch.champion_because", "hpsearch.not_champion_because"
Judge = Callable[[keras.Model | None], tuple[bool, str]]
Save = Callable[[Path], Mapping[str, object]]


@dataclass(frozen=True)
class Version:
    """A version of a registered model, the alias that it was given, and why; "" where another one
    bears that now.
    """

    name: str
    number: str
    alias: str
    why: str

    def sentence(self) -> str:
        """Return what became of it."""
        alias = f"alias {self.alias}" if self.alias else "without an alias"
        return f"Registered as version {self.number} of {self.name}, {alias} ({self.why})."

    @property
    def uri(self) -> str:
        """Where MLflow loads it from."""
        return f"models:/{self.name}/{self.number}"


class Registry:
    """Registers models in the MLflow store that `client` is connected to."""

    def __init__(self, client: MlflowClient) -> None:
        self.client = client

    def keep(
        self, model: keras.Model, run: TrackedRun, images: NDArray[np.generic] | None = None
    ) -> None:
        """Keep a trial's model with its run, without the optimizer's state, and what it answers to
        a few images.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(KEPT).name
            model.save(path, include_optimizer=False)
            run.move(path, str(Path(KEPT).parent))
            if images is None:
                return
            path = Path(folder) / Path(OUTPUTS).name
            with contextlib.suppress(
                Exception
            ):  # a model that only compiled programs can call is known by its value
                outputs = ops.convert_to_numpy(model(ops.convert_to_tensor(images), training=False))
                np.save(path, np.asarray(outputs, np.float32))
            if path.exists():
                run.move(path, str(Path(OUTPUTS).parent))

    def kept(self, run_id: str) -> keras.Model:
        """Return the model that `keep` has kept with a run."""
        with tempfile.TemporaryDirectory() as folder:
            return keras.models.load_model(self.kept_file(run_id, Path(folder)), compile=False)

    def kept_file(self, run_id: str, folder: Path) -> Path:
        """Fetch the file of the model that `keep` has kept with a run."""
        return Path(self.client.download_artifacts(run_id, KEPT, str(folder)))

    def kept_outputs(self, run_id: str) -> NDArray[np.float32] | None:
        """Return what the model that was kept with a run answered when it was trained; None where
        that is not known.
        """
        known = {
            file.path for file in self.client.list_artifacts(run_id, str(Path(OUTPUTS).parent))
        }
        if OUTPUTS not in known:
            return None
        with tempfile.TemporaryDirectory() as folder:
            outputs: NDArray[np.float32] = np.load(
                self.client.download_artifacts(run_id, OUTPUTS, folder)
            )
        return outputs

    def kept_of_study(self, parent_run_id: str) -> list[keras.Model]:
        """Return the models that the trials of a study have kept, the best first by validation NLL."""
        experiment = self.client.get_run(parent_run_id).info.experiment_id
        query = (
            f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_run_id}' and attributes.status = 'FINISHED'"
        )
        runs = self.client.search_runs([experiment], query, order_by=[f"metrics.`{RANKED_BY}` ASC"])
        folder = str(Path(KEPT).parent)
        return [
            self.kept(run.info.run_id)
            for run in runs
            if self.client.list_artifacts(run.info.run_id, folder)
        ]

    def version_of(self, name: str, run_id: str) -> str | None:
        """Return the number of the version that the model of a trial's run is already."""
        known = [
            v for v in self.client.search_model_versions(f"name='{name}'") if v.run_id == run_id
        ]
        return str(known[0].version) if known else None

    def register(
        self, name: str, run_id: str, *, save: Save, tags: Mapping[str, object], judge: Judge
    ) -> Version:
        """Make the model of a trial's run a version of registered model `name`: its champion, or
        its challenger.

        A trial that is a version already is not registered again, and where nothing has changed
        since, nothing changes.

        Args:
            name: Of the registered model.
            run_id: The trial's run.
            save: Writes the model to a folder as MLflow keeps it, and returns more tags; what it
                raises ends this.
            tags: Of the version.
            judge: Told the champion or None, says whether the version takes its place, and why.
        """
        number = self._version(name, run_id, save, tags)
        champion, challenger = self._by_alias(name, CHAMPION), self._by_alias(name, CHALLENGER)
        if champion is not None and str(champion.version) == number:
            self._end_challenge(name, number)
            return Version(name, number, CHAMPION, "it is the champion already")
        if champion is not None and BECAME in self.client.get_model_version(name, number).tags:
            alias = (
                CHALLENGER if challenger is not None and str(challenger.version) == number else ""
            )
            return Version(
                name, number, alias, f"version {champion.version} has become champion since"
            )
        return self._judged(name, number, judge)

    def _judged(self, name: str, number: str, judge: Judge) -> Version:
        champion, challenger = self._by_alias(name, CHAMPION), self._by_alias(name, CHALLENGER)
        promoted, why = judge(None) if champion is None else self._against(champion, judge)
        if promoted:
            self.client.set_registered_model_alias(name, CHAMPION, number)
            self._end_challenge(name, number)
        is_newest = challenger is None or int(challenger.version) <= int(number)
        if is_newest and not promoted:
            self.client.set_registered_model_alias(name, CHALLENGER, number)
        self._tag_verdict(name, number, promoted, why)
        challenges = CHALLENGER if is_newest else ""
        return Version(name, number, CHAMPION if promoted else challenges, why)

    def _tag_verdict(self, name: str, number: str, promoted: bool, why: str) -> None:
        said, other = (BECAME, DID_NOT) if promoted else (DID_NOT, BECAME)
        self.client.set_model_version_tag(name, number, said, why)
        if other in self.client.get_model_version(name, number).tags:
            self.client.delete_model_version_tag(name, number, other)

    def _against(
        self, champion: mlflow.entities.model_registry.ModelVersion, judge: Judge
    ) -> tuple[bool, str]:
        try:
            model = self.load(champion.name, str(champion.version))[0]
        except Exception as error:  # of code that its own version brings, or a file that is gone
            said = first_line(error)
            return (
                False,
                f"the champion, version {champion.version}, cannot be loaded to compare with it: "
                f"{said:.200}",
            )
        promoted, why = judge(model)
        return promoted, f"{why}, version {champion.version}"

    def _end_challenge(self, name: str, number: str) -> None:
        """Take the challenger's alias from the champion, and from a version that is older than it."""
        challenger = self._by_alias(name, CHALLENGER)
        if challenger is not None and int(challenger.version) <= int(number):
            self.client.delete_registered_model_alias(name, CHALLENGER)

    def give_alias(
        self,
        alias: str,
        name: str,
        run_id: str,
        *,
        save: Save,
        tags: Mapping[str, object],
        why: str,
    ) -> Version:
        """Make the model of a trial's run a version, as `register` does, and give it an alias that
        none contests.
        """
        number = self._version(name, run_id, save, tags)
        self.client.set_registered_model_alias(name, alias, number)
        self.client.set_model_version_tag(name, number, f"hpsearch.{alias}_because", why)
        return Version(name, number, alias, why)

    def _version(self, name: str, run_id: str, save: Save, tags: Mapping[str, object]) -> str:
        number = self.version_of(name, run_id)
        if number is None:
            number, more = self._log(name, run_id, save)
            tags = {**tags, **more}
        for key, value in tags.items():
            self.client.set_model_version_tag(name, number, key, str(value))
        return number

    def _log(self, name: str, run_id: str, save: Save) -> tuple[str, dict[str, object]]:
        """Write the model as an artifact of its run and make that a version: by ids, so that no run
        is active.
        """
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "model"
            tags = dict(save(made))
            self.client.log_artifacts(run_id, str(made), "model")
        with contextlib.suppress(MlflowException):  # what then fails says why
            self.client.create_registered_model(name)
        return str(
            self.client.create_model_version(name, f"runs:/{run_id}/model", run_id).version
        ), tags

    def _by_alias(
        self, name: str, alias: str
    ) -> mlflow.entities.model_registry.ModelVersion | None:
        try:
            return self.client.get_model_version_by_alias(name, alias)
        except MlflowException:
            return None

    def load(
        self, name: str, which: str
    ) -> tuple[keras.Model, mlflow.entities.model_registry.ModelVersion]:
        """Return the Keras model of a version, by its number or alias, and what the registry knows
        of it.

        Raises:
            ModelError: There is no such model or version.
        """
        try:
            found = (
                self.client.get_model_version(name, which)
                if which.isdigit()
                else self._by_alias(name, which)
            )
        except MlflowException:
            found = None
        if found is None:
            raise ModelError(self._no_version(name, which))
        return _loaded(f"models:/{name}/{found.version}"), found

    def _no_version(self, name: str, which: str) -> str:
        models = {model.name: model for model in self.client.search_registered_models()}
        if not models:
            return f"There is no registered model {name}; none is registered yet: python -m hpsearch search makes one."
        if name not in models:
            return f"There is no registered model {name}.{did_you_mean(name, models)}"
        numbers = [
            str(found.version) for found in self.client.search_model_versions(f"name = '{name}'")
        ]
        return f"There is no version {which} of {name}.{did_you_mean(which, [*numbers, *models[name].aliases])}"


def _loaded(uri: str) -> keras.Model:
    """Load a Keras model by the flavour with which it was logged."""
    flavors = mlflow.models.get_model_info(uri).flavors
    if "keras" in flavors:
        folder = mlflow.artifacts.download_artifacts(uri)
        bring(Path(folder), flavors["keras"])
        return mlflow.keras.load_model(folder, load_model_kwargs={"compile": False})
    if "tensorflow" in flavors:
        model = mlflow.tensorflow.load_model(uri, keras_model_kwargs={"compile": False})
        if isinstance(model, keras.Model):
            return model
    raise ModelError(
        f"Expected {uri} to be a Keras model, received one of flavours "
        f"{', '.join(sorted(flavors))}."
    )
