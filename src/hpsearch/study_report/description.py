"""The descriptions of a study's run and of its trials' runs in MLflow, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from hpsearch.study.replay import standing
from hpsearch.study.study import number_of, value_of
from hpsearch.study_report.advice import Advice
from hpsearch.study_report.commands import Commands
from hpsearch.study_report.searched import Searched, end_of
from hpsearch.study_report.sections import key_values
from hpsearch.study_report.version_page import link, quality

PAGE = "report.html"


@dataclass(frozen=True)
class Places:
    """Where the records of a study are in MLflow.

    Attributes:
        experiment_id: The experiment of the study.
        parent_run_id: The run of the study.
        runs: The run of each trial, by `number_of`.
        version: The version of the registered model that the study has made, or None.
        measured: The tags of that version, which hold its quality.
    """

    experiment_id: str
    parent_run_id: str
    runs: Mapping[int, str]
    version: str | None
    measured: Mapping[str, str]

    def run(self, text: str, run_id: str | None) -> str:
        """Return a link to a run, or the text alone if there is no run."""
        if not run_id:
            return text
        return link(text, "experiments", self.experiment_id, "runs", run_id)

    def trial(self, text: str, trial: FrozenTrial) -> str:
        """Return a link to the run of a trial, or the text alone if it has no run."""
        run_id = self.runs.get(number_of(trial))
        return self.run(text, run_id)


def of_study(searched: Searched, advice: Advice, places: Places) -> str:
    """Return the description of the study's run."""
    lines = []
    best = searched.best
    if best is not None:  # first, since MLflow folds all but some four lines
        title = places.trial(searched.title(best), best)
        lines = [f"**Best trial:** {title}, {searched.monitor} {value_of(best):.4f}.", ""]
    lines += [f"**Next:** {advice.next_step}", ""]
    for name, value in key_values(searched):
        if name != "best":
            lines.append(f"- **{name}:** {value}")
    on_test = quality(places.measured)
    if on_test:
        lines += ["", "On test, the best trial's model:", "", on_test]
    lines += ["", "### Look at", "", *_looks(searched, advice, places)]
    lines += ["", "### Go on", "", advice.outlook.text, "", *_commands(searched, advice)]
    return "\n".join(lines)


def _looks(searched: Searched, advice: Advice, places: Places) -> list[str]:
    """Return a numbered list of what is worth looking at in MLflow."""
    page = f"`{PAGE}` under Artifacts: what the search shows, and why"
    cut = ", ".join(f"{edge.dimension.name} at its {edge.bound} bound" for edge in advice.cut)
    if cut:
        page += f" (**{cut}**)"
    looks = [page]
    if searched.best is not None:
        best = places.trial("the best trial", searched.best)
        looks.append(f"{best}: its curves by epoch")
    if places.version is not None:
        title = f"version {places.version} of {searched.name}"
        version = link(title, "models", searched.name, "versions", places.version)
        looks.append(f"{version}: what the model is worth, how to load it and how to serve it")
    else:
        looks.append("the trials below this run, sorted by the metric `best/val/loss`")
    return [f"{number}. {look}" for number, look in enumerate(looks, start=1)]


def _commands(searched: Searched, advice: Advice) -> list[str]:
    commands = Commands(searched)
    lines = [
        "# the next step",
        advice.command,
        "# this search again, or what is missing of it",
        commands.resume(),
    ]
    if searched.best is not None:
        lines += ["# how far can the champion be trusted?", commands.evaluate()]
        lines += ["# serve it", *commands.serve()]
    lines += [f"# {PAGE} again", commands.report()]
    return [commands.WHERE, "", "```bash", *lines, "```"]


def of_trial(searched: Searched, trial: FrozenTrial, places: Places) -> str:
    """Return the description of a trial's run: how it ended, and its place in the study."""
    study = places.run(searched.name, places.parent_run_id)
    return f"Trial {number_of(trial)} of study {study}: {_ended(searched, trial)}"


def _ended(searched: Searched, trial: FrozenTrial) -> str:
    end = end_of(trial)
    step = trial.last_step
    if end == "finished":
        value = f"{searched.monitor} {value_of(trial):.4f}"
        return f"finished after {step} epochs with {value}, place {searched.place(trial)}."
    if end == "pruned" and step is not None:
        return _pruned(searched, trial, step)
    if end == "running":
        return "running."
    return f"{end}: {trial.user_attrs.get('message', '')}"


def _pruned(searched: Searched, trial: FrozenTrial, step: int) -> str:
    found = standing(searched.study, trial, step, searched.tries)
    value = f"{searched.monitor} {found.value:.4f}"
    text = f"pruned after epoch {step} with {value}, place {found.place} of {found.n} at that epoch"
    if found.others:
        best_number, best_value = found.others[0]
        text += f"; the best of them, #{best_number}, had {best_value:.4f}"
    return f"{text}."
