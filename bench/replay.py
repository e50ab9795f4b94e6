"""Compute every suggestion again of studies that 1, 2 and 8 workers have made, and resume one in
the middle.

    python bench/replay.py --trials 60 --workers 1 2 8
    python bench/replay.py --storage postgresql+psycopg://user@host:port/database

Prints for each number of workers how many suggestions are the same again, and how many trials saw
others run; then whether 13 trials and 11 more of a new process equal 24 in one go. The exit status
is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from hpsearch.study.history import from_ranges
from hpsearch.study.replay import replay as again
from hpsearch.study.study import SharedStudy

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from short_trials import ShortTrials, fork


def made(trials: ShortTrials, n_workers: int) -> SharedStudy:
    """Return the study after so many workers have spent its budget."""
    os.waitpid(fork(trials.open), 0)  # MLflow's tables take longer than all the trials
    workers = [fork(trials.work) for _ in range(n_workers)]
    if any([os.waitpid(pid, 0)[1] for pid in workers]):
        raise RuntimeError("a worker failed; see above")
    return trials.open_study(trials.open_storage())


def replayed(trials: ShortTrials, n_workers: int) -> dict[str, Any]:
    """Let workers make a study, and compute their suggestions again."""
    study = made(trials, n_workers)
    result = again(study.optuna, study.sampler)
    saw_others = sum(n_running(t) > 1 for t in study.trials())  # one is itself
    return {
        "workers": n_workers,
        "same": result.n_same,
        "saw others": saw_others,
        "differing": result.differing,
    }


def n_running(trial: FrozenTrial) -> int:
    """Return how many trials a suggestion saw running."""
    groups = trial.user_attrs.get("history", {}).get("running", {})
    return sum(len(from_ranges(numbers)) for numbers in groups.values())


def ends(study: SharedStudy) -> dict[int, Any]:
    """Return what became of each trial."""
    spent = [t for t in study.trials() if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    return {
        t.user_attrs["ticket"]: (t.state.name, t.params, t.intermediate_values, t.value)
        for t in spent
    }


def resumed_equals_whole(base: ShortTrials, folder: Path) -> bool:
    """Return whether 13 trials, and 11 more by another process, are those of 24 in one go."""
    found = []
    for name, budgets in {"resumed": (13, 24), "whole": (24,)}.items():
        place = base.place if "://" in base.place else f"{base.place}-{name}"
        (folder / name).mkdir()
        # The study's name is a part of all seeds: the same in both, on a database one after the
        # other.
        trials = replace(base, place=place, folder=folder / name, name="resumed-or-whole")
        for n_trials in budgets:
            study = made(replace(trials, n_trials=n_trials), 1)
        found.append(ends(study))
        study.storage.delete_study(study.optuna._study_id)
    return found[0] == found[1] and len(found[0]) == 24


def main() -> int:
    """Measure and print; 1 where anything differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--storage", default="journal", help="sqlite, journal, or the URL of a PostgreSQL database"
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("replay.json"))
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        place = (
            f"{given.storage}:{folder}/study"
            if given.storage in ("sqlite", "journal")
            else given.storage
        )
        base = ShortTrials(place, Path(folder), n_trials=given.trials)
        stamp = int(time.time())
        rows = [replayed(replace(base, name=f"replay-{n}-{stamp}"), n) for n in given.workers]
        is_equal = resumed_equals_whole(base, Path(folder))
    table = Table(
        "workers", "suggestions the same again", "trials that saw others run", "that differ"
    )
    for row in rows:
        table.add_row(*(str(row[key]) for key in ("workers", "same", "saw others", "differing")))
    console = Console()
    console.print(table)
    console.print(
        f"13 trials and 11 more of a new process {'equal' if is_equal else 'DIFFER FROM'} 24 in "
        f"one go."
    )
    given.out.write_text(json.dumps({"replayed": rows, "resumed equals whole": is_equal}, indent=1))
    complete = all(row["same"] >= given.trials and not row["differing"] for row in rows)
    return int(not (complete and is_equal))


if __name__ == "__main__":
    sys.exit(main())
