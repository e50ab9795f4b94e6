"""Write tags, parameters, metrics and files to the MLflow runs of studies and trials.

Each run is written to by its id and never through MLflow's active run, so that threads and
processes cannot mix runs up.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from hpsearch.data.split import SearchData
from hpsearch.errors import Preempted, TrackingError
from hpsearch.tracking.keys import as_key
from hpsearch.tracking.spool import Spool
from hpsearch.tracking.spool_file import Entry

END = "hpsearch.end"  # the tag of a trial's run: how the trial ended, in the words of TrialEnd


def now_ms() -> int:
    """Return the time as MLflow writes it, in milliseconds of Unix time."""
    return int(time.time() * 1000)


class TrackedRun:
    """An MLflow run; each call writes to the store at once and waits for it."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client = client
        self.run_id = run_id

    def tag(self, tags: Mapping[str, object]) -> None:
        """Set tags."""
        rows = [RunTag(as_key(key), str(value)) for key, value in tags.items()]
        self.client.log_batch(self.run_id, tags=rows)

    def params(self, params: Mapping[str, object]) -> None:
        """Log parameters; MLflow refuses to change them afterwards."""
        texts = _as_params(params)
        rows = [Param(key, text) for key, text in texts.items()]
        for start in range(0, len(rows), 100):
            some = rows[start : start + 100]
            self.client.log_batch(self.run_id, params=some)

    def metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log values at one step."""
        now = now_ms()
        rows = []
        for key, value in metrics.items():
            metric = Metric(as_key(key), value, now, step)
            rows.append(metric)
        self.client.log_batch(self.run_id, metrics=rows)

    def file(self, path: str, content: bytes) -> None:
        """Log an artifact at `path`, such as `figures/history.png`."""
        with tempfile.TemporaryDirectory() as folder:
            place = Path(path)
            file = Path(folder) / place.name
            file.write_bytes(content)
            self.move(file, str(place.parent))

    def move(self, file: Path, folder: str) -> None:
        """Log a file as an artifact in `folder`; a subclass may take the file away."""
        self.client.log_artifact(self.run_id, str(file), folder)

    def end(self, status: str) -> None:
        """Set the final status: FINISHED, KILLED or FAILED."""
        self.client.set_terminated(self.run_id, status)

    @contextmanager
    def ending(self, end: Callable[[str], None] | None = None) -> Iterator[None]:
        """End the run as the block ends.

        Args:
            end: Called with the status, which is FINISHED, KILLED after an interrupt, RUNNING where
                the cluster stops this worker and another one goes on, and otherwise FAILED. None
                takes the method `end`.
        """
        status = "FAILED"
        try:
            yield
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except Preempted:
            status = "RUNNING"
            raise
        finally:
            finish = end or self.end
            finish(status)


class ParentRun(TrackedRun):
    """The run of a study.

    Attributes:
        continued_by: The run of `mlflow run` that continues the study, if there is one. It ends
            when this run ends.
    """

    continued_by: TrackedRun | None = None

    def end(self, status: str) -> None:
        """Set the final status of this run and of the run that continues it."""
        super().end(status)
        if self.continued_by is not None:
            self.continued_by.end(status)

    def data(self, data: SearchData, source: str) -> None:
        """Log the data set as an input of the run; `source` says where it comes from."""
        profile = {
            "n_train": len(data.train.targets),
            "n_val": len(data.val.targets),
            "n_classes": data.n_classes,
        }
        if data.calibration is not None:
            profile["n_calibration"] = len(data.calibration.targets)
        shape = "x".join(map(str, data.image_shape))
        spec = {"features": f"uint8/float32 ({shape})", "targets": "int ()"}
        dataset = Dataset(
            data.name,
            data.fingerprint,
            "local",
            json.dumps({"uri": source}),
            json.dumps({"mlflow_tensorspec": spec}),
            json.dumps(profile),
        )
        context = InputTag("mlflow.data.context", "search")
        given = DatasetInput(dataset, [context])
        self.client.log_inputs(self.run_id, datasets=[given])


class ChildRun(TrackedRun):
    """The run of a trial. Every call writes to the spool and returns at once, except `run_id`.

    Args:
        client: A client of the MLflow store.
        spool: Sends what is written.
        key: A name for the run and the try in the spool.
        opening: What MLflow needs to find or create the run.
        before: The part of the key that all tries share, or None for the first try.
        patience_s: How long `run_id` waits for MLflow, in seconds.
    """

    def __init__(
        self,
        client: MlflowClient,
        spool: Spool,
        key: str,
        opening: Entry,
        before: str | None,
        *,
        patience_s: float,
    ) -> None:
        self.client = client
        self._spool = spool
        self._key = key
        self._patience_s = patience_s
        self._file = spool.file(key, before)
        self._file.append({"entry": "open", "time": now_ms(), **opening})

    @property
    def run_id(self) -> str:  # type: ignore[override]
        """MLflow's id of the run, which is known when MLflow has answered.

        Raises:
            TrackingError: MLflow has not answered for `patience_s` seconds.
        """
        state = self._spool.state(self._key, self._patience_s)
        if state is None:
            raise TrackingError(
                f"MLflow has not answered for tracking.patience_s={self._patience_s:g} seconds."
            )
        return str(state["run_id"])

    def metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Write values at one step, unless an earlier try has: an epoch, or 0 for the whole trial.

        Epochs are counted from 1.
        """
        now = now_ms()
        rows = []
        for key, value in metrics.items():
            rows.append((as_key(key), float(value), now, step))
        self._file.append({"entry": "metrics", "rows": rows})

    def tag(self, tags: Mapping[str, object]) -> None:
        """Set tags."""
        rows = {as_key(key): str(value) for key, value in tags.items()}
        self._file.append({"entry": "tags", "rows": rows})

    def params(self, params: Mapping[str, object]) -> None:
        """Write parameters; MLflow refuses to change them afterwards."""
        rows = _as_params(params)
        self._file.append({"entry": "params", "rows": rows})

    def move(self, file: Path, folder: str) -> None:
        """Take a file away, and write it as an artifact in `folder`."""
        path = str(self._file.keep_file(file))
        self._file.append({"entry": "file", "path": path, "folder": folder})

    def end(self, status: str) -> None:
        """Set the final status: FINISHED, KILLED or FAILED."""
        self._file.append({"entry": "end", "status": status, "time": now_ms()})

    def arrive(self, timeout_s: float) -> None:
        """Wait until everything has arrived, but not longer than `timeout_s` seconds."""
        self._spool.drain(timeout_s)

    def abandon(self) -> None:
        """Delete what has not been sent, because another worker has taken over the trial."""
        self._spool.drop(self._key)


