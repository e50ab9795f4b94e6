"""Trials to reach the best of 20 random trials' validation loss, without and with the learning rate
test.

    python bench/lr_test.py --seeds 3 arch=selu data=digits training.epochs=15 --json lr_test.json

Other arguments are overrides of the main job. For each seed there are three searches in a folder of
its own: 20 random trials, which set the loss to reach; then `sampler=tpe` with `lr_test=false`, and
with `lr_test=true`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import optuna

from rows import ENVIRONMENT

ARMS = {
    "random": ("sampler=random",),
    "without the test": ("sampler=tpe", "lr_test=false"),
    "with the test": ("sampler=tpe", "lr_test=true"),
}


def losses(folder: Path, arm: str, seed: int, n_trials: int, overrides: list[str]) -> list[float]:
    """Run a search and return the value of each trial; one that was pruned counts as infinite."""
    name = arm.replace(" ", "_")
    command = [
        sys.executable,
        "-m",
        "hpsearch",
        "search",
        f"study.name={name}",
        f"seed={seed}",
        "pruner=none",
    ]
    command += [f"budget.n_trials={n_trials}", *ARMS[arm], *overrides]
    env = {**ENVIRONMENT, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    subprocess.run(command, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL)
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/optuna.db")
    return [t.value if t.value is not None else float("inf") for t in study.trials]


def first_below(values: list[float], target: float) -> int | None:
    """Return the number of trials (from 1) after which `target` is reached; None if it never is."""
    return next((n for n, value in enumerate(values, 1) if value <= target), None)


def main() -> None:
    """Run all searches, print a row for each seed, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--json", type=Path)
    given, overrides = parser.parse_known_args()
    rows = []
    print(
        "| seed | best of random | trials without the test | trials with the test |",
        "|---|---|---|---|",
        sep="\n",
    )
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as folder:
            found = {arm: losses(Path(folder), arm, seed, given.trials, overrides) for arm in ARMS}
        target = min(found["random"])
        reached = {arm: first_below(found[arm], target) for arm in list(ARMS)[1:]}
        rows.append({"seed": seed, "target": target, "trials": reached, "losses": found})
        shown = [str(n) if n else f"more than {given.trials}" for n in reached.values()]
        print(f"| {seed} | {target:.4f} | {' | '.join(shown)} |", flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
