"""The job that examines a registered model: load it, ask it in every way, write down what came out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from hpsearch.evaluation.evaluated_model import Evaluation, Subject, evaluate
from hpsearch.html_report.page import html
from hpsearch.html_report.section import Section
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.models.moved_names import with_current_names
from hpsearch.study.storage import without_password
from hpsearch.study_report.version_page import describe
from hpsearch.tracking.registry import Registry
from hpsearch.tracking.runs import TrackedRun
from hpsearch.tracking.tracking import Tracking

MAX_METRICS = 1000  # MLflow's limit on a batch


class Part(Protocol):
    """One question to a model."""

    def examine(self, subject: Subject) -> Section | None:
        """Answer it; None where it does not apply."""


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation came to."""

    model: str
    run_id: str
    tracking_uri: str
    evaluation: Evaluation
    sections: Sequence[Section]

    def show(self, console: Console) -> None:
        """Print every section, and where the page is."""
        for section in self.sections:
            console.print(section.as_table() or section.title)
            console.print(f"{section.text}\n", soft_wrap=True, markup=False)
        console.print(
            f"Evaluated {self.model}; the page evaluation.html is an artifact of run "
            f"{self.run_id}.\n"
            f"Look at it:  mlflow ui --backend-store-uri {without_password(self.tracking_uri)}",
            soft_wrap=True,
            markup=False,
        )

    def facts(self) -> dict[str, Any]:
        """Return the same as plain data."""
        return {
            "model": self.model,
            "metrics": {
                key: value for section in self.sections for key, value in section.metrics.items()
            },
            "says": {section.title: section.text for section in self.sections},
            "run_id": self.run_id,
            "tracking_uri": without_password(self.tracking_uri),
        }


@dataclass(frozen=True)
class Evaluate:
    """Examine a version of a registered model, ours or a Keras model that somebody else has logged.

    Attributes:
        registered_model: Its name.
        version: A number or an alias.
        data: The data set; None takes the one on which the model was trained, from the record of
            its search.
        data_path: Where that one's files are now; None where they were.
        uncertainty: How MC Dropout is done.
        parts: Questions by name; None leaves one out.
        level: Chance of a wrong verdict, which conf hands on to the parts.
        seed: Of resampling and corruptions, likewise.
        tracking: The MLflow store.
    """

    registered_model: str
    version: str | int
    data: Data | None
    data_path: str | None
    uncertainty: McDropout
    parts: Mapping[str, Part | None]
    level: float
    seed: int
    tracking: Callable[[], Tracking]

    def run(
        self, config: Mapping[str, Any], rebuild: Callable[[Mapping[str, Any]], Data]
    ) -> Evaluated:
        """Examine the model.

        Args:
            config: The composed configuration as plain data, for the record.
            rebuild: Makes a data set of its recorded settings.

        Raises:
            UserError: The model, the version or its data cannot be had or does not fit; no run is
                made.
        """
        tracking = self.tracking()
        registry = Registry(tracking.client)
        model, found = registry.load(self.registered_model, str(self.version))
        data = self.data or rebuild(self._recorded_data(tracking, found))
        known = data.for_search()
        _check_fits(model, known)
        subject = Subject(
            model, self.uncertainty, known.val, data.test(), _members(registry, found)
        )
        evaluation = evaluate(subject)
        name = f"{found.name} version {found.version}"
        tags = {
            "hpsearch.model": found.name,
            "hpsearch.version": found.version,
            "hpsearch.data": known.name,
        }
        run = tracking.open_run(f"{found.name} v{found.version} evaluation", "evaluation", tags)
        try:
            with run.ending():
                sections = [evaluation.section(), *self._examined(subject)]
                facts = _facts(name, found, known, subject, tracking)
                _log(
                    run,
                    evaluation,
                    sections,
                    html(f"Evaluation of {name}", facts, sections),
                    config,
                )
                _tag_version(tracking, found, sections)
                describe(tracking.client, found.name, found.version, without_password(tracking.uri))
        finally:
            tracking.close(tracking.patience_s)
        return Evaluated(name, run.run_id, tracking.uri, evaluation, sections)

    def _examined(self, subject: Subject) -> list[Section]:
        found = [part.examine(subject) for part in self.parts.values() if part is not None]
        return [section for section in found if section is not None]

    def _recorded_data(self, tracking: Tracking, found: ModelVersion) -> dict[str, Any]:
        """Return the settings of the data set in the configuration of the search that made a
        version.
        """
        parent = found.tags.get("parent_run")
        try:
            text = tracking.client.download_artifacts(parent, "config.yaml") if parent else None
        except (MlflowException, OSError):
            text = None
        if text is None:
            raise ConfigError(
                f"Version {found.version} of {found.name} has no record of its data set: "
                "give the one it was trained on, data=NAME."
            )
        with open(text, encoding="utf-8") as file:
            settings: dict[str, Any] = with_current_names(yaml.safe_load(file)["data"])
        if self.data_path is not None:
            settings["path"] = self.data_path
            if "path" in settings["load"]:
                settings["load"]["path"] = self.data_path
        return settings


