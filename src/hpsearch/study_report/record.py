"""Writes the report of a study into MLflow.

The run of the study gets the page, the figures, counts and a description. The run of each trial
gets a description, and so does the version of the registered model that the study has made.
"""

from __future__ import annotations

from mlflow.entities import DatasetInput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from hpsearch.html_report.page import html
from hpsearch.study.storage import without_password
from hpsearch.study.study import number_of
from hpsearch.study_report import description, version_page
from hpsearch.study_report.advice import Advice
from hpsearch.study_report.searched import Searched, end_of
from hpsearch.study_report.sections import key_values, sections
from hpsearch.tracking.delivery import TRIAL
from hpsearch.tracking.runs import ParentRun
from hpsearch.tracking.tracking import Tracking


def record(searched: Searched, tracking: Tracking, parent: ParentRun) -> tuple[Advice, str]:
    """Write the report of a study into MLflow.

    Args:
        searched: The study.
        tracking: The MLflow store.
        parent: The run of the study.

    Returns:
        The advice on what to do next, and the page as HTML.
    """
    advice = Advice.of(searched)
    page = _record_page(searched, advice, parent)
    _record_counts(searched, parent)
    places = _places(searched, tracking, parent)
    tags: dict[str, object] = {"hpsearch.next_step": advice.next_step}
    if searched.best is not None:
        tags["hpsearch.best_trial"] = number_of(searched.best)
    tags[MLFLOW_RUN_NOTE] = description.of_study(searched, advice, places)
    parent.tag(tags)
    _describe_trials(searched, tracking, places)
    if places.version is not None:
        uri = without_password(tracking.uri)
        version_page.describe(tracking.client, searched.name, places.version, uri)
    return advice, page


def _record_page(searched: Searched, advice: Advice, parent: ParentRun) -> str:
    """Log the page and each of its figures, and return the page."""
    found = sections(searched, advice)
    page = html(f"Understanding study {searched.name}", key_values(searched), found)
    parent.client.log_text(parent.run_id, page, description.PAGE)
    for section in found:
        for figure in section.figures:
            parent.file(f"figures/{figure.name}.png", figure.png)
    return page


def _record_counts(searched: Searched, parent: ParentRun) -> None:
    outcome = searched.outcome
    counts = {
        "trials/finished": outcome.n_finished,
        "trials/pruned": outcome.n_pruned,
        "trials/diverged": outcome.n_diverged,
        "trials/infeasible": outcome.n_infeasible,
        "trials/failed": outcome.n_failed,
    }
    parent.metrics(counts)


def _places(searched: Searched, tracking: Tracking, parent: ParentRun) -> description.Places:
    runs = {}
    for run in tracking.children(parent):
        if TRIAL in run.data.tags:
            number = int(run.data.tags[TRIAL])
            runs[number] = run.info.run_id
    experiment_id = tracking.experiment_of(parent)
    latest = _latest_version(searched.name, tracking, parent.run_id)
    if latest is None:
        return description.Places(experiment_id, parent.run_id, runs, None, {})
    version = str(latest.version)
    return description.Places(experiment_id, parent.run_id, runs, version, dict(latest.tags))


def _latest_version(name: str, tracking: Tracking, parent_run_id: str) -> ModelVersion | None:
    """Return the latest version of a registered model that a study has made, or None."""
    try:
        versions = tracking.client.search_model_versions(f"name='{name}'")
    except MlflowException:
        return None
    own = [version for version in versions if version.tags.get("parent_run") == parent_run_id]
    return max(own, key=lambda version: int(version.version), default=None)


def _describe_trials(searched: Searched, tracking: Tracking, places: description.Places) -> None:
    """Write the description, data sets and place of each trial into its run."""
    data_sets = _data_sets(tracking, places.parent_run_id)
    for trial in searched.trials:
        run_id = places.runs.get(number_of(trial))
        if run_id is None:  # another worker has not sent this run to MLflow yet
            continue
        if data_sets and not _data_sets(tracking, run_id):
            tracking.client.log_inputs(run_id, datasets=data_sets)
        note = description.of_trial(searched, trial, places)
        tracking.client.set_tag(run_id, MLFLOW_RUN_NOTE, note)
        if end_of(trial) == "finished":
            place = searched.place(trial)
            tracking.client.set_tag(run_id, "hpsearch.place", place)


def _data_sets(tracking: Tracking, run_id: str) -> list[DatasetInput]:
    inputs = tracking.client.get_run(run_id).inputs
    if not inputs:
        return []
    return list(inputs.dataset_inputs)
