"""The result of a search: the best trial, the registered versions and the evaluation.

It is shown on a terminal, or returned as plain data for a program that started the search.
"""

from __future__ import annotations

import html
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import keras
import mlflow
import pandas as pd
from mlflow import MlflowClient
from rich.console import Console

from hpsearch.command_form import store_in_shell
from hpsearch.errors import SearchError
from hpsearch.evaluation.evaluated_model import Evaluation
from hpsearch.jobs.evaluate import Evaluated
from hpsearch.models.own_code import import_own_code
from hpsearch.secrets_in_text import without_secrets
from hpsearch.space.bounds import Value
from hpsearch.study.study import number_of, value_of
from hpsearch.study.trial_end import TrialEnd
from hpsearch.study_report.commands import Commands
from hpsearch.study_report.searched import Outcome, Searched
from hpsearch.tracking.mlflow_settings import mlflow_settings_kept
from hpsearch.tracking.registry import Registry, Version
from hpsearch.tracking.store import Store


@dataclass(frozen=True)
class Best:
    """The best trial of a search.

    Attributes:
        number: The number of the trial.
        value: Its monitored value.
        hyperparameters: What it drew, by name.
    """

    number: int
    value: float
    hyperparameters: dict[str, Value]


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        searched: The study as its reports see it.
        outcome: How many trials ended in which way, and the best one.
        version: The version of the best model; None where another worker concludes the study.
        cheapest: The version of the cheapest model; None where there is one objective.
        evaluation: The evaluation of the best model; None where another worker concludes the
            study, or the model has no dropout layer.
        parent_run_id: The MLflow run of the study.
        look: The link or the command that shows this run.
        evaluator: Evaluates a version for the method `evaluate`; None where nothing asks for that.
    """

    searched: Searched
    outcome: Outcome
    version: Version | None
    cheapest: Version | None
    evaluation: Evaluation | None
    parent_run_id: str
    look: str
    evaluator: Callable[..., Evaluated] | None = field(default=None, repr=False, compare=False)

    @property
    def study_name(self) -> str:
        """The name of the study, which is also the name of the registered model."""
        return self.searched.name

    @property
    def best(self) -> Best:
        """The best trial.

        Raises:
            SearchError: No trial has finished.
        """
        trial = self.outcome.best
        if trial is None:
            raise SearchError(f"No trial of study {self.searched.name} has finished.")
        return Best(number_of(trial), self.value, self.searched.values(trial))

    def model(self) -> keras.Model:
        """Load the registered model of the best trial, which is not compiled.

        Raises:
            SearchError: This search has registered no version.
        """
        version = self._registered()
        uri = self.searched.tracking_uri
        Store(uri, None).check_exists()
        client = MlflowClient(uri, registry_uri=uri)
        registry = Registry(client, import_own_code)
        with mlflow_settings_kept():
            # MLflow loads from the store that these name.
            mlflow.set_tracking_uri(uri)
            mlflow.set_registry_uri(uri)
            model, _found = registry.load(version.name, version.number)
        return model

    def evaluate(
        self,
        test_data: object = None,
        config: Mapping[str, object] | None = None,
        console: Console | None = None,
    ) -> Evaluated:
        """Evaluate the registered model of the best trial, as the command `hpsearch evaluate` does.

        The version is loaded from MLflow. A run of its own gets the page evaluation.html, and the
        answers are printed.

        Args:
            test_data: A pair (x, y) to evaluate on; None takes the test data of the search.
            config: Settings of the evaluation by their dotted keys, such as
                `{"parts.shift": None}`, which leaves this part out.
            console: Where the answers are printed; None takes the console of the search.

        Raises:
            UserError: There are no test data, a setting is wrong, or the model cannot be evaluated.
            SearchError: This search has registered no version.
        """
        version = self._registered()
        if self.evaluator is None:
            raise ValueError("Expected a result of hpsearch.search. Received: evaluator=None")
        uri = self.searched.tracking_uri
        return self.evaluator(version, uri, test_data, config, console)

    def _registered(self) -> Version:
        """Return the version of the best model.

        Raises:
            SearchError: This search has registered none.
        """
        if self.version is None:
            raise SearchError(
                f"This worker has registered no version of {self.searched.name}, because others "
                "still worked on the study; search again when they have ended."
            )
        return self.version

    def trials(self) -> pd.DataFrame:
        """Return a table with a row for each trial, in the order of their numbers.

        Its columns are number, end, value, epochs and duration_s, then one for each
        hyperparameter. One that has the name of a column before, such as epochs, has the column
        hp/epochs. The value of a trial that did not finish is missing.
        """
        rows = []
        for trial in self.searched.trials:
            ended = TrialEnd.of(trial)
            word = "running"
            value = None
            if ended is not None:
                word = ended.word
            if ended == TrialEnd.FINISHED:
                value = value_of(trial)
            duration_s = math.nan
            if trial.duration is not None:
                duration_s = trial.duration.total_seconds()
            row = {
                "number": number_of(trial),
                "end": word,
                "value": value,
                "epochs": len(trial.intermediate_values),
                "duration_s": duration_s,
            }
            drawn = {}
            for name, drawn_value in self.searched.values(trial).items():
                column = name
                if name in row:
                    column = f"hp/{name}"
                drawn[column] = drawn_value
            rows.append(row | drawn)
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        """Return the best trials as a table, for a notebook."""
        rows = self.searched.best_rows(5)
        lines = []
        for place, row in enumerate(rows):
            tag = "td"
            if place == 0:
                tag = "th"
            cells = [f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in row]
            lines.append(f"<tr>{''.join(cells)}</tr>")
        title = html.escape(f"The best trials of study {self.searched.name}")
        return f"<p>{title}</p><table>{''.join(lines)}</table>"

    @property
    def _uri(self) -> str:
        """The MLflow store, without a password."""
        return without_secrets(self.searched.tracking_uri)

    def summary(self) -> dict[str, object]:
        """Return the result as plain data."""
        best = self.outcome.best
        found = {"study": self.searched.name, **vars(self.outcome)}
        del found["best"]
        if best is not None:
            found["best"] = {
                "trial": number_of(best),
                "monitor": self.searched.monitor,
                "value": value_of(best),
                "hyperparameters": self.searched.values(best),
            }
        version = self.version
        if version is not None:
            found["registered"] = {
                "name": version.name,
                "version": version.number,
                "is_champion": version.is_champion,
                "why": version.why,
            }
        found["test"] = None
        if self.evaluation is not None:
            found["test"] = self.evaluation.metrics()
        found["run_id"] = self.parent_run_id
        found["tracking_uri"] = self._uri
        return found

    @property
    def value(self) -> float:
        """The best trial's monitored value; NaN where none has finished."""
        if self.outcome.best is None:
            return math.nan
        return float(self.outcome.best.values[0])

    def show(self, console: Console) -> None:
        """Print the evaluation, the versions and the commands that a person may give next."""
        self._show(console, self._next_steps())

    def show_found(self, console: Console, call: str) -> None:
        """Print the evaluation, the versions, and what a person may look at next.

        Args:
            console: Where to print.
            call: The call that evaluates the model; empty where none can.
        """
        steps = [f"Look at it:    {self.look}"]
        if self.version is not None and call:
            steps.append(f"Examine it:    {call}, where result is what hpsearch.search returned")
        self._show(console, steps)

    def _show(self, console: Console, steps: Sequence[str]) -> None:
        """Print the evaluation, the versions and the next steps."""
        if self.evaluation is not None:
            section = self.evaluation.section()
            console.print(section.as_table())
            console.print(section.text, soft_wrap=True, markup=False)
        lines = []
        for version in (self.version, self.cheapest):
            if version is not None:
                lines.append(version.sentence())
        lines += steps
        for line in lines:
            console.print(line, soft_wrap=True, markup=False)

    def _next_steps(self) -> list[str]:
        """Return the commands that a person may give next, one a line."""
        outcome = self.outcome
        n_more = 2 * (outcome.n_finished + outcome.n_pruned + outcome.n_diverged)
        commands = Commands(self.searched)
        lines = [
            f"Look at it:    {self.look}",
            f"Search on:     {commands.search(n_more)}",
            f"Understand it: {commands.report()}",
        ]
        version = self.version
        if version is not None:
            uri = store_in_shell(self.searched.tracking_uri)
            if self.evaluation is not None:  # else the command would be refused
                lines.append(f"Examine it:    {commands.evaluate(version.number)}")
            lines.append(
                f"Serve it:      MLFLOW_TRACKING_URI={uri} mlflow models serve "
                f"-m {shlex.quote(version.uri)} --env-manager local"
            )
        return lines