def _check_fits(model: keras.Model, data: SearchData) -> None:
    """Refuse a data set of another shape or number of classes than the model's."""
    shape, n_classes = tuple(model.input_shape[1:]), model.output_shape[-1]
    matches = len(shape) == 3 and all(
        m in (None, d) for m, d in zip(shape, data.image_shape, strict=True)
    )
    if not matches or n_classes != data.n_classes:
        raise ModelError(
            f"Expected a model of images {data.image_shape} and {data.n_classes} classes for "
            f"{data.name}, "
            f"received one of {shape} and {n_classes} classes: give the data set it was trained "
            f"on, data=NAME."
        )


def _members(registry: Registry, found: ModelVersion) -> list[keras.Model]:
    """Return the models that the version's study has kept, the best first."""
    return registry.kept_of_study(found.tags["parent_run"]) if "parent_run" in found.tags else []


def _facts(
    name: str, found: ModelVersion, data: SearchData, subject: Subject, tracking: Tracking
) -> list[tuple[str, str]]:
    settings = subject.settings
    facts = [
        ("model", name),
        (
            "data",
            f"{data.name}: {len(data.val):,} validation and {len(subject.test.labels):,} test "
            f"images",
        ),
        ("MC Dropout", f"{settings.n_samples} passes, mask={settings.mask}, seed {settings.seed}"),
    ]
    trained_on = (
        tracking.client.get_run(found.tags["parent_run"]).data.tags
        if "parent_run" in found.tags
        else {}
    )
    recorded = trained_on.get("hpsearch.fingerprint", data.fingerprint)
    if recorded != data.fingerprint:
        facts.append(
            (
                "careful",
                f"the model was trained on another split ({recorded}) than this "
                f"({data.fingerprint})",
            )
        )
    return facts


def _log(
    run: TrackedRun,
    evaluation: Evaluation,
    sections: Sequence[Section],
    page: str,
    config: Mapping[str, Any],
) -> None:
    now = int(time.time() * 1000)
    rows = [
        Metric(key, value, now, 0) for section in sections for key, value in section.metrics.items()
    ]
    rows += [
        Metric(key, value, now, step)
        for section in sections
        for key, curve in section.curves.items()
        for step, value in curve
    ]
    for start in range(0, len(rows), MAX_METRICS):
        run.client.log_batch(run.run_id, metrics=rows[start : start + MAX_METRICS])
    for figure in (figure for section in sections for figure in section.figures):
        run.file(f"figures/{figure.name}.png", figure.png)
    run.client.log_text(run.run_id, page, "evaluation.html")
    run.client.log_text(
        run.run_id, json.dumps(asdict(evaluation.certificate), indent=1), "certificate.json"
    )
    run.client.log_text(run.run_id, yaml.safe_dump(dict(config), sort_keys=False), "config.yaml")
    run.tag({MLFLOW_RUN_NOTE: "\n\n".join(f"**{s.title}.** {s.text}" for s in sections)})


def _tag_version(tracking: Tracking, found: ModelVersion, sections: Sequence[Section]) -> None:
    """Show on the version's page what was measured; a later evaluation replaces it."""
    for section in sections:
        for key, value in section.metrics.items():
            tracking.client.set_model_version_tag(found.name, found.version, key, f"{value:.6g}")
        if section.title == "Verdict":
            tracking.client.set_model_version_tag(
                found.name, found.version, "hpsearch.verdict", section.text
            )
