"""Writes what a study came to into MLflow: page, figures and descriptions of its runs and of its
model.
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
from hpsearch.study_report.advice import Advice, advise
from hpsearch.study_report.searched import Searched, end_of
from hpsearch.study_report.sections import facts, sections
from hpsearch.tracking.delivery import TRIAL
from hpsearch.tracking.runs import ParentRun
from hpsearch.tracking.tracking import Tracking


def record(searched: Searched, tracking: Tracking, parent: ParentRun) -> tuple[Advice, str]:
    """Write all of it, and return the advice and the page."""
    outcome, advice = searched.outcome, advise(searched)
    found = sections(searched, advice)
    page = html(f"Understanding study {searched.name}", facts(searched), found)
    parent.client.log_text(parent.run_id, page, description.PAGE)
    for figure in (figure for section in found for figure in section.figures):
        parent.file(f"figures/{figure.name}.png", figure.png)
    counts = {"trials/finished": outcome.n_finished, "trials/pruned": outcome.n_pruned}
    counts |= {"trials/diverged": outcome.n_diverged, "trials/infeasible": outcome.n_infeasible}
    parent.metrics({**counts, "trials/failed": outcome.n_failed})
    tags: dict[str, object] = {"hpsearch.next_step": advice.next_step}
    if searched.best is not None:
        tags["hpsearch.best_trial"] = number_of(searched.best)
    places = _places(searched, tracking, parent)
    parent.tag({**tags, MLFLOW_RUN_NOTE: description.of_study(searched, advice, places)})
    _describe_trials(searched, tracking, places)
    if places.version is not None:
        version_page.describe(
            tracking.client, searched.name, places.version, without_password(tracking.uri)
        )
    return advice, page


def _places(searched: Searched, tracking: Tracking, parent: ParentRun) -> description.Places:
    runs = {
        int(run.data.tags[TRIAL]): run.info.run_id
        for run in tracking.children(parent)
        if TRIAL in run.data.tags
    }
    versions = [
        v for v in _versions(searched.name, tracking) if v.tags.get("parent_run") == parent.run_id
    ]
    latest = max(versions, key=lambda v: int(v.version), default=None)
    number, tags = (str(latest.version), dict(latest.tags)) if latest is not None else (None, {})
    return description.Places(tracking.experiment_of(parent), parent.run_id, runs, number, tags)


def _versions(name: str, tracking: Tracking) -> list[ModelVersion]:
    try:
        return list(tracking.client.search_model_versions(f"name='{name}'"))
    except MlflowException:
        return []


def _data_sets(tracking: Tracking, run_id: str) -> list[DatasetInput]:
    inputs = tracking.client.get_run(run_id).inputs
    return list(inputs.dataset_inputs) if inputs else []


def _describe_trials(searched: Searched, tracking: Tracking, places: description.Places) -> None:
    inputs = _data_sets(tracking, places.parent_run_id)
    for trial in searched.trials:
        run_id = places.runs.get(number_of(trial))
        if run_id is None:  # another worker's spool has yet to be sent
            continue
        if inputs and not _data_sets(tracking, run_id):
            tracking.client.log_inputs(run_id, datasets=inputs)
        tracking.client.set_tag(
            run_id, MLFLOW_RUN_NOTE, description.of_trial(searched, trial, places)
        )
        if end_of(trial) == "finished":
            tracking.client.set_tag(run_id, "hpsearch.place", description.place_of(searched, trial))
