"""Time what a person waits for: `--help`, a typo, `--cfg job`, the first epoch of a search, and
where that time goes.

python bench/start.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from rows import ENVIRONMENT, Row, run

MODULE = ("-m", "hpsearch", "search")
QUICK = {"--help": ("--help",), "a typo": ("arch=sleu",), "--cfg job": ("--cfg", "job")}
SEARCH = ("data=digits", "arch=selu", "budget.n_trials=1", "training.epochs=1")
# Runs a search in which the time is written down at each station; it ends where the first epoch
# begins.
STATIONS = """
import json, sys, time
begin = float(sys.argv.pop(1))
marks = {"Python starts": time.time() - begin}
def mark(name): marks.setdefault(name, time.time() - begin)
from hpsearch.cli import entry
import runpy
mark("Hydra is imported")
instantiate = entry.instantiate
def instantiated(config):
    import keras; mark("Keras is imported")
    job = instantiate(config); mark("the job is built (all imports done)")
    from hpsearch.data import split as data
    from hpsearch.training import epochs
    from hpsearch.study import study
    from hpsearch.tracking import tracking
    from hpsearch.training import trainer
    def after(owner, name, label):
        plain = getattr(owner, name)
        def timed(*args, **kwargs):
            found = plain(*args, **kwargs); mark(label); return found
        setattr(owner, name, timed)
    after(data.Data, "for_search", "the data is read")
    after(tracking.Tracking, "__init__", "the MLflow store is open")
    after(study.SharedStudy, "claim", "the study is open, a trial claimed")
    after(trainer.Trainer, "_load_program", "the program is made and proved")
    def first(self, epoch, logs=None):
        import os
        mark("the first epoch begins")
        print("MARKS" + json.dumps(marks), flush=True)
        os._exit(0)
    epochs.Epochs.on_epoch_begin = first
    return job
entry.instantiate = instantiated
sys.argv.insert(1, "search")
runpy.run_module("hpsearch", run_name="__main__", alter_sys=True)
"""


def seconds(arguments: tuple[str, ...], repeats: int) -> float:
    """Return the median wall-clock time of a command."""
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, *arguments], capture_output=True, check=False, env=ENVIRONMENT
        )
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def stations() -> dict[str, float]:
    """Return when, in seconds after the command, a search on the digits comes to each station."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", STATIONS, str(time.time()), *SEARCH]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=folder, env=ENVIRONMENT
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("MARKS")]
    if not lines:
        raise RuntimeError(
            f"The search did not come to its first epoch: {done.stdout}{done.stderr}"
        )
    found: dict[str, float] = json.loads(lines[0].removeprefix("MARKS"))
    return found


def measure(given: argparse.Namespace) -> Iterator[Row]:
    """Return all rows."""
    for name, arguments in QUICK.items():
        yield Row(f"start: {name}", seconds((*MODULE, *arguments), given.repeats), "s", 1.0)
    found = [stations() for _ in range(given.repeats)]
    before = 0.0
    for name in found[0]:
        at = statistics.median(marks[name] for marks in found)
        is_last = name == "the first epoch begins"
        yield Row(
            f"start: a search on digits, {name}",
            at,
            "s",
            12.0 if is_last else None,
            note=f"+{at - before:.2f} s",
        )
        before = at


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    run("start", parser, measure)
