"""Two workers on two cores against one on one core: real trials of a real search, each worker
pinned to a core.

    python bench/scaling.py --trials 8 --arch selu --data digits
    python bench/scaling.py --trials 8 --arch selu --data cifar10 --data-path DIR

Prints trials an hour and their ratio, and writes JSON. The time until a worker's first trial begins
is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from hpsearch.study.storage import sqlite
from hpsearch.study.trial_end import TrialEnd
from rows import ENVIRONMENT


def trials_an_hour(n_workers: int, given: argparse.Namespace) -> float:
    """Run a search with `n_workers`, the i-th pinned to core i; return its trials an hour."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "hpsearch",
            "search",
            f"arch={given.arch}",
            f"data={given.data}",
        ]
        command += [
            f"budget.n_trials={given.trials}",
            f"training.epochs={given.epochs}",
            "pruner=none",
        ]
        command += [
            f"data.path={given.data_path or 'null'}",
            "uncertainty.n_samples=2",
            "study.name=scaling",
        ]
        cores = sorted(os.sched_getaffinity(0))
        workers = [
            subprocess.Popen(
                ["taskset", "-c", str(cores[i]), *command],
                cwd=folder,
                env=ENVIRONMENT,
                stdout=subprocess.DEVNULL,
            )
            for i in range(n_workers)
        ]
        for worker in workers:
            if worker.wait():
                raise RuntimeError("a worker failed; see above")
        storage = sqlite(f"{folder}/optuna.db", timeout_s=30, patience_s=30)
        (study,) = storage.get_all_studies()
        spent = [t for t in storage.get_all_trials(study._study_id) if TrialEnd.has_spent(t)]
        begins, ends = [t.datetime_start for t in spent], [t.datetime_complete for t in spent]
        seconds = (max(e for e in ends if e) - min(b for b in begins if b)).total_seconds()
    return 3600 * len(spent) / seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--arch", default="selu")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-path")
    parser.add_argument("--out", type=Path, default=Path("scaling.json"))
    given = parser.parse_args()
    rates = {n: trials_an_hour(n, given) for n in (1, 2)}
    ratio = rates[2] / rates[1]
    Console().print(
        f"One worker {rates[1]:.0f} trials an hour, two {rates[2]:.0f}: {ratio:.2f} times as many."
    )
    given.out.write_text(json.dumps({"trials_an_hour": rates, "ratio": ratio}, indent=1))


if __name__ == "__main__":
    main()
