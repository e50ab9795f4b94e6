"""Kill workers with -9 at random moments while they share a study; at its end nothing may be lost
or counted twice.

    python bench/chaos.py --storage journal --trials 200 --kills 100 --workers 4
    python bench/chaos.py --storage postgresql+psycopg://user@host:port/database

It prints a table and writes it as JSON; the exit status is 1 where anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from optuna.trial import TrialState
from rich.console import Console
from rich.table import Table

from hpsearch.jobs.diagnosis import Diagnosis
from hpsearch.study.replay import replay

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from short_trials import SPACE, ShortTrials, fork


def storm(trials: ShortTrials, n_workers: int, n_kills: int, seed: int) -> int:
    """Run workers, kill and replace them; return how many were killed."""
    os.waitpid(fork(trials.open), 0)  # MLflow's tables take longer than all the trials
    rng, workers, killed = random.Random(seed), {fork(trials.work) for _ in range(n_workers)}, 0
    claims, length_s = trials.folder / "claims", trials.n_epochs * trials.epoch_s
    while workers:
        n_claims = claims.stat().st_size if claims.exists() else 0
        if killed < n_kills and n_claims > (killed + 1) * trials.n_trials / (n_kills + 1):
            time.sleep(rng.uniform(0, length_s))
            os.kill(rng.choice(sorted(workers)), signal.SIGKILL)
            killed += 1
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            workers.remove(pid)
            if os.WIFSIGNALED(status):
                workers.add(fork(trials.work))
            elif os.waitstatus_to_exitcode(status):
                raise RuntimeError("a worker failed; see above")
        time.sleep(0.01)
    return killed


def judge(trials: ShortTrials) -> dict[str, object]:
    """Return what has become of the study and of its runs."""
    study, tracking, parent = trials.open()
    tracking.spool.send_abandoned()
    diagnosis = Diagnosis(study, tracking, parent, SPACE, queue=None)
    for finding in diagnosis.findings():
        if finding.text.startswith("No trial runs"):
            parent.end("FINISHED")  # what the job does that concludes a study
    states = Counter(t.state for t in study.trials())
    spent = [t for t in study.trials() if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    tickets = {t.user_attrs["ticket"] for t in spent}
    result = replay(study.optuna, study.sampler)
    tracking.close(tracking.patience_s)
    return {
        "finished": states[TrialState.COMPLETE],
        "pruned": states[TrialState.PRUNED],
        "distinct": len(tickets),
        "running": states[TrialState.RUNNING],
        "waiting": states[TrialState.WAITING],
        "tried again": sum("retry_of" in t.user_attrs for t in study.trials()),
        "suggestions replayed": result.n_same,
        "suggestions that differ": result.differing,
        "disagreements with MLflow": [finding.text for finding in diagnosis.findings()],
    }


def main() -> int:
    """Run the storm and print what is left."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--storage", default="journal", help="sqlite, journal, or the URL of a PostgreSQL database"
    )
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--epoch-s", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("chaos.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = (
            f"{given.storage}:{folder}/study"
            if given.storage in ("sqlite", "journal")
            else given.storage
        )
        trials = ShortTrials(place, Path(folder), n_trials=given.trials, epoch_s=given.epoch_s)
        begin = time.monotonic()
        killed = storm(trials, given.workers, given.kills, given.seed)
        rows = {"killed": killed, "seconds": round(time.monotonic() - begin, 1), **judge(trials)}
    table = Table(f"{given.trials} trials, {given.workers} workers", given.storage.split(":")[0])
    for key, value in rows.items():
        table.add_row(key, str(value))
    Console().print(table)
    given.out.write_text(json.dumps(rows, indent=1))
    n_spent = int(str(rows["finished"])) + int(str(rows["pruned"]))
    wrong = rows["disagreements with MLflow"] or rows["suggestions that differ"] or rows["running"]
    return int(bool(wrong) or not n_spent == rows["distinct"] == given.trials)


if __name__ == "__main__":
    sys.exit(main())