def _as_params(params: Mapping[str, object]) -> dict[str, str]:
    """Return parameters as the texts that MLflow keeps, which takes 6000 characters of each."""
    return {as_key(key): str(value)[:6000] for key, value in params.items()}


@dataclass(frozen=True)
class TrialName:
    """A trial's name for people: `#7 lr=0.0012 m=0.95 d=0.11`, or `#8 pruned lr=0.0034`.

    The end of a trial comes first, because lists cut long names.

    Attributes:
        number: The number of the trial.
        values: Its hyperparameters by name.
        end: The word of its end; empty for a trial that runs or has finished.
    """

    number: int
    values: Mapping[str, object]
    end: str = ""

    def __str__(self) -> str:
        words = [f"#{self.number}"]
        if self.end:
            words.append(self.end)
        short = {
            "learning_rate": "lr",
            "momentum": "m",
            "dropout_rate": "d",
        }
        names = [*short, *self.values]
        for name in dict.fromkeys(names):
            if name not in self.values:
                continue
            value = self.values[name]
            if isinstance(value, float):
                value = f"{value:.3g}"
            shown = short.get(name, name)
            words.append(f"{shown}={value}")
        return " ".join(words)


def settings_shown(config: Mapping[str, object], groups: tuple[str, ...]) -> dict[str, object]:
    """Return the plain settings of some groups of a configuration, as a run shows them.

    Args:
        config: The composed configuration as plain data.
        groups: The names of the groups, such as `arch`.

    Returns:
        Each setting by its path, such as `arch.n_hidden`. The class of a group is `arch.class`,
        since `arch` alone is a parameter of `mlflow run`.
    """
    shown: dict[str, object] = {}
    for group in groups:
        settings = config.get(group, {})
        shown.update(_settings(group, settings))
    return shown


def _settings(path: str, node: object) -> Iterator[tuple[str, object]]:
    if not isinstance(node, Mapping):
        yield path.replace("._target_", ".class"), node
        return
    for key, value in node.items():
        is_private = str(key).startswith("_")
        if key == "_target_" or not is_private:
            yield from _settings(f"{path}.{key}", value)
