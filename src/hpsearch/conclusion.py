"""What a search leaves behind: the best model registered and evaluated, the parent run described."""

from __future__ import annotations

from dataclasses import dataclass

import keras
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from optuna.trial import FrozenTrial
from rich.console import Console

from hpsearch import report
from hpsearch.data import Examples, SearchData
from hpsearch.errors import ModelError
from hpsearch.evaluation import Evaluation, evaluate
from hpsearch.mc_dropout import McDropout
from hpsearch.progress import Progress
from hpsearch.registry import Registry, Version
from hpsearch.space import Space
from hpsearch.storage import without_password
from hpsearch.study import SharedStudy, best_trial, number_of
from hpsearch.tracking import ChildRun, ParentRun, Tracking
from hpsearch.training import Training


@dataclass(frozen=True)
class SearchResult:
    """What a search came to."""

    outcome: report.Outcome
    version: Version
    evaluation: Evaluation | None
    parent_run_id: str
    tracking_uri: str

    def show(self, console: Console) -> None:
        """Print what came out and what to do next."""
        if self.evaluation is not None:
            console.print(report.evaluation_table(self.evaluation.rows()))
        alias = "champion" if self.version.is_champion else "challenger"
        console.print(
            f"Registered as version {self.version.number} of {self.version.name}, alias {alias} ({self.version.why}).\n"
            f"Look at it:  mlflow ui --backend-store-uri {without_password(self.tracking_uri)}",
            soft_wrap=True,
            markup=False,
        )


@dataclass(frozen=True)
class Conclusion:
    """Keeps the best model while trials end, and concludes the study when they have.

    Args:
        name: The study's, and the registered model's.
        study: Whose trials count.
        tracking: The MLflow store.
        parent: The study's run.
        space: Shows hyperparameters as people see them.
        training: Says what is monitored.
    """

    name: str
    study: SharedStudy
    tracking: Tracking
    parent: ParentRun
    space: Space
    training: Training

    @property
    def registry(self) -> Registry:
        """The registry of the MLflow store."""
        return Registry(self.tracking.client)

    def best(self) -> FrozenTrial | None:
        """Return the best finished trial of all workers."""
        return best_trial(self.study.trials(), self.training.maximize)

    def keep(self, model: keras.Model, run: ChildRun, value: float) -> None:
        """Keep a trial's model where no finished trial is better."""
        best = self.best()
        sign = -1 if self.training.maximize else 1
        if best is None or best.value is None or sign * value < sign * best.value:
            self.registry.keep(model, run)

    def register(self, best: FrozenTrial, data: SearchData) -> tuple[keras.Model, Version]:
        """Make the best trial's model a version of the registered model, and return both."""
        run_id, monitor = best.user_attrs["run_id"], self.training.monitor
        model = self.registry.kept(run_id)
        measured = self.tracking.client.get_run(run_id).data.metrics
        tags: dict[str, object] = {
            key.removeprefix("best/"): value for key, value in measured.items() if key.startswith("best/val/")
        }
        tags |= {"hpsearch.trial": number_of(best), "hpsearch.study": self.name, "parent_run": self.parent.run_id}
        self.parent.metrics({f"best/{monitor}": best.value or 0.0})
        return model, self.registry.register(self.name, run_id, model, data=data, tags=tags, metric="val/loss")

    def evaluate(
        self, model: keras.Model, version: Version, test: Examples, settings: McDropout, progress: Progress
    ) -> Evaluation | None:
        """Ask the registered model plainly and with MC Dropout; None where it has no dropout at all."""
        try:
            evaluation = evaluate(model, test, settings=settings)
        except ModelError as error:  # somebody's HyperModel may have none
            progress.say(f"No MC Dropout evaluation: {error}")
            return None
        self.parent.metrics(evaluation.metrics())
        for key, value in evaluation.metrics().items():
            self.tracking.client.set_model_version_tag(version.name, version.number, key, f"{value:.6g}")
        return evaluation

    def describe(self) -> None:
        """Write summary and figures to the parent run, however the search ended."""
        outcome = report.Outcome.of(self.study.trials(), self.training.maximize)
        text = report.summary(self.name, outcome, self.space, self.training.monitor, {})
        counts = {"trials/finished": outcome.n_finished, "trials/pruned": outcome.n_pruned}
        self.parent.metrics({**counts, "trials/diverged": outcome.n_diverged, "trials/failed": outcome.n_failed})
        self.parent.tag({MLFLOW_RUN_NOTE: text})
        if outcome.best is not None:
            self.parent.tag({"hpsearch.best_trial": number_of(outcome.best)})
            for path, png in report.figures(self.study.optuna, self.space, self.training.monitor).items():
                self.parent.file(path, png)
