"""The evaluation job: examine a version of a registered model on a data set.

The parts that the configuration names, such as calibration or behaviour under corruptions, each
examine the model. The results become an MLflow run with a page, and tags of the version.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import keras
import yaml
from mlflow.entities import Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from rich.console import Console

from hpsearch.data.split import Data, SearchData
from hpsearch.errors import ConfigError, ModelError
from hpsearch.evaluation.evaluated_model import EvaluatedModel, Evaluation, evaluate
from hpsearch.html_report.page import html
from hpsearch.html_report.section import Section
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.models.moved_names import with_current_names
from hpsearch.study.storage import without_password
from hpsearch.study_report.version_page import describe
from hpsearch.tracking.registry import Registry
from hpsearch.tracking.runs import TrackedRun
from hpsearch.tracking.tracking import Tracking


class _Part(Protocol):
    """A part of an evaluation, which asks one question of the model."""

    def examine(self, evaluated: EvaluatedModel) -> Section | None:
        """Return the answer; None where the question does not apply."""


@dataclass(frozen=True)
class Evaluate:
    """Examine a version of a registered model of this project, or any Keras model in MLflow.

    Attributes:
        registered_model: The name of the model.
        version: A number or an alias.
        data: The data set; None takes the one on which the model was trained, from the record of
            its search.
        data_path: The folder or file that holds the data set of the record now; None takes the
            path in the record.
        uncertainty: The settings of MC Dropout.
        parts: The parts by name; None leaves one out.
        level: The probability of a wrong verdict, which conf passes to the parts.
        seed: The seed of resampling and corruptions, which conf passes to the parts.
        tracking: Returns the MLflow store.
    """

    registered_model: str
    version: str | int
    data: Data | None
    data_path: str | None
    uncertainty: McDropout
    parts: Mapping[str, _Part | None]
    level: float
    seed: int
    tracking: Callable[[], Tracking]

    def run(
        self, config: Mapping[str, object], rebuild: Callable[[Mapping[str, object]], Data]
    ) -> _Evaluated:
        """Examine the model.

        Args:
            config: The composed configuration as plain data, which is recorded.
            rebuild: Returns a data set for its recorded settings.

        Raises:
            UserError: The model, the version or its data are missing, or do not fit. No run is
                made.
        """
        tracking = self.tracking()
        registry = Registry(tracking.client)
        model, found = registry.load(self.registered_model, str(self.version))
        data = self.data
        if data is None:
            data = rebuild(self._recorded_data(tracking, found))
        known = data.for_search()
        _check_fits(model, known)
        members = _members(registry, found)
        evaluated = EvaluatedModel(model, self.uncertainty, known.val, data.test(), members)
        evaluation = evaluate(evaluated)
        name = f"{found.name} version {found.version}"
        tags = {
            "hpsearch.model": found.name,
            "hpsearch.version": found.version,
            "hpsearch.data": known.name,
        }
        run = tracking.open_run(f"{found.name} v{found.version} evaluation", "evaluation", tags)
        try:
            with run.ending():
                sections = [evaluation.section(), *self._examined(evaluated)]
                key_values = _key_values(name, found, known, evaluated, tracking)
                page = html(f"Evaluation of {name}", key_values, sections)
                _log(run, evaluation, sections, page, config)
                _tag_version(tracking, found, sections)
                describe(tracking.client, found.name, found.version, without_password(tracking.uri))
        finally:
            tracking.close(tracking.patience_s)
        return _Evaluated(name, run.run_id, tracking.uri, evaluation, sections)

    def _examined(self, evaluated: EvaluatedModel) -> list[Section]:
        """Return the section of each part that applies."""
        sections = []
        for part in self.parts.values():
            if part is None:
                continue
            section = part.examine(evaluated)
            if section is not None:
                sections.append(section)
        return sections

    def _recorded_data(self, tracking: Tracking, found: ModelVersion) -> Mapping[str, object]:
        """Return the settings of the data set on which a version was trained.

        They stand in the configuration that the search of the version has recorded.

        Raises:
            ConfigError: There is no such record.
        """
        path = None
        parent = found.tags.get("parent_run")
        if parent:
            with suppress(MlflowException, OSError):
                path = tracking.client.download_artifacts(parent, "config.yaml")
        if path is None:
            raise ConfigError(
                f"Version {found.version} of {found.name} has no record of its data set: "
                "give the one it was trained on, data=NAME."
            )
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        settings: dict[str, Any] = with_current_names(config["data"])
        if self.data_path is not None:
            settings["path"] = self.data_path
            if "path" in settings["load"]:
                settings["load"]["path"] = self.data_path
        return settings


@dataclass(frozen=True)
class _Evaluated:
    """The result of an evaluation.

    Attributes:
        model: The name of the model with its version.
        run_id: The MLflow run of the evaluation.
        tracking_uri: The MLflow store.
        evaluation: The predictions without MC Dropout against those with it.
        sections: The sections of the page.
    """

    model: str
    run_id: str
    tracking_uri: str
    evaluation: Evaluation
    sections: Sequence[Section]

    def show(self, console: Console) -> None:
        """Print every section and the place of the page."""
        for section in self.sections:
            console.print(section.as_table() or section.title)
            console.print(f"{section.text}\n", soft_wrap=True, markup=False)
        uri = without_password(self.tracking_uri)
        console.print(
            f"Evaluated {self.model}; the page evaluation.html is an artifact of run "
            f"{self.run_id}.\n"
            f"Look at it:  mlflow ui --backend-store-uri {uri}",
            soft_wrap=True,
            markup=False,
        )

    def summary(self) -> dict[str, object]:
        """Return the result as plain data."""
        metrics: dict[str, float] = {}
        for section in self.sections:
            metrics.update(section.metrics)
        return {
            "model": self.model,
            "metrics": metrics,
            "says": {section.title: section.text for section in self.sections},
            "run_id": self.run_id,
            "tracking_uri": without_password(self.tracking_uri),
        }


def _check_fits(model: keras.Model, data: SearchData) -> None:
    """Raise an error for a data set of another shape or number of classes than the model's.

    Raises:
        ModelError: The data set does not fit the model.
    """
    shape = tuple(model.input_shape[1:])
    n_classes = model.output_shape[-1]
    if not _takes(shape, data.image_shape) or n_classes != data.n_classes:
        raise ModelError(
            f"Expected a model of images {data.image_shape} and {data.n_classes} classes for "
            f"{data.name}, received one of {shape} and {n_classes} classes: give the data set it "
            "was trained on, data=NAME."
        )


def _takes(shape: Sequence[int | None], image_shape: Sequence[int]) -> bool:
    """Return whether an input shape, in which None stands for any size, takes an image shape."""
    if len(shape) != len(image_shape):
        return False
    for size, given in zip(shape, image_shape, strict=True):
        if size is not None and size != given:
            return False
    return True


def _members(registry: Registry, found: ModelVersion) -> list[keras.Model]:
    """Return the models that the version's study has kept, the best first."""
    if "parent_run" not in found.tags:
        return []
    return registry.kept_of_study(found.tags["parent_run"])


