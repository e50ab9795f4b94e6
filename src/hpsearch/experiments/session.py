"""A session of an experiment: it trains each arm from each seed and records the results in MLflow.

An experiment has one parent run, with a child run for each arm and seed. A later session of the
same experiment reads the finished child runs and trains only what is missing.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from rich.console import Console

from hpsearch.experiments.answers import Answer, Results, Table
from hpsearch.experiments.arms import Arm, Measured, Workbench
from hpsearch.models.moved_names import MOVED
from hpsearch.secrets_in_text import without_secrets
from hpsearch.seeds import derive
from hpsearch.study.trial_end import TrialEnd
from hpsearch.tracking.runs import END, ParentRun, TrackedRun, settings_shown
from hpsearch.tracking.tracking import Tracking


class Session:
    """A session of an experiment; another session of the experiment gets the same parent run.

    Args:
        tracking: The MLflow store.
        bench: Trains the arms.
        name: The name of the parent run.
        identity: Plain data that is equal in all sessions of the experiment.
        tags: Further tags of the parent run.
    """

    _file = "measured.json"  # the measurements, in the child run of a training
    _identity_tag = "hpsearch.experiment"
    _cell_tag = "hpsearch.cell"

    def __init__(
        self,
        tracking: Tracking,
        bench: Workbench,
        name: str,
        identity: Sequence[object],
        tags: Mapping[str, str],
    ) -> None:
        self._tracking = tracking
        self._bench = bench
        self.name = name
        digests = _digests(identity)
        tags = {
            **tags,
            "hpsearch.fingerprint": bench.data.fingerprint,
            self._identity_tag: digests[0],
        }
        known = self._known(digests)
        self.parent: ParentRun = tracking.open_parent(name, known, tags)
        self._cells = {}
        for run in tracking.children(self.parent):
            cell = run.data.tags.get(self._cell_tag)
            if cell is not None:
                self._cells[cell] = run

    def _known(self, digests: Sequence[str]) -> str | None:
        """Return the parent run of an earlier session; None where there is none."""
        experiments = [self._tracking.experiment_id]
        wanted = f"tags.`{self._identity_tag}` LIKE '%'"
        client = self._tracking.client
        runs = client.search_runs(experiments, wanted, max_results=50000)
        for run in runs:
            if run.data.tags[self._identity_tag] in digests:
                return str(run.info.run_id)
        return None

    def measure(
        self,
        arms: Sequence[Arm],
        root_seed: int,
        stream: str,
        n_seeds: int,
        console: Console,
    ) -> Results:
        """Train what is missing, and return all measurements by arm and by the seed's place.

        Args:
            arms: The arms.
            root_seed: The root of all seeds.
            stream: The name of the seeds below the root. All arms have the same seeds, so that
                results are paired.
            n_seeds: The number of trainings of each arm.
            console: Where progress is printed.
        """
        results = Results()
        n_done = 0
        for arm in arms:
            results[arm.name] = {}
            for place in range(n_seeds):
                again = " (measured before)"
                found = self._find(arm, place)
                if found is None:
                    again = ""
                    seed = derive(root_seed, stream, place)
                    found = self._train(arm, place, seed)
                results[arm.name][place] = found
                n_done += 1
                loss = found.scalars.get("best/val/loss", math.nan)
                end = found.diverged or f"val/loss {loss:.4f}"
                progress = f"{n_done}/{len(arms) * n_seeds}"
                line = f"{progress}  {arm.name}, seed {place}: {end}{again}"
                console.print(line, soft_wrap=True)
        return results

    def _find(self, arm: Arm, place: int) -> Measured | None:
        """Return what an earlier session measured; None where it did not finish the training."""
        run = self._cells.get(f"{arm.name}/{place}")
        if run is None or run.info.status != "FINISHED":
            return None
        with tempfile.TemporaryDirectory() as folder:
            client = self._tracking.client
            path = client.download_artifacts(run.info.run_id, self._file, folder)
            text = Path(path).read_text()
            return Measured(**json.loads(text))

    def _train(
        self,
        arm: Arm,
        place: int,
        seed: int,
    ) -> Measured:
        """Train an arm from one seed, in a child run of its own."""
        child = self._open(arm, place)

        def listen(epoch: int, metrics: Mapping[str, float], is_last: bool) -> None:
            child.metrics(metrics, epoch)

        try:
            measured = self._bench.train(arm, seed, listen)
        except KeyboardInterrupt:
            child.end("KILLED")
            raise
        except BaseException:
            child.end("FAILED")
            raise
        self._close(child, measured)
        return measured

    def _open(self, arm: Arm, place: int) -> TrackedRun:
        """Open the child run of an arm and a seed; an interrupted run is opened again."""
        cell = f"{arm.name}/{place}"
        run_id = None
        if cell in self._cells:
            run_id = self._cells[cell].info.run_id
        name = f"{arm.name} seed {place}"
        tags = {
            "hpsearch.kind": "cell",
            self._cell_tag: cell,
            "hpsearch.seed": str(place),
        }
        child = self._tracking.open_cell(self.parent, name, run_id, tags)
        shown = settings_shown(arm.config, Arm.PARTS)
        own = {"level": arm.level, "experiment_seed": place}
        child.params({**arm.hyperparameters, **own, **shown})
        return child

    def _close(self, child: TrackedRun, measured: Measured) -> None:
        """Write the measurements to a child run and end it.

        The measures of the layers become metrics whose step is the number of the layer.
        """
        by_step = {0: measured.scalars}
        for key, values in measured.layers.items():
            for layer, value in enumerate(values, 1):
                of_layer = by_step.setdefault(layer, {})
                of_layer[f"layer/{key}"] = value
        for step, metrics in sorted(by_step.items()):
            finite = {}
            for key, value in metrics.items():
                if math.isfinite(value):
                    finite[key] = value
            child.metrics(finite, step)
        text = json.dumps(asdict(measured))
        child.client.log_text(child.run_id, text, self._file)
        if measured.diverged:
            tags = {
                END: TrialEnd.DIVERGED.word,
                "hpsearch.message": measured.diverged,
            }
            child.tag(tags)
        child.end("FINISHED")

    def answer(
        self,
        text: str,
        verdict: str,
        tables: Sequence[Table],
        claims: Sequence[str],
        console: Console,
    ) -> Answer:
        """Write an answer to the parent run, print the command that shows it, and return it.

        Args:
            text: All that was found, in Markdown.
            verdict: One sentence for each group of arms that were compared.
            tables: The tables.
            claims: One sentence for each claim of a textbook that was judged.
            console: Where the command is printed.
        """
        parent = self.parent
        parent.client.log_text(parent.run_id, text, "answer.md")
        tags = {
            MLFLOW_RUN_NOTE: text[:5000],
            "hpsearch.verdict": verdict[:5000],
        }
        parent.tag(tags)
        uri = without_secrets(self._tracking.uri)
        look = self._tracking.look(parent.run_id)
        lines = [
            f"The answer is answer.md among the artifacts of run {parent.run_id}.",
            f"Look at it:  {look}",
        ]
        for line in lines:
            console.print(line, soft_wrap=True, markup=False)
        return Answer(self.name, verdict, tables, claims, parent.run_id, uri)


def _digests(identity: Sequence[object]) -> list[str]:
    """Return the digests that an identity has under the present and under earlier import paths.

    The first one is recorded. An earlier version of hpsearch has recorded another one, since the
    settings name classes by their import paths, some within overrides. A run holds no settings but
    this digest, so the earlier digests are computed.
    """
    texts = [json.dumps(identity, sort_keys=True, default=str)]
    for earlier, current in MOVED.items():
        texts += [text.replace(current, earlier) for text in texts if current in text]
    digests = [hashlib.sha256(text.encode()) for text in texts]
    return [digest.hexdigest()[:16] for digest in digests]
