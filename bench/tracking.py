"""What tracking and storage cost the trials of a real search on SQLite, whose images have
CIFAR-10's number and shape.

    TF_CPP_MIN_LOG_LEVEL=3 python bench/tracking.py --arch selu elu --trials 2 --epochs 10

It takes some six minutes on two cores.
Counted are the seconds that a trial's own thread spends in claims, draws, reports, its run's
entries and keeping its model, and the CPU seconds of the threads that send entries and renew leases
meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from omegaconf import OmegaConf
from rich.console import Console

from hpsearch.cli import entry
from hpsearch.study.leases import Lease
from hpsearch.study.study import SharedStudy
from hpsearch.tracking.registry import Registry
from hpsearch.tracking.runs import ChildRun
from hpsearch.tracking.spool import Spool
from hpsearch.trials.objective import Objective
from parts import CIFAR_CLASSES, CIFAR_SHAPE, composed
from rows import Row, run

COUNTED: dict[type[Any], tuple[str, ...]] = {
    SharedStudy: ("claim", "report", "should_stop", "complete", "prune", "fail"),
    ChildRun: ("__init__", "metrics", "params", "tag", "move", "end"),
    Registry: ("keep",),
    optuna.Trial: ("suggest_float", "suggest_int", "suggest_categorical"),
    Spool: ("_send",),
    Lease: ("renew",),
}


@dataclass
class Clock:
    """Adds up what counted calls take; a call within a counted call counts once."""

    own_s: float = 0.0
    beside_s: float = 0.0
    trials_s: float = 0.0
    _inside: threading.local = field(default_factory=threading.local)

    def count(self, cls: type[Any], name: str) -> None:
        """Count the calls of a method: seconds in the main thread, CPU seconds in others."""
        method = getattr(cls, name)

        @functools.wraps(method)
        def counted(*args: Any, **kwargs: Any) -> Any:
            if getattr(self._inside, "on", False):
                return method(*args, **kwargs)
            is_own = threading.current_thread() is threading.main_thread()
            now = time.perf_counter if is_own else time.thread_time
            self._inside.on, begin = True, now()
            try:
                return method(*args, **kwargs)
            finally:
                self._inside.on, took = False, now() - begin
                self.own_s += took if is_own else 0.0
                self.beside_s += 0.0 if is_own else took

        setattr(cls, name, counted)

    def time_trials(self) -> None:
        """Add up what trials take as a whole."""
        run_trial = Objective.run

        def timed(objective: Objective, trial: optuna.Trial) -> None:
            begin = time.perf_counter()
            run_trial(objective, trial)
            self.trials_s += time.perf_counter() - begin

        Objective.run = timed  # type: ignore[method-assign]


def write_images(path: Path, n_train: int) -> None:
    """Write noise, which takes as long as images do."""
    rng = np.random.default_rng(0)
    parts = {
        f"{kind}_{part}": rng.integers(0, high, shape).astype(np.uint8)
        for part, n in (("train", n_train), ("test", n_train // 5))
        for kind, high, shape in (("x", 256, (n, *CIFAR_SHAPE)), ("y", CIFAR_CLASSES, (n,)))
    }
    np.savez(path, **parts)


def measure(given: argparse.Namespace) -> Iterator[Row]:
    """Search each architecture in a folder of its own."""
    clock = Clock()
    for cls, names in COUNTED.items():
        for name in names:
            clock.count(cls, name)
    clock.time_trials()
    n_train, epochs = (2000, 2) if given.quick else (50_000, given.epochs)
    for arch in given.arch:
        clock.own_s = clock.beside_s = clock.trials_s = 0.0
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            write_images(Path("noise.npz"), n_train)
            stores = (
                f"storage.path={folder}/optuna.db",
                f"tracking.uri=sqlite:///{folder}/mlflow.db",
            )
            budget = (f"budget.n_trials={given.trials}", f"training.epochs={epochs}", "pruner=none")
            words = (
                "data=npz",
                "data.path=noise.npz",
                f"arch={arch}",
                "uncertainty.n_samples=2",
                *stores,
                *budget,
            )
            config = composed(*words)
            plain = OmegaConf.to_container(config, resolve=True)
            entry.instantiate(config).run(plain, Console(quiet=True))
        share = 100 * (clock.own_s + clock.beside_s) / clock.trials_s
        note = f"{100 * clock.own_s / clock.trials_s:.2f} % in its thread; a trial takes "
        note += f"{clock.trials_s / given.trials:.0f} s, {epochs} epochs"
        yield Row(f"tracking and storage, {arch}", share, "% of a trial", 2.0, note=note)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", nargs="+", default=["selu"])
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--quick", action="store_true")
    run("tracking", parser, measure)