def _key_values(
    name: str, found: ModelVersion, data: SearchData, evaluated: EvaluatedModel, tracking: Tracking
) -> list[tuple[str, str]]:
    """Return the pairs at the head of the page, each with its name."""
    settings = evaluated.settings
    n_val = len(data.val)
    n_test = len(evaluated.test.targets)
    key_values = [
        ("model", name),
        ("data", f"{data.name}: {n_val:,} validation and {n_test:,} test images"),
        ("MC Dropout", f"{settings.n_samples} passes, mask={settings.mask}, seed {settings.seed}"),
    ]
    trained_on = {}
    if "parent_run" in found.tags:
        run = tracking.client.get_run(found.tags["parent_run"])
        trained_on = run.data.tags
    recorded = trained_on.get("hpsearch.fingerprint", data.fingerprint)
    if recorded != data.fingerprint:
        warning = (
            f"the model was trained on another split ({recorded}) than this ({data.fingerprint})"
        )
        key_values.append(("careful", warning))
    return key_values


def _log(
    run: TrackedRun,
    evaluation: Evaluation,
    sections: Sequence[Section],
    page: str,
    config: Mapping[str, object],
) -> None:
    """Log all that an evaluation has found to its run."""
    rows = _metric_rows(sections)
    for start in range(0, len(rows), 1000):  # the largest batch that MLflow takes
        run.client.log_batch(run.run_id, metrics=rows[start : start + 1000])
    for section in sections:
        for figure in section.figures:
            run.file(f"figures/{figure.name}.png", figure.png)
    certificate = json.dumps(asdict(evaluation.certificate), indent=1)
    composed = yaml.safe_dump(dict(config), sort_keys=False)
    run.client.log_text(run.run_id, page, "evaluation.html")
    run.client.log_text(run.run_id, certificate, "certificate.json")
    run.client.log_text(run.run_id, composed, "config.yaml")
    paragraphs = [f"**{section.title}.** {section.text}" for section in sections]
    run.tag({MLFLOW_RUN_NOTE: "\n\n".join(paragraphs)})


def _metric_rows(sections: Sequence[Section]) -> list[Metric]:
    """Return the metrics of all sections, then the points of their curves."""
    now = int(time.time() * 1000)
    rows = []
    for section in sections:
        for key, value in section.metrics.items():
            rows.append(Metric(key, value, now, 0))
    for section in sections:
        for key, curve in section.curves.items():
            for step, value in curve:
                rows.append(Metric(key, value, now, step))
    return rows


def _tag_version(tracking: Tracking, found: ModelVersion, sections: Sequence[Section]) -> None:
    """Write metrics and verdict as tags of the version; a later evaluation replaces them."""
    tag = tracking.client.set_model_version_tag
    for section in sections:
        for key, value in section.metrics.items():
            tag(found.name, found.version, key, f"{value:.6g}")
        if section.title == "Verdict":
            tag(found.name, found.version, "hpsearch.verdict", section.text)
