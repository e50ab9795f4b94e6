"""What a run of the study says of itself in MLflow, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from hpsearch.study.replay import standing
from hpsearch.study.study import number_of, value_of
from hpsearch.study_report import commands
from hpsearch.study_report.advice import Advice
from hpsearch.study_report.searched import Searched, end_of
from hpsearch.study_report.sections import facts
from hpsearch.study_report.version_page import link, quality

PAGE = "report.html"


@dataclass(frozen=True)
class Places:
    """Where things are in MLflow.

    Attributes:
        experiment_id: The study's experiment.
        parent_run_id: The study's run.
        runs: The run of each trial, by the number that it is called by.
        version: The number of the registered model's version that the study has made, if any.
        measured: That version's tags: its quality.
    """

    experiment_id: str
    parent_run_id: str
    runs: Mapping[int, str]
    version: str | None
    measured: Mapping[str, str]

    def run(self, text: str, run_id: str | None) -> str:
        """Return a link to a run, or the text alone where there is none."""
        return link(text, "experiments", self.experiment_id, "runs", run_id) if run_id else text


def of_study(searched: Searched, advice: Advice, places: Places) -> str:
    """Return the parent run's description."""
    lines, best = [], searched.best
    if best is not None:  # first, for MLflow folds all but some four lines
        title = places.run(searched.title(best), places.runs.get(number_of(best)))
        lines += [f"**Best trial:** {title}, {searched.monitor} {value_of(best):.4f}.", ""]
    lines += [f"**Next:** {advice.next_step}", ""]
    lines += [f"- **{name}:** {value}" for name, value in facts(searched) if name != "best"]
    if quality(places.measured):
        lines += ["", "On test, the best trial's model:", "", quality(places.measured)]
    lines += ["", "### Look at", "", *_looks(searched, advice, places)]
    lines += ["", "### Go on", "", advice.outlook.text, "", *_commands(searched, advice)]
    return "\n".join(lines)


def _looks(searched: Searched, advice: Advice, places: Places) -> list[str]:
    cut = ", ".join(f"{edge.dimension.name} at its {edge.bound} bound" for edge in advice.cut)
    looks = [
        f"`{PAGE}` under Artifacts: what the search shows, and why{f' (**{cut}**)' if cut else ''}"
    ]
    if searched.best is not None:
        looks.append(
            f"{places.run('the best trial', places.runs.get(number_of(searched.best)))}: its "
            f"curves by epoch"
        )
    if places.version is not None:
        version = link(
            f"version {places.version} of {searched.name}",
            "models",
            searched.name,
            "versions",
            places.version,
        )
        looks.append(f"{version}: what the model is worth, how to load it and how to serve it")
    else:
        looks.append("the trials below this run, sorted by the metric `best/val/loss`")
    return [f"{place}. {text}" for place, text in enumerate(looks, start=1)]


def _commands(searched: Searched, advice: Advice) -> list[str]:
    lines = [
        "# the next step",
        advice.command,
        "# this search again, or what is missing of it",
        commands.resume(searched),
    ]
    if searched.best is not None:
        lines += ["# how far can the champion be trusted?", commands.evaluate(searched)]
        lines += ["# serve it", *commands.serve(searched)]
    lines += [f"# {PAGE} again", commands.report(searched)]
    return [commands.WHERE, "", "```bash", *lines, "```"]


def of_trial(searched: Searched, trial: FrozenTrial, places: Places) -> str:
    """Return a child run's description: how it ended, and its place in the study."""
    study = places.run(searched.name, places.parent_run_id)
    return f"Trial {number_of(trial)} of study {study}: {_ended(searched, trial)}"


def _ended(searched: Searched, trial: FrozenTrial) -> str:
    end, step, value = end_of(trial), trial.last_step, searched.reached(trial)
    if end == "finished":
        place = place_of(searched, trial)
        return f"finished after {step} epochs with {searched.monitor} {value:.4f}, place {place}."
    if end == "pruned" and step is not None:
        found = standing(searched.study, trial, step, searched.tries)
        best = (
            f"; the best of them, #{found.others[0][0]}, had {found.others[0][1]:.4f}"
            if found.others
            else ""
        )
        where = f"place {found.place} of {found.n} at that epoch{best}"
        return f"pruned after epoch {step} with {searched.monitor} {found.value:.4f}, {where}."
    if end == "running":
        return "running."
    return f"{end}: {trial.user_attrs.get('message', '')}"


def place_of(searched: Searched, trial: FrozenTrial) -> str:
    """Return a finished trial's place among the finished ones."""
    return f"{searched.ranked.index(trial) + 1} of {len(searched.ranked)}"
