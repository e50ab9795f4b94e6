"""Workers whose trials train nothing, against plain Optuna: same database or file, sampler, pruner,
workers.

    python bench/storage.py --workers 64 \\
        --storage postgresql+psycopg://user@host:port/database
    python bench/storage.py --storage journal --workers 8 --history 100 5000

Prints trials a second of both, their ratio, what was lost or counted twice, and with --history what
a trial costs in studies of those sizes; writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import optuna
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial
from rich.console import Console
from rich.table import Table

from hpsearch.study.study import SharedStudy

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from short_trials import ShortTrials, fork, loss

N_REPORTS = 10


def ours(trials: ShortTrials) -> None:
    """Be a worker."""
    spend(trials.open_study(trials.open_storage()))


def spend(study: SharedStudy) -> None:
    """Claim trials, report, end them, until the budget is spent."""
    while (trial := study.claim()) is not None:
        with study.lease(trial).kept():
            rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
            momentum = trial.suggest_float("momentum", 0.8, 0.99)
            trial.suggest_float("dropout_rate", 0.0, 0.5)
            for epoch in range(1, N_REPORTS + 1):
                study.report(trial, loss(rate, momentum, epoch), epoch)
                study.should_stop(trial, epoch)
            study.complete(trial, loss(rate, momentum, N_REPORTS))


def storage_of_optuna(place: str) -> BaseStorage:
    """Open Optuna's own storage in the same place."""
    kind, _, path = place.partition(":")
    if kind == "journal":
        return JournalStorage(JournalFileBackend(path))
    # The tables are there; each worker's check of them needs a second connection, and a server has
    # 100 as it comes.
    url = f"sqlite:///{path}" if kind == "sqlite" else place
    return RDBStorage(url, skip_compatibility_check=True, skip_table_creation=True)


def plain(trials: ShortTrials) -> None:
    """The same with Optuna alone, whose callback stops it near the budget."""
    storage = storage_of_optuna(trials.place)
    study = optuna.load_study(
        study_name=trials.name,
        storage=storage,
        sampler=TPESampler(n_startup_trials=5, seed=random.Random(os.getpid()).randrange(2**31)),
        pruner=optuna.pruners.HyperbandPruner(
            min_resource=1, max_resource=N_REPORTS, reduction_factor=3
        ),
    )

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
        momentum = trial.suggest_float("momentum", 0.8, 0.99)
        trial.suggest_float("dropout_rate", 0.0, 0.5)
        for epoch in range(1, N_REPORTS + 1):
            trial.report(loss(rate, momentum, epoch), epoch)
            trial.should_prune()
        return loss(rate, momentum, N_REPORTS)

    ends = optuna.study.MaxTrialsCallback(
        trials.n_trials, states=(TrialState.COMPLETE, TrialState.PRUNED)
    )
    study.optimize(objective, callbacks=[ends], n_trials=trials.n_trials)


def rate_of(work: object, trials: ShortTrials, n_workers: int) -> dict[str, float]:
    """Return trials a second of `n_workers` workers, and what went wrong."""
    os.waitpid(fork(lambda: trials.open_study(trials.open_storage())), 0)
    begin = time.monotonic()
    workers = [fork(lambda: work(trials)) for _ in range(n_workers)]  # type: ignore[operator]
    failed = sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 for pid in workers)
    seconds = time.monotonic() - begin
    found = trials.open_study(trials.open_storage()).trials()
    spent = [t for t in found if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    return {"per_s": len(spent) / seconds, "spent": len(spent), "failed workers": failed}


def cost_at(trials: ShortTrials, n_before: int) -> float:
    """Return the seconds that a trial costs one worker in a study that holds `n_before` trials."""
    study = trials.open_study(trials.open_storage())
    rng = random.Random(0)
    for number in range(n_before):
        values = {"learning_rate": 10 ** rng.uniform(-4, -1), "momentum": rng.uniform(0.8, 0.99)}
        kinds = {
            "learning_rate": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
            "momentum": optuna.distributions.FloatDistribution(0.8, 0.99),
        }
        study.optuna.add_trial(
            create_trial(
                params=values,
                distributions=kinds,
                value=rng.random(),
                user_attrs={"ticket": number},
            )
        )
    n_timed = 10
    study.budget = replace(study.budget, n_trials=n_before + 1)
    spend(study)  # fills the caches that a worker has
    study.budget = replace(study.budget, n_trials=n_before + 1 + n_timed)
    begin = time.monotonic()
    spend(study)
    return (time.monotonic() - begin) / n_timed


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--storage", default="journal", help="sqlite, journal, or the URL of a PostgreSQL database"
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--history", type=int, nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path("storage.json"))
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        place = (
            f"{given.storage}:{folder}/study"
            if given.storage in ("sqlite", "journal")
            else given.storage
        )
        base = ShortTrials(place, Path(folder), n_trials=given.trials, n_epochs=N_REPORTS)
        stamp = int(time.time())
        for n_workers in given.workers:
            mine = rate_of(ours, replace(base, name=f"ours-{n_workers}-{stamp}"), n_workers)
            # A journal of its own: its reader goes through the whole file.
            other = f"{place}-plain" if given.storage == "journal" else place
            theirs = rate_of(
                plain, replace(base, name=f"plain-{n_workers}-{stamp}", place=other), n_workers
            )
            ratio = mine["per_s"] / theirs["per_s"]
            rows.append(
                {"workers": n_workers, "ours": mine, "plain Optuna": theirs, "ratio": ratio}
            )
        costs = {n: cost_at(replace(base, name=f"history-{n}-{stamp}"), n) for n in given.history}
    table = Table(
        "workers",
        "ours, trials/s",
        "plain Optuna",
        "ratio",
        "spent",
        "failed workers, ours and theirs",
    )
    for row in rows:
        mine, theirs = row["ours"], row["plain Optuna"]
        cells = [f"{mine['per_s']:.1f}", f"{theirs['per_s']:.1f}", f"{row['ratio']:.2f}"]  # type: ignore[index]
        failed = f"{mine['failed workers']}, {theirs['failed workers']}"  # type: ignore[index]
        table.add_row(str(row["workers"]), *cells, f"{mine['spent']} of {given.trials}", failed)  # type: ignore[index]
    console = Console()
    console.print(table)
    for n, seconds in costs.items():
        console.print(f"A trial in a study of {n}: {1000 * seconds:.1f} ms")
    given.out.write_text(json.dumps({"rates": rows, "seconds a trial by history": costs}, indent=1))


if __name__ == "__main__":
    main()
