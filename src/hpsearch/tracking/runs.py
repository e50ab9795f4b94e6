"""MLflow runs that are written to by their ids, so that threads and processes cannot mix runs up."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from hpsearch.data.split import SearchData
from hpsearch.errors import TrackingError
from hpsearch.tracking.spool import Spool

SHORT = {"learning_rate": "lr", "momentum": "m", "dropout_rate": "d"}
MAX_PARAM = 6000  # MLflow's limit on a parameter's length


def now_ms() -> int:
    """Return the time as MLflow writes it."""
    return int(time.time() * 1000)


class TrackedRun:
    """A run that is written to at once."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client, self.run_id = client, run_id

    def tag(self, tags: Mapping[str, object]) -> None:
        """Set tags."""
        self.client.log_batch(
            self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()]
        )

    def params(self, params: Mapping[str, object]) -> None:
        """Log parameters, none of which may change afterwards."""
        rows = [Param(key, str(value)[:MAX_PARAM]) for key, value in params.items()]
        for start in range(0, len(rows), 100):
            self.client.log_batch(self.run_id, params=rows[start : start + 100])

    def metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log values at one step."""
        self.client.log_batch(
            self.run_id, metrics=[Metric(k, v, now_ms(), step) for k, v in metrics.items()]
        )

    def file(self, path: str, content: bytes) -> None:
        """Log an artifact at `path`, such as `figures/history.png`."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(path).name
            file.write_bytes(content)
            self.move(file, str(Path(path).parent))

    def move(self, file: Path, folder: str) -> None:
        """Log a file as an artifact in `folder`; it need not be there afterwards."""
        self.client.log_artifact(self.run_id, str(file), folder)

    def end(self, status: str) -> None:
        """Set the final status: FINISHED, KILLED or FAILED."""
        self.client.set_terminated(self.run_id, status)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """End the run as the block ends: FINISHED, KILLED where the person stopped it, otherwise
        FAILED.
        """
        status = "FAILED"
        try:
            yield
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            self.end(status)


class ParentRun(TrackedRun):
    """The run of a study."""

    continued_by: TrackedRun | None = None

    def end(self, status: str) -> None:
        """Set the final status, of the run that continued this one too."""
        super().end(status)
        if self.continued_by is not None:
            self.continued_by.end(status)

    def data(self, data: SearchData, source: str) -> None:
        """Log the data set as the run's input, once."""
        log_data(self, data, source, "search")


class ChildRun(TrackedRun):
    """The run of a trial, written to through the spool: no call waits for MLflow, but for `run_id`.

    Args:
        client: Of the MLflow store.
        spool: What sends.
        key: Names the run and the try in the spool.
        opening: What MLflow needs to find or make the run.
        before: The part of the key that all tries share, where there were others.
        patience_s: How long `run_id` waits for MLflow.
    """

    def __init__(
        self,
        client: MlflowClient,
        *,
        spool: Spool,
        key: str,
        opening: Mapping[str, Any],
        before: str | None,
        patience_s: float,
    ) -> None:
        self.client, self._spool, self._key, self._patience_s = client, spool, key, patience_s
        self._file = spool.file(key, before)
        self._file.append({"entry": "open", "time": now_ms(), **opening})

    @property
    def run_id(self) -> str:  # type: ignore[override]
        """MLflow's id of the run.

        Raises:
            TrackingError: MLflow has not answered for so long.
        """
        state = self._spool.state(self._key, self._patience_s)
        if state is None:
            raise TrackingError(
                f"MLflow has not answered for tracking.patience_s={self._patience_s:g} seconds."
            )
        return str(state["run_id"])

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Write the metrics of an epoch (counted from 1); what an earlier try has written stays as
        it is.
        """
        self.metrics(metrics, epoch)

    def metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Write values at one step."""
        rows = [[key, float(value), now_ms(), step] for key, value in metrics.items()]
        self._file.append({"entry": "metrics", "rows": rows})

    def tag(self, tags: Mapping[str, object]) -> None:
        """Set tags."""
        self._file.append(
            {"entry": "tags", "rows": {key: str(value) for key, value in tags.items()}}
        )

    def params(self, params: Mapping[str, object]) -> None:
        """Write parameters, none of which may change afterwards."""
        self._file.append(
            {
                "entry": "params",
                "rows": {key: str(value)[:MAX_PARAM] for key, value in params.items()},
            }
        )

    def move(self, file: Path, folder: str) -> None:
        """Take a file away, to be an artifact in `folder`."""
        self._file.append(
            {"entry": "file", "path": str(self._file.keep_file(file)), "folder": folder}
        )

    def end(self, status: str) -> None:
        """Set the final status: FINISHED, KILLED or FAILED."""
        self._file.append({"entry": "end", "status": status, "time": now_ms()})

    def arrive(self, timeout_s: float) -> None:
        """Wait until all has arrived, but not longer than `timeout_s` seconds."""
        self._spool.drain(timeout_s)

    def abandon(self) -> None:
        """Forget what has not been sent: the trial is another worker's now."""
        self._spool.drop(self._key)


@dataclass(frozen=True)
class TrialName:
    """A trial's name for people: `#7 lr=0.0012 m=0.95 d=0.11`, or `#8 pruned lr=…` where lists cut
    long names.
    """

    number: int
    values: Mapping[str, Any]
    reason: str = ""

    def __str__(self) -> str:
        names = sorted(
            self.values, key=lambda name: list(SHORT).index(name) if name in SHORT else len(SHORT)
        )
        shown = (f"{SHORT.get(name, name)}={_shown(self.values[name])}" for name in names)
        return " ".join([f"#{self.number}", *([self.reason] if self.reason else []), *shown])


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def log_data(run: TrackedRun, data: SearchData, source: str, context: str) -> None:
    """Log a data set by its fingerprint as an input of `run`."""
    shape = "x".join(map(str, data.image_shape))
    profile = f'{{"n_train": {len(data.train.labels)}, "n_val": {len(data.val.labels)}, "n_classes": {data.n_classes}}}'
    schema = (
        f'{{"mlflow_tensorspec": {{"features": "uint8/float32 ({shape})", "targets": "int ()"}}}}'
    )
    entity = Dataset(
        data.name,
        data.fingerprint,
        "local",
        f'{{"uri": "{source}"}}',
        schema=schema,
        profile=profile,
    )
    run.client.log_inputs(
        run.run_id, datasets=[DatasetInput(entity, [InputTag("mlflow.data.context", context)])]
    )


def settings_shown(config: Mapping[str, Any], groups: tuple[str, ...]) -> dict[str, object]:
    """Return the plain settings of `groups`, named by their path, as a run shows them."""
    shown: dict[str, object] = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, Mapping):
            for key, value in node.items():
                if not str(key).startswith("_") or key == "_target_":
                    walk(f"{prefix}.{key}", value)
        else:
            shown[prefix.replace("._target_", ".class")] = (
                node  # `arch` alone is a parameter of `mlflow run`
            )

    for group in groups:
        walk(group, config.get(group, {}))
    return shown
