"""The evaluation job: examine a version of a registered model on a data set.

The parts that the configuration names, such as calibration or behaviour under corruptions, each
examine the model. The results become an MLflow run with a page, and tags of the version.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import yaml
from mlflow.entities import Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from rich.console import Console

from hpsearch.alternatives.settings import methods_of
from hpsearch.command_form import in_form
from hpsearch.data.datasets import GIVEN_IN_PYTHON
from hpsearch.data.pixel_range import PixelRange
from hpsearch.data.split import Data, SearchData, fingerprint
from hpsearch.errors import ConfigError, ModelError
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.evaluation.examination import Examination, Part
from hpsearch.evaluation.verdict import Verdict
from hpsearch.jobs.alternatives import Makers
from hpsearch.jobs.composed import Plain
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.models.outputs import n_classes_of
from hpsearch.models.own_code import import_own_code
from hpsearch.models.own_error import described
from hpsearch.secrets_in_text import without_secrets
from hpsearch.study_report.version_page import describe
from hpsearch.tracking.registry import PIXEL_RANGE, Registry, returns_logits
from hpsearch.tracking.runs import TrackedRun, now_ms
from hpsearch.tracking.tracking import Tracking

_PAGE = "evaluation.html"


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
        uncertainty: The settings of MC Dropout, and what is compared with it.
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
    parts: Mapping[str, Part | None]
    level: float
    seed: int
    tracking: Callable[..., Tracking]

    def run(self, config: Plain, rebuild: Callable[[Plain], Any], console: Console) -> Evaluated:
        """Examine the model.

        Args:
            config: The composed configuration as plain data, which is recorded.
            rebuild: Returns the objects that recorded settings describe.
            console: Where it is said what takes long.

        Raises:
            UserError: The model, the version or its data are missing, or do not fit. No run is
                made.
        """
        tracking = self.tracking(must_exist=True)
        registry = Registry(tracking.client, import_own_code)
        model, found = registry.load(self.registered_model, str(self.version))
        data = self.data
        if data is None:
            recorded = self._recorded_data(tracking, found)
            data = rebuild(recorded)
        known = data.for_search()
        _check_fits(model, known)
        careful = _other_data(known, tracking, found.tags.get("parent_run"))
        settings = self._settings_for(found)

        def say(text: str) -> None:
            console.print(in_form(text), highlight=False, markup=False, soft_wrap=True)

        makers = Makers(tracking, registry, found, model, known, careful, rebuild, say)
        alternatives, not_made = makers.made(settings)
        evaluated = EvaluatedModel(
            model,
            settings,
            known.val,
            data.test(),
            pixel_range=_pixel_range(found, known),
            alternatives=alternatives,
            not_made=not_made,
        )
        evaluated = _with_search(evaluated, registry, found, known, careful)
        answers = Examination.of(evaluated, evaluated.evaluate(), self.parts.values())
        name = f"{found.name} version {found.version}"
        page = answers.page(name, _key_values(name, known, evaluated, careful))
        run_id = _recorded(tracking, found, known.name, answers, page, config)
        place = tracking.place(run_id, _PAGE)
        look = tracking.look(run_id)
        uri = without_secrets(tracking.uri)
        return Evaluated(name, run_id, uri, look, place, answers, careful)

    def _settings_for(self, found: ModelVersion) -> McDropout:
        """Return the settings of MC Dropout for a version, which may return logits."""
        if self.uncertainty.from_logits is not None:
            return self.uncertainty
        return replace(self.uncertainty, from_logits=returns_logits(found))

    def _recorded_data(self, tracking: Tracking, found: ModelVersion) -> Plain:
        """Return the settings of the data set on which a version was trained.

        They stand in the configuration that the search of the version has recorded.

        Raises:
            ConfigError: There is no such record.
        """
        parent = found.tags.get("parent_run")
        config = None
        if parent:
            config = tracking.recorded_config(parent)
        if config is None:
            raise ConfigError(
                f"Version {found.version} of {found.name} has no record of its data set: "
                "give the one it was trained on, data=NAME."
            )
        settings: Plain = config["data"]
        if self.data_path is None and settings["load"].get("path") == GIVEN_IN_PYTHON:
            raise ConfigError(
                f"Version {found.version} of {found.name} was trained on arrays that were "
                "given to hpsearch.search and are not stored: call it again and then evaluate() of "
                "its result, or write them with numpy.savez(FILE, x_train=x, y_train=y, ...) and "
                "give data_path=FILE."
            )
        if self.data_path is not None:
            settings["path"] = self.data_path
            if "path" in settings["load"]:
                settings["load"]["path"] = self.data_path
        return settings


@dataclass(frozen=True, repr=False)
class Evaluated:
    """The result of an evaluation.

    Attributes:
        model: The name of the model with its version.
        run_id: The MLflow run of the evaluation.
        uri: The MLflow store, without a password.
        look: The link or the command that shows the run.
        page: The path of the page evaluation.html, or the link that shows it on a server.
        answers: The sections of the page.
        careful: A warning where the model was searched on other data; empty where it was not.
    """

    model: str
    run_id: str
    uri: str
    look: str
    page: str
    answers: Examination
    careful: str

    def __repr__(self) -> str:
        """Return the model and the place of the page."""
        return f"Evaluated(model={self.model!r}, page={self.page!r})"

    def metrics(self) -> dict[str, float]:
        """Return the numbers of all sections by their MLflow keys, such as `test/mc/nll`."""
        return self.answers.metrics()

    @property
    def nll(self) -> float:
        """The NLL on test, in nats: of MC Dropout, or plain where there is none."""
        evaluation = self.answers.evaluation
        return evaluation.mc.get("nll", evaluation.plain["nll"])

    def show(self, console: Console) -> None:
        """Print every section and the place of the page."""
        for section in self.answers.sections:
            console.print(section.as_table() or section.title)
            console.print(f"{section.text}\n", soft_wrap=True, markup=False)
        if self.careful:
            console.print(f"Careful: {self.careful}.", soft_wrap=True, markup=False)
        console.print(
            f"Evaluated {self.model}.\nThe page is {self.page}\nLook at it:  {self.look}",
            soft_wrap=True,
            markup=False,
        )

    def summary(self) -> dict[str, object]:
        """Return the result as plain data."""
        return {
            "model": self.model,
            "metrics": self.metrics(),
            "says": {section.title: section.text for section in self.answers.sections},
            "page": self.page,
            "run_id": self.run_id,
            "tracking_uri": self.uri,
        }


def _recorded(  # noqa: PLR0917
    tracking: Tracking,
    found: ModelVersion,
    data: str,
    answers: Examination,
    page: str,
    config: Plain,
) -> str:
    """Record an evaluation as a run and with the version, and return the id of the run."""
    tags = {
        "hpsearch.model": found.name,
        "hpsearch.version": found.version,
        "hpsearch.data": data,
    }
    run = tracking.open_run(f"{found.name} v{found.version} evaluation", "evaluation", tags)
    try:
        with run.ending():
            _log(run, answers, page, config)
            _tag_version(tracking, found, answers)
            describe(tracking.client, found.name, found.version, tracking.uri)
    finally:
        tracking.close(tracking.patience_s)
    return run.run_id


def _with_search(
    evaluated: EvaluatedModel,
    registry: Registry,
    found: ModelVersion,
    known: SearchData,
    careful: str,
) -> EvaluatedModel:
    """Return a model with what its search has kept: other models, and the calibration part."""
    parent = found.tags.get("parent_run")
    if parent is None:
        return evaluated
    evaluated = replace(evaluated, members=registry.kept_of_study(parent))
    if careful:  # the model may have learnt these examples
        return evaluated
    return replace(evaluated, calibration=known.calibration)


def _check_fits(model: keras.Model, data: SearchData) -> None:
    """Raise an error for a data set of another shape or number of classes than the model's.

    Raises:
        ModelError: The data set does not fit the model.
    """
    fitting = (
        f"Expected a model of inputs {data.image_shape} and {data.n_classes} classes for "
        f"{data.name}"
    )
    cure = "give the data set it was trained on, data=NAME"
    inputs = getattr(model, "inputs", None)  # a subclassed model does not say them
    if inputs:
        shape = tuple(inputs[0].shape[1:])
        if not _takes(shape, data.image_shape):
            raise ModelError(f"{fitting}, received one of inputs {shape}: {cure}.")
    try:
        outputs = model(keras.ops.convert_to_tensor(data.val.inputs[:1]), training=False)
    except Exception as error:  # a person's model may raise anything
        raise ModelError(f"{fitting}, received {described(error)}: {cure}.") from error
    flat = keras.tree.flatten(outputs)
    if len(flat) != 1:
        raise ModelError(
            f"{fitting}, received one of {len(flat)} outputs: make a keras.Model of the input and "
            "the output to evaluate, and register it."
        )
    n_classes = n_classes_of(tuple(flat[0].shape))
    if n_classes != data.n_classes:
        raise ModelError(f"{fitting}, received one of {n_classes} classes: {cure}.")


def _pixel_range(found: ModelVersion, data: SearchData) -> PixelRange | None:
    """Return the values of black and white in the inputs of a version; None if unknown.

    They are recorded with the version. A version of an earlier hpsearch has no such record, and
    the data set tells them.

    Raises:
        ModelError: The data set has another range than the one on which the version was trained.
    """
    here = data.pixel_range
    recorded = found.tags.get(PIXEL_RANGE)
    if recorded is None:
        return here
    trained = PixelRange.read(recorded)
    if here is not None and not here.is_like(trained):
        raise ModelError(
            f"Expected inputs in which black and white are {recorded}, as version {found.version} "
            f"of {found.name} was trained on, received {data.name} with {here.written()}: scale "
            "its inputs alike, or correct data.range."
        )
    return trained


def _takes(shape: Sequence[int | None], image_shape: Sequence[int]) -> bool:
    """Return whether an input shape, in which None stands for any size, takes an image shape."""
    if len(shape) != len(image_shape):
        return False
    sizes = zip(shape, image_shape, strict=True)
    return all(size is None or size == given for size, given in sizes)


def _key_values(
    name: str,
    data: SearchData,
    evaluated: EvaluatedModel,
    careful: str,
) -> list[tuple[str, str]]:
    """Return the pairs at the head of the page, each with its name."""
    settings = evaluated.settings
    sizes = [f"{len(evaluated.val.targets):,} validation"]
    if evaluated.calibration is not None:
        sizes.append(f"{len(evaluated.calibration.targets):,} calibration")
    n_test = len(evaluated.test.targets)
    key_values = [
        ("model", name),
        ("data", f"{data.name}: {', '.join(sizes)} and {n_test:,} test examples"),
    ]
    if "mc_dropout" in methods_of(settings):
        key_values.append(("MC Dropout", _passes(settings)))
    if careful:
        key_values.append(("careful", careful))
    return key_values


def _passes(settings: McDropout) -> str:
    """Return in words how the passes are drawn."""
    masks = "masks of its own for each example"
    if settings.shared_masks:
        masks = "one mask a pass for all examples"
    return f"{settings.n_samples} passes, {masks}, seed {settings.seed}"


def _other_data(data: SearchData, tracking: Tracking, parent: str | None) -> str:
    """Return a warning where a model was searched on other data; empty where it was not.

    Args:
        data: The data of the evaluation.
        tracking: The MLflow store.
        parent: The run of the search; None where the model is of no search.
    """
    if parent is None:
        return ""
    here = data.fingerprint
    tags = tracking.client.get_run(parent).data.tags
    recorded = tags.get("hpsearch.fingerprint", here)
    # The search may have had no test part.
    if recorded in (here, fingerprint(*data.parts)):
        return ""
    return (
        f"train, val, calibration or test is another than in the search (fingerprint {here} in "
        f"place of {recorded}), so no calibration part is used"
    )


def _log(
    run: TrackedRun,
    answers: Examination,
    page: str,
    config: Plain,
) -> None:
    """Log all that an evaluation has found to its run."""
    rows = _metric_rows(answers)
    for start in range(0, len(rows), 1000):  # the largest batch that MLflow takes
        batch = rows[start : start + 1000]
        run.client.log_batch(run.run_id, metrics=batch)
    for section in answers.sections:
        for figure in section.figures:
            run.file(f"figures/{figure.name}.png", figure.png)
    texts = {
        _PAGE: page,
        "config.yaml": yaml.safe_dump(dict(config), sort_keys=False),
    }
    certificate = answers.evaluation.certificate
    if certificate is not None:
        texts["certificate.json"] = json.dumps(certificate.record(), indent=1)
    for name, text in texts.items():
        run.client.log_text(run.run_id, text, name)
    paragraphs = [f"**{section.title}.** {section.text}" for section in answers.sections]
    run.tag({MLFLOW_RUN_NOTE: "\n\n".join(paragraphs)})


def _metric_rows(answers: Examination) -> list[Metric]:
    """Return the metrics of all sections, then the points of their curves."""
    now = now_ms()
    rows = []
    for key, value in answers.metrics().items():
        rows.append(Metric(key, value, now, 0))
    for section in answers.sections:
        for key, curve in section.curves.items():
            for step, value in curve:
                rows.append(Metric(key, value, now, step))
    return rows


def _tag_version(
    tracking: Tracking,
    found: ModelVersion,
    answers: Examination,
) -> None:
    """Write metrics and verdict as tags of the version; a later evaluation replaces them."""
    metrics = answers.metrics()
    tags = {key: f"{value:.6g}" for key, value in metrics.items()}
    for section in answers.sections:
        if section.title.startswith(Verdict.TITLE):
            sentence, _, _ = section.text.partition("\n\n")
            tags["hpsearch.verdict"] = sentence
    client = tracking.client
    for key, text in tags.items():
        client.set_model_version_tag(found.name, found.version, key, text)
