"""The main job from its command line to a registered version, and where the time went.

The command is the one that people type; only functions of the product are wrapped, so that a
stopwatch knows in which of them the main thread is. What came out is read from the MLflow database
afterwards.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gpu_parts.result import Result, command_line, device, peak_bytes
from hpsearch.cli import entry
from rows import versions

OVERRIDES = ("data=digits", "arch=selu", "budget.n_trials=10")
OVERRIDES_SMALL = (
    "data=digits",
    "arch=selu",
    "arch.n_hidden=1",
    "budget.n_trials=1",
    "training.epochs=1",
)
COMPILING = "compiling"
STORE = "sqlite:///mlflow.db"


class Stopwatch:
    """Divides the time of the main thread among named stretches; an inner stretch stops its outer
    one.

    Args:
        begin: When the process was started, in seconds since the epoch.
    """

    def __init__(self, begin: float) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.inside = ["start and imports"]
        self.since = begin

    def _credit(self) -> None:
        now = time.time()
        self.spent[self.inside[-1]] += now - self.since
        self.since = now

    @contextmanager
    def stretch(self, name: str) -> Iterator[None]:
        """Count the block's time as `name`, on the main thread alone."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._credit()
        self.inside.append(name)
        try:
            yield
        finally:
            self._credit()
            self.inside.pop()

    def move(self, duration: float, name: str) -> None:
        """Count `duration` seconds of the present stretch, which have just passed, as `name`."""
        if threading.current_thread() is threading.main_thread():
            self.spent[self.inside[-1]] -= duration
            self.spent[name] += duration

    def wrap(self, owner: Any, function: str, name: str) -> None:
        """Count the time of each call of `owner.function` as `name`."""
        plain: Callable[..., Any] = getattr(owner, function)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.stretch(name):
                return plain(*args, **kwargs)

        setattr(owner, function, timed)


def wrap_product(watch: Stopwatch) -> None:
    """Wrap the functions between which a search divides its time."""
    from hpsearch.data.split import Data  # noqa: PLC0415
    from hpsearch.jobs import search  # noqa: PLC0415 (imports Keras, whose time is to be counted)
    from hpsearch.jobs.conclusion import Conclusion  # noqa: PLC0415
    from hpsearch.models.dense import DenseNet  # noqa: PLC0415
    from hpsearch.study.study import SharedStudy  # noqa: PLC0415
    from hpsearch.tracking.tracking import Tracking  # noqa: PLC0415
    from hpsearch.training.trainer import Trainer  # noqa: PLC0415
    from hpsearch.trials.attempt import Attempt  # noqa: PLC0415

    watch.wrap(search.ModelCheck, "run", "check before the search")
    watch.wrap(search.Search, "_open", "study")
    watch.wrap(Data, "for_search", "reading data")
    watch.wrap(DenseNet, "build", "building models")
    watch.wrap(Trainer, "fit", "training")
    watch.wrap(Trainer, "_load_program", "making and proving programs")
    for function in ("claim", "complete", "prune"):
        watch.wrap(SharedStudy, function, "study")
    watch.wrap(Attempt, "epoch", "study")
    for owner, function in (
        (Tracking, "__init__"),
        (Tracking, "wait"),
        (Tracking, "close"),
        (search.Opening, "parent"),
    ):
        watch.wrap(owner, function, "tracking")
    for function in ("keep", "register"):
        watch.wrap(Conclusion, function, "keeping and registering models")
    watch.wrap(Conclusion, "describe", "report")
    watch.wrap(Conclusion, "evaluate", "evaluation")


def count_compiling(watch: Stopwatch) -> None:
    """Count what JAX spends on tracing, lowering and compiling as `compiling`."""
    import jax  # noqa: PLC0415 (its import is to be counted)

    def listener(event: str, duration: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            watch.move(duration, COMPILING)

    jax.monitoring.register_event_duration_secs_listener(listener)


def run_search(overrides: tuple[str, ...], watch: Stopwatch) -> object:
    """Run the command under the stopwatch and return its exit status, None where it just ended."""
    instantiate = entry.instantiate

    def instantiated(config: Any) -> Any:
        job = instantiate(config)
        count_compiling(watch)
        wrap_product(watch)
        watch._credit()
        watch.inside[-1] = "everything else"
        return job

    entry.instantiate = instantiated
    sys.argv = ["hpsearch", "search", *overrides]
    try:
        runpy.run_module("hpsearch", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code
    finally:
        watch._credit()
    return None


def came_out() -> dict[str, Any]:
    """Return what the MLflow database says of the trials and of the registered model."""
    from mlflow import MlflowClient  # noqa: PLC0415 (its import is to be counted)

    client = MlflowClient(STORE)
    runs = [
        run
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id])
    ]
    trials = [run for run in runs if run.data.tags.get("hpsearch.kind") == "trial"]
    spent = [
        m.value
        for run in trials
        for m in client.get_metric_history(run.info.run_id, "time/epoch_s")
    ]
    failures = [
        run.data.tags.get("hpsearch.message", "") for run in trials if run.info.status == "FAILED"
    ]
    registered = [f"{version.name} {version.version}" for version in client.search_model_versions()]
    return {
        "trials": len(trials),
        "statuses": dict(Counter(run.info.status for run in trials)),
        "reasons": dict(Counter(run.data.tags.get("hpsearch.end", "finished") for run in trials)),
        "failures": failures,
        "registered": registered,
        "epochs": len(spent),
        "median_epoch_s": sorted(spent)[len(spent) // 2] if spent else None,
    }


def main() -> None:
    """Run the search, read the database, write the result."""
    given = command_line(__doc__).parse_args()
    result = Result(given.json)
    overrides = OVERRIDES_SMALL if given.small else OVERRIDES
    watch = Stopwatch(float(os.environ.get("HPSEARCH_BENCH_BEGIN", time.time())))
    begin = watch.since
    status = run_search(overrides, watch)
    total_s = time.time() - begin
    for name, spent in sorted(watch.spent.items(), key=lambda item: -item[1]):
        result.add(what=name, seconds=spent)
    about = {
        "command": ["python", "-m", "hpsearch", "search", *overrides],
        "exit_status": status,
        "total_s": total_s,
    }
    result.set(**about, **came_out(), device=device(), versions=versions(), peak_bytes=peak_bytes())
    sys.exit(1 if status else 0)


if __name__ == "__main__":
    main()
