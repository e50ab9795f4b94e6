"""Writes the report of a study into MLflow.

The run of the study gets the page, the figures, counts and a description. The run of each trial
gets a description, and so does the version of the registered model that the study has made.
"""

from __future__ import annotations

from mlflow.entities import DatasetInput
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from hpsearch.html_report.page import html
from hpsearch.study.study import number_of
from hpsearch.study_report import version_page
from hpsearch.study_report.advice import Advice
from hpsearch.study_report.description import Descriptions
from hpsearch.study_report.searched import Searched, end_of
from hpsearch.study_report.sections import key_values, sections
from hpsearch.tracking.delivery import TRIAL
from hpsearch.tracking.registry import named
from hpsearch.tracking.runs import ParentRun
from hpsearch.tracking.tracking import Tracking


def record(
    searched: Searched,
    tracking: Tracking,
    parent: ParentRun,
) -> tuple[Advice, str]:
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
    outcome = searched.outcome
    counts = {
        "trials/finished": outcome.n_finished,
        "trials/pruned": outcome.n_pruned,
        "trials/diverged": outcome.n_diverged,
        "trials/infeasible": outcome.n_infeasible,
        "trials/failed": outcome.n_failed,
    }
    parent.metrics(counts)
    descriptions = _descriptions(searched, tracking, parent)
    tags: dict[str, object] = {"hpsearch.next_step": advice.next_step}
    if searched.best is not None:
        tags["hpsearch.best_trial"] = number_of(searched.best)
    tags[MLFLOW_RUN_NOTE] = descriptions.of_study(advice)
    parent.tag(tags)
    _describe_trials(tracking, descriptions)
    if descriptions.version is not None:
        number = str(descriptions.version.version)
        version_page.describe(
            tracking.client,
            searched.name,
            number,
            tracking.uri,
        )
    return advice, page


def _record_page(
    searched: Searched,
    advice: Advice,
    parent: ParentRun,
) -> str:
    """Log the page and each of its figures, and return the page."""
    found = sections(searched, advice)
    title = f"Understanding study {searched.name}"
    page = html(title, key_values(searched), found)
    parent.client.log_text(parent.run_id, page, Descriptions.PAGE)
    for section in found:
        for figure in section.figures:
            path = f"figures/{figure.name}.png"
            parent.file(path, figure.png)
    return page


def _descriptions(
    searched: Searched,
    tracking: Tracking,
    parent: ParentRun,
) -> Descriptions:
    runs = {}
    for run in tracking.children(parent):
        tags = run.data.tags
        if TRIAL in tags:
            number = int(tags[TRIAL])
            runs[number] = run.info.run_id
    own = []
    for version in tracking.client.search_model_versions(named(searched.name)):
        if version.tags.get("parent_run") == parent.run_id:
            own.append(version)
    latest = max(own, key=lambda version: int(version.version), default=None)
    experiment_id = tracking.experiment_of(parent)
    return Descriptions(
        searched,
        experiment_id,
        parent.run_id,
        runs,
        latest,
    )


def _describe_trials(tracking: Tracking, descriptions: Descriptions) -> None:
    """Write the description, data sets and place of each trial into its run."""
    client = tracking.client
    searched = descriptions.searched
    data_sets = _data_sets(tracking, descriptions.parent_run_id)
    for trial in searched.trials:
        run_id = descriptions.runs.get(number_of(trial))
        if run_id is None:  # another worker has not sent this run to MLflow yet
            continue
        if data_sets and not _data_sets(tracking, run_id):
            client.log_inputs(run_id, datasets=data_sets)
        note = descriptions.of_trial(trial)
        client.set_tag(run_id, MLFLOW_RUN_NOTE, note)
        if end_of(trial) == "finished":
            place = searched.place(trial)
            client.set_tag(run_id, "hpsearch.place", place)


def _data_sets(tracking: Tracking, run_id: str) -> list[DatasetInput]:
    inputs = tracking.client.get_run(run_id).inputs
    if not inputs:
        return []
    return list(inputs.dataset_inputs)
