"""Keep the models of trials in MLflow, and register the best of them as a version with an alias.

A search keeps a model with its trial's run. The best model becomes a version of a registered
model, which MLflow can load and serve; an alias marks the version as champion or challenger.
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
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from numpy.typing import NDArray

from hpsearch.errors import ModelError, did_you_mean, first_line
from hpsearch.models.own_code import import_own_code
from hpsearch.study.trial_end import TrialEnd
from hpsearch.tracking.runs import END, TrackedRun

# Gets the champion's model, or None; returns whether another model becomes champion, and why.
_Judge = Callable[[keras.Model | None], tuple[bool, str]]


@dataclass(frozen=True)
class Candidate:
    """A trial's model that is about to become a version.

    Attributes:
        model: The model.
        run_id: The trial's run.
        save: Writes the model to a folder in MLflow's format, and returns more tags. An error that
            it raises ends the registration. A model that is a version already is not saved again.
        tags: Tags of the version.
    """

    model: keras.Model
    run_id: str
    save: Callable[[Path], Mapping[str, object]]
    tags: Mapping[str, object]


@dataclass(frozen=True)
class Version:
    """A version of a registered model.

    Attributes:
        name: The registered model.
        number: The version.
        alias: The alias that the version has, or "" where another version has it now.
        why: The reason, as a part of a sentence.
    """

    name: str
    number: str
    alias: str
    why: str

    def sentence(self) -> str:
        """Return a sentence for people that says what was registered, and why."""
        alias = "without an alias"
        if self.alias:
            alias = f"alias {self.alias}"
        return f"Registered as version {self.number} of {self.name}, {alias} ({self.why})."

    @property
    def is_champion(self) -> bool:
        """Whether the version is the champion of the registered model."""
        return self.alias == Registry.CHAMPION

    @property
    def uri(self) -> str:
        """The address from which MLflow loads the version."""
        return f"models:/{self.name}/{self.number}"


class Registry:
    """Keeps and registers models in the MLflow store that `client` is connected to."""

    CHAMPION = "champion"
    _CHALLENGER = "challenger"
    _PROMOTED_TAG = "hpsearch.champion_because"
    _NOT_PROMOTED_TAG = "hpsearch.not_champion_because"
    # A run's artifacts of a model that is kept.
    _FOLDER = "checkpoint"
    _MODEL = "checkpoint/model.keras"
    _OUTPUTS = "checkpoint/outputs.npy"

    def __init__(self, client: MlflowClient) -> None:
        self.client = client

    def keep(
        self, model: keras.Model, run: TrackedRun, images: NDArray[np.generic] | None = None
    ) -> None:
        """Write a trial's model to its run as an artifact, without the state of the optimizer.

        Args:
            model: The trained model.
            run: The trial's run.
            images: A few images of shape (N, height, width, channels). The outputs of the model for
                them are kept too; None keeps no outputs.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            model.save(path, include_optimizer=False)
            run.move(path, self._FOLDER)
            if images is None:
                return
            path = Path(folder) / "outputs.npy"
            # Some models can be called by compiled programs only; they have no kept outputs.
            with contextlib.suppress(Exception):
                inputs = ops.convert_to_tensor(images)
                outputs = ops.convert_to_numpy(model(inputs, training=False))
                np.save(path, np.asarray(outputs, np.float32))
            if path.exists():
                run.move(path, self._FOLDER)

    def kept(self, run_id: str) -> keras.Model:
        """Return the model that `keep` has written to a run."""
        with tempfile.TemporaryDirectory() as folder:
            path = self.kept_file(run_id, Path(folder))
            return keras.models.load_model(path, compile=False)

    def kept_file(self, run_id: str, folder: Path) -> Path:
        """Download the model file that `keep` has written to a run, and return its path."""
        path = self.client.download_artifacts(run_id, self._MODEL, str(folder))
        return Path(path)

    def kept_outputs(self, run_id: str) -> NDArray[np.float32] | None:
        """Return the outputs that `keep` has written to a run, or None where there are none."""
        artifacts = self.client.list_artifacts(run_id, self._FOLDER)
        paths = [file.path for file in artifacts]
        if self._OUTPUTS not in paths:
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = self.client.download_artifacts(run_id, self._OUTPUTS, folder)
            outputs: NDArray[np.float32] = np.load(path)
        return outputs

    def kept_of_study(self, parent_run_id: str) -> list[keras.Model]:
        """Return the models that were kept for a study's finished trials, lowest val NLL first."""
        parent = self.client.get_run(parent_run_id)
        experiment = parent.info.experiment_id
        query = (
            f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_run_id}' and attributes.status = 'FINISHED'"
        )
        order = ["metrics.`best/val/loss` ASC"]
        finished = TrialEnd.FINISHED.word
        models = []
        runs = self.client.search_runs([experiment], query, order_by=order)
        for run in runs:
            # MLflow's status is the same for a pruned trial; earlier versions wrote no tag.
            if run.data.tags.get(END, finished) != finished:
                continue
            run_id = run.info.run_id
            if self.client.list_artifacts(run_id, self._FOLDER):
                models.append(self.kept(run_id))
        return models

    def _version_of(self, name: str, run_id: str) -> str | None:
        """Return the number of the version that a run's model is already, or None."""
        versions = self.client.search_model_versions(f"name='{name}'")
        for version in versions:
            if version.run_id == run_id:
                return str(version.version)
        return None

    def register(self, name: str, candidate: Candidate, judge: _Judge) -> Version:
        """Make a trial's model a version of registered model `name`: its champion or challenger.

        A model that is a version already is not registered again. Where nothing has changed since,
        the aliases stay as they are.

        Args:
            name: The registered model.
            candidate: The trial's model.
            judge: Gets the champion's model, or None where there is no champion. Returns whether
                the version becomes champion, and why.
        """
        number = self._version(name, candidate)
        champion = self._by_alias(name, self.CHAMPION)
        challenger = self._by_alias(name, self._CHALLENGER)
        if champion is None:
            return self._judged(name, number, judge)
        if str(champion.version) == number:
            self._end_challenge(name, number)
            return Version(name, number, self.CHAMPION, "it is the champion already")
        version = self.client.get_model_version(name, number)
        if self._PROMOTED_TAG not in version.tags:
            return self._judged(name, number, judge)
        alias = ""
        if challenger is not None and str(challenger.version) == number:
            alias = self._CHALLENGER
        why = f"version {champion.version} has become champion since"
        return Version(name, number, alias, why)

    def _judged(self, name: str, number: str, judge: _Judge) -> Version:
        """Compare the version with the champion, and set its alias."""
        champion = self._by_alias(name, self.CHAMPION)
        challenger = self._by_alias(name, self._CHALLENGER)
        if champion is None:
            promoted, why = judge(None)
        else:
            promoted, why = self._against(champion, judge)
        alias = ""
        if promoted:
            alias = self.CHAMPION
            self.client.set_registered_model_alias(name, alias, number)
            self._end_challenge(name, number)
        elif challenger is None or int(challenger.version) <= int(number):
            alias = self._CHALLENGER
            self.client.set_registered_model_alias(name, alias, number)
        self._tag_verdict(name, number, promoted, why)
        return Version(name, number, alias, why)

    def _tag_verdict(self, name: str, number: str, promoted: bool, why: str) -> None:
        if promoted:
            new = self._PROMOTED_TAG
            old = self._NOT_PROMOTED_TAG
        else:
            new = self._NOT_PROMOTED_TAG
            old = self._PROMOTED_TAG
        self.client.set_model_version_tag(name, number, new, why)
        version = self.client.get_model_version(name, number)
        if old in version.tags:
            self.client.delete_model_version_tag(name, number, old)

    def _against(self, champion: ModelVersion, judge: _Judge) -> tuple[bool, str]:
        number = champion.version
        try:
            model, _found = self.load(champion.name, str(number))
        # The version's own code may raise anything, or a file may be missing.
        except Exception as error:
            cause = f"{first_line(error):.200}"
            why = f"the champion, version {number}, cannot be loaded to compare with it: {cause}"
            return False, why
        promoted, why = judge(model)
        return promoted, f"{why}, version {number}"

    def _end_challenge(self, name: str, number: str) -> None:
        """Remove the challenger's alias where its version is not newer than the champion."""
        challenger = self._by_alias(name, self._CHALLENGER)
        if challenger is not None and int(challenger.version) <= int(number):
            self.client.delete_registered_model_alias(name, self._CHALLENGER)

    def give_alias(self, alias: str, name: str, candidate: Candidate, why: str) -> Version:
        """Make a trial's model a version, as `register` does, and give it `alias` in any case."""
        number = self._version(name, candidate)
        self.client.set_registered_model_alias(name, alias, number)
        self.client.set_model_version_tag(name, number, f"hpsearch.{alias}_because", why)
        return Version(name, number, alias, why)

    def _version(self, name: str, candidate: Candidate) -> str:
        """Return the number of the version of a run's model, which is made where there is none."""
        all_tags = dict(candidate.tags)
        number = self._version_of(name, candidate.run_id)
        if number is None:
            number, more = self._log(name, candidate)
            all_tags.update(more)
        for key, value in all_tags.items():
            self.client.set_model_version_tag(name, number, key, str(value))
        return number

    def _log(self, name: str, candidate: Candidate) -> tuple[str, Mapping[str, object]]:
        """Write a model to its run and make it a version; return its number and the tags of `save`.

        The run is named by its id, so that no run becomes active.
        """
        run_id = candidate.run_id
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            tags = candidate.save(path)
            self.client.log_artifacts(run_id, str(path), "model")
        # The registered model may exist. Any other failure shows in the next call.
        with contextlib.suppress(MlflowException):
            self.client.create_registered_model(name)
        version = self.client.create_model_version(name, f"runs:/{run_id}/model", run_id)
        return str(version.version), tags

    def _by_alias(self, name: str, alias: str) -> ModelVersion | None:
        try:
            return self.client.get_model_version_by_alias(name, alias)
        except MlflowException:
            return None

    def load(self, name: str, which: str) -> tuple[keras.Model, ModelVersion]:
        """Return the Keras model of a version, and the registry's record of the version.

        Args:
            name: The registered model.
            which: A version number or an alias.

        Raises:
            ModelError: There is no such model or version, or it is not a Keras model.
        """
        found = self._find(name, which)
        if found is None:
            raise ModelError(self._no_version(name, which))
        return _loaded(f"models:/{name}/{found.version}"), found

    def _find(self, name: str, which: str) -> ModelVersion | None:
        if not which.isdigit():
            return self._by_alias(name, which)
        try:
            return self.client.get_model_version(name, which)
        except MlflowException:
            return None

    def _no_version(self, name: str, which: str) -> str:
        models = {}
        for model in self.client.search_registered_models():
            models[model.name] = model
        if not models:
            return (
                f"There is no registered model {name}; none is registered yet: "
                "python -m hpsearch search makes one."
            )
        if name not in models:
            hint = did_you_mean(name, models)
            return f"There is no registered model {name}.{hint}"
        valid = list(models[name].aliases)
        for version in self.client.search_model_versions(f"name = '{name}'"):
            valid.append(str(version.version))
        hint = did_you_mean(which, valid)
        return f"There is no version {which} of {name}.{hint}"


def _loaded(uri: str) -> keras.Model:
    """Load a Keras model by the flavour with which it was logged."""
    flavors = mlflow.models.get_model_info(uri).flavors
    if "keras" in flavors:
        folder = mlflow.artifacts.download_artifacts(uri)
        import_own_code(Path(folder), flavors["keras"])
        return mlflow.keras.load_model(folder, load_model_kwargs={"compile": False})
    if "tensorflow" in flavors:
        model = mlflow.tensorflow.load_model(uri, keras_model_kwargs={"compile": False})
        if isinstance(model, keras.Model):
            return model
    names = ", ".join(sorted(flavors))
    raise ModelError(f"Expected {uri} to be a Keras model, received one of flavours {names}.")
