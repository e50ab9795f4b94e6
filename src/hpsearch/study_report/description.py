"""The descriptions of a study's run and of its trials' runs in MLflow, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mlflow.entities.model_registry import ModelVersion
from optuna.trial import FrozenTrial

from hpsearch.study.replay import standing
from hpsearch.study.study import number_of, value_of
from hpsearch.study_report.advice import Advice
from hpsearch.study_report.commands import Commands
from hpsearch.study_report.searched import Searched, end_of
from hpsearch.study_report.sections import key_values
from hpsearch.study_report.version_page import quality
from hpsearch.tracking.tracking import Tracking


@dataclass(frozen=True)
class Descriptions:
    """The descriptions of the runs of a study, with links to each other.

    Attributes:
        searched: The study.
        experiment_id: The experiment of the study.
        parent_run_id: The run of the study.
        runs: The run of each trial, by `number_of`.
        version: The version of the registered model that the study has made, or None.
        PAGE: The name of the report's page among the artifacts of the study's run.
    """

    PAGE: ClassVar[str] = "report.html"

    searched: Searched
    experiment_id: str
    parent_run_id: str
    runs: Mapping[int, str]
    version: ModelVersion | None

    def of_study(self, advice: Advice) -> str:
        """Return the description of the study's run."""
        searched = self.searched
        best = searched.best
        paragraphs = []
        if best is not None:  # first, since MLflow folds all but some four lines
            run_id = self.runs.get(number_of(best))
            title = self._link(searched.title(best), run_id)
            value = f"{searched.monitor} {value_of(best):.4f}"
            paragraphs.append(f"**Best trial:** {title}, {value}.")
        paragraphs.append(f"**Next:** {advice.next_step}")
        lines = []
        for name, shown in key_values(searched):
            if name != "best":
                lines.append(f"- **{name}:** {shown}")
        paragraphs.append("\n".join(lines))
        if self.version is not None:
            on_test = quality(self.version.tags)
            if on_test:
                paragraphs += ["On test, the best trial's model:", on_test]
        paragraphs += ["### Look at", self._looks(advice)]
        paragraphs += ["### Go on", advice.outlook.text]
        paragraphs += [Commands.WHERE, self._commands(advice)]
        return "\n\n".join(paragraphs)

    def of_trial(self, trial: FrozenTrial) -> str:
        """Return the description of a trial's run: how it ended, and its place in the study."""
        study = self._link(self.searched.name, self.parent_run_id)
        return f"Trial {number_of(trial)} of study {study}: {self._ended(trial)}"

    def _link(self, text: str, run_id: str | None) -> str:
        """Return a link to a run, or the text alone if there is no run."""
        if not run_id:
            return text
        return Tracking.link(text, "experiments", self.experiment_id, "runs", run_id)

    def _looks(self, advice: Advice) -> str:
        """Return a numbered list of what is worth looking at in MLflow."""
        page = f"`{self.PAGE}` under Artifacts: what the search shows, and why"
        cut = [f"{edge.dimension.name} at its {edge.bound} bound" for edge in advice.cut]
        if cut:
            page += f" (**{', '.join(cut)}**)"
        looks = [page]
        best = self.searched.best
        if best is not None:
            run_id = self.runs.get(number_of(best))
            link = self._link("the best trial", run_id)
            looks.append(f"{link}: its curves by epoch")
        if self.version is not None:
            name = self.searched.name
            number = str(self.version.version)
            title = f"version {number} of {name}"
            link = Tracking.link(title, "models", name, "versions", number)
            looks.append(f"{link}: what the model is worth, how to load it and how to serve it")
        else:
            looks.append("the trials below this run, sorted by the metric `best/val/loss`")
        lines = []
        for place, look in enumerate(looks, start=1):
            lines.append(f"{place}. {look}")
        return "\n".join(lines)

    def _commands(self, advice: Advice) -> str:
        commands = Commands(self.searched)
        lines = [
            "```bash",
            "# the next step",
            advice.command,
            "# this search again, or what is missing of it",
            commands.resume(),
        ]
        if self.searched.best is not None:
            lines += ["# how far can the champion be trusted?", commands.evaluate()]
            lines += ["# serve it", commands.serve()]
        lines += [f"# {self.PAGE} again", commands.report(), "```"]
        return "\n".join(lines)

    def _ended(self, trial: FrozenTrial) -> str:
        searched = self.searched
        end = end_of(trial)
        step = trial.last_step
        if end == "finished":
            value = f"{searched.monitor} {value_of(trial):.4f}"
            place = searched.place(trial)
            return f"finished after {step} epochs with {value}, place {place}."
        if end == "running":
            return "running."
        if end != "pruned" or step is None:
            message = trial.user_attrs.get("message", "")
            return f"{end}: {message}"
        found = standing(searched.study, trial, step, searched.tries)
        value = f"{searched.monitor} {found.value:.4f}"
        place = f"place {found.place} of {found.n} at that epoch"
        text = f"pruned after epoch {step} with {value}, {place}"
        if found.others:
            best_number, best_value = found.others[0]
            text += f"; the best of them, #{best_number}, had {best_value:.4f}"
        return f"{text}."
