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

from hpsearch import command_form
from hpsearch.errors import ModelError, did_you_mean, first_line
from hpsearch.models.moments import Moments
from hpsearch.study.trial_end import TrialEnd
from hpsearch.tracking.absent import unless_absent
from hpsearch.tracking.runs import END, TrackedRun

# The tag of a version whose model returns logits, which need a softmax: `true` or `false`.
FROM_LOGITS = "hpsearch.from_logits"
PIXEL_RANGE = "hpsearch.pixel_range"


def returns_logits(version: ModelVersion) -> bool | None:
    """Return whether the model of a version returns logits, as its tag says.

    None is the answer for a version of an earlier hpsearch, which has no such tag.
    """
    said = version.tags.get(FROM_LOGITS)
    if said is None:
        return None
    return bool(said == "true")


def named(name: str) -> str:
    """Return the filter by which MLflow finds the versions of a registered model."""
    quote = "'"
    if quote in name:
        quote = '"'
    return f"name = {quote}{name}{quote}"


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
    """Keeps and registers models in an MLflow store.

    Args:
        client: A client of the store.
        import_own_code: Imports the modules that a version needs before Keras loads it, given the
            folder of the version and the entry `keras` of the file MLmodel there.
    """

    CHAMPION = "champion"
    _CHALLENGER = "challenger"
    _PROMOTED_TAG = "hpsearch.champion_because"
    _NOT_PROMOTED_TAG = "hpsearch.not_champion_because"
    # A run's artifacts of a model that is kept.
    _FOLDER = "checkpoint"
    _MODEL = "checkpoint/model.keras"
    _OUTPUTS = "checkpoint/outputs.npy"
    _MOMENTS = f"checkpoint/{Moments.FILE}"

    def __init__(
        self,
        client: MlflowClient,
        import_own_code: Callable[[Path, Mapping[str, object]], None],
    ) -> None:
        self.client = client
        self._import_own_code = import_own_code

    def keep(
        self,
        model: keras.Model,
        run: TrackedRun,
        images: NDArray[np.generic] | None = None,
        moments: Moments | None = None,
    ) -> None:
        """Write a trial's model to its run as an artifact, without the state of the optimizer.

        Args:
            model: The trained model.
            run: The trial's run.
            images: A few images of shape (N, height, width, channels). The outputs of the model for
                them are kept too; None keeps no outputs.
            moments: The moments of its weights; None keeps none.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.keras"
            model.save(path, include_optimizer=False)
            run.move(path, self._FOLDER)
            if moments is not None:
                path = Path(folder) / Moments.FILE
                moments.write(path)
                run.move(path, self._FOLDER)
            if images is None:
                return
            path = Path(folder) / "outputs.npy"
            # Some models can be called by compiled programs only; they have no kept outputs.
            with contextlib.suppress(Exception):
                inputs = ops.convert_to_tensor(images)
                outputs = model(inputs, training=False)
                array = ops.convert_to_numpy(outputs)
                floats = np.asarray(array, np.float32)
                np.save(path, floats)
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
        if not self._has_kept(run_id, self._OUTPUTS):
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = self.client.download_artifacts(run_id, self._OUTPUTS, folder)
            outputs: NDArray[np.float32] = np.load(path)
        return outputs

    def kept_moments(self, run_id: str) -> Moments | None:
        """Return the moments that `keep` has written to a run, or None where there are none."""
        if not self._has_kept(run_id, self._MOMENTS):
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = self.client.download_artifacts(run_id, self._MOMENTS, folder)
            return Moments.read(Path(path))

    def _has_kept(self, run_id: str, path: str) -> bool:
        files = self.client.list_artifacts(run_id, self._FOLDER)
        return any(file.path == path for file in files)

    def moments(self, found: ModelVersion) -> Moments | None:
        """Return the moments of the weights of a version, or None where it has none.

        Only their file is downloaded.

        Raises:
            ModelError: The file is damaged.
        """
        uri = f"models:/{found.name}/{found.version}"
        files = mlflow.artifacts.list_artifacts(artifact_uri=uri)
        if not any(Path(file.path).name == Moments.FILE for file in files):
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = mlflow.artifacts.download_artifacts(f"{uri}/{Moments.FILE}", dst_path=folder)
            return Moments.read(Path(path))

    def kept_of_study(self, parent_run_id: str) -> list[keras.Model]:
        """Return the models that were kept for a study's finished trials, lowest val NLL first."""
        experiment = self.client.get_run(parent_run_id).info.experiment_id
        query = (
            f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_run_id}' and attributes.status = 'FINISHED'"
        )
        order = ["metrics.`best/val/loss` ASC"]
        finished = TrialEnd.FINISHED.word
        models = []
        runs = self.client.search_runs([experiment], query, order_by=order)
        for run in runs:
            # MLflow's status is the same for a pruned trial; earlier versions wrote no tag.
            end = run.data.tags.get(END, finished)
            run_id = run.info.run_id
            if end == finished and self.client.list_artifacts(run_id, self._FOLDER):
                models.append(self.kept(run_id))
        return models

    def register(
        self,
        name: str,
        candidate: Candidate,
        judge: Callable[[keras.Model | None, bool | None], tuple[bool, str]],
    ) -> Version:
        """Make a trial's model a version of registered model `name`: its champion or challenger.

        A model that is a version already is not registered again. Where nothing has changed since,
        the aliases stay as they are.

        Args:
            name: The registered model.
            candidate: The trial's model.
            judge: Gets the champion's model, or None where there is no champion, and whether that
                model returns logits, or None where nobody knows. Returns whether the version
                becomes champion, and why.
        """
        number = self._version(name, candidate)
        champion = self._by_alias(name, self.CHAMPION)
        if champion is None:
            promoted, why = judge(None, None)
            return self._give(name, number, promoted, why)
        if champion == number:
            self._end_challenge(name, number)
            return Version(name, number, self.CHAMPION, "it is the champion already")
        version = self.client.get_model_version(name, number)
        if self._PROMOTED_TAG in version.tags:
            alias = ""
            if self._by_alias(name, self._CHALLENGER) == number:
                alias = self._CHALLENGER
            why = f"version {champion} has become champion since"
            return Version(name, number, alias, why)
        try:
            model, found = self.load(name, champion)
        # The version's own code may raise anything, or a file may be missing.
        except Exception as error:
            cause = f"{first_line(error):.200}"
            why = f"the champion, version {champion}, cannot be loaded to compare with it: {cause}"
            return self._give(name, number, False, why)
        promoted, why = judge(model, returns_logits(found))
        return self._give(name, number, promoted, f"{why}, version {champion}")

    def _give(
        self,
        name: str,
        number: str,
        promoted: bool,
        why: str,
    ) -> Version:
        """Give a version the alias that it has earned, and tag it with the reason."""
        alias = ""
        new = self._NOT_PROMOTED_TAG
        old = self._PROMOTED_TAG
        challenger = self._by_alias(name, self._CHALLENGER)
        if promoted:
            alias = self.CHAMPION
            new, old = old, new
        elif challenger is None or int(challenger) <= int(number):
            alias = self._CHALLENGER
        if alias:
            self.client.set_registered_model_alias(name, alias, number)
        if promoted:
            self._end_challenge(name, number)
        self.client.set_model_version_tag(name, number, new, why)
        version = self.client.get_model_version(name, number)
        if old in version.tags:
            self.client.delete_model_version_tag(name, number, old)
        return Version(name, number, alias, why)

    def _end_challenge(self, name: str, number: str) -> None:
        """Remove the challenger's alias where its version is not newer than the champion."""
        challenger = self._by_alias(name, self._CHALLENGER)
        if challenger is not None and int(challenger) <= int(number):
            self.client.delete_registered_model_alias(name, self._CHALLENGER)

    def give_alias(
        self,
        alias: str,
        name: str,
        candidate: Candidate,
        why: str,
    ) -> Version:
        """Make a trial's model a version, as `register` does, and give it `alias` in any case."""
        number = self._version(name, candidate)
        self.client.set_registered_model_alias(name, alias, number)
        tag = f"hpsearch.{alias}_because"
        self.client.set_model_version_tag(name, number, tag, why)
        return Version(name, number, alias, why)

    def _version(self, name: str, candidate: Candidate) -> str:
        """Return the number of the version of a run's model, which is made where there is none."""
        tags = dict(candidate.tags)
        versions = self.client.search_model_versions(named(name))
        run_id = candidate.run_id
        made = [version for version in versions if version.run_id == run_id]
        if made:
            number = str(made[0].version)
        else:
            number, more = self._log(name, candidate)
            tags.update(more)
        for key, value in tags.items():
            self.client.set_model_version_tag(name, number, key, str(value))
        return number

    def _log(
        self,
        name: str,
        candidate: Candidate,
    ) -> tuple[str, Mapping[str, object]]:
        """Write a model to its run and make it a version; return its number and the tags of `save`.

        The run is named by its id, so that no run becomes active.
        """
        run_id = candidate.run_id
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            tags = candidate.save(path)
            self.client.log_artifacts(run_id, str(path), "model")
        if unless_absent(lambda: self.client.get_registered_model(name)) is None:
            self._create(name)
        source = f"runs:/{run_id}/model"
        version = self.client.create_model_version(name, source, run_id)
        return str(version.version), tags

    def _create(self, name: str) -> None:
        """Make a registered model, unless another worker has made it meanwhile."""
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _by_alias(self, name: str, alias: str) -> str | None:
        """Return the number of the version that has an alias, or None."""
        found = self._find(name, alias)
        if found is None:
            return None
        return str(found.version)

    def load(
        self,
        name: str,
        which: str,
    ) -> tuple[keras.Model, ModelVersion]:
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
        return self._loaded(f"models:/{name}/{found.version}"), found

    def _find(self, name: str, which: str) -> ModelVersion | None:
        if not which.isdigit():
            return unless_absent(lambda: self.client.get_model_version_by_alias(name, which))
        longest = 9  # digits of a number that every database holds
        if len(which) > longest:
            return None
        return unless_absent(lambda: self.client.get_model_version(name, which))

    def _no_version(self, name: str, which: str) -> str:
        found = self.client.search_registered_models()
        models = {model.name: model for model in found}
        if not models:
            return (
                f"There is no registered model {name}; none is registered yet: "
                f"{command_form.command('search')} makes one."
            )
        if name not in models:
            hint = did_you_mean(name, models)
            return f"There is no registered model {name}.{hint}"
        valid = list(models[name].aliases)
        for version in self.client.search_model_versions(named(name)):
            valid.append(str(version.version))
        hint = did_you_mean(which, valid)
        return f"There is no version {which} of {name}.{hint}"

    def _loaded(self, uri: str) -> keras.Model:
        """Load a Keras model by the flavour with which it was logged."""
        options = {"compile": False}
        flavors = mlflow.models.get_model_info(uri).flavors
        if "keras" in flavors:
            folder = mlflow.artifacts.download_artifacts(uri)
            self._import_own_code(Path(folder), flavors["keras"])
            return mlflow.keras.load_model(folder, load_model_kwargs=options)
        if "tensorflow" in flavors:
            model = mlflow.tensorflow.load_model(uri, keras_model_kwargs=options)
            if isinstance(model, keras.Model):
                return model
        names = ", ".join(sorted(flavors))
        raise ModelError(f"Expected {uri} to be a Keras model, received one of flavours {names}.")
