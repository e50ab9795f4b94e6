"""Measure what trials cost beyond their training: time, memory after many in one process, files
left on disk.

    python bench/memory.py            about 12 minutes on two quiet cores
    python bench/memory.py --quick

Real trials, with a study in SQLite, MLflow in SQLite and kept models. Memory: small trials on the
digits, one process, the median resident size around the 20th and the 200th. Time: trials of 10
epochs on images of CIFAR-10's shape, the first (which compiles) told apart; a trial's cost beyond
training is its wall-clock time, from its claim until all of it has arrived in MLflow, less that of
its epochs.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import optuna
import psutil
from rich.console import Console

from hpsearch.data.split import SearchData
from hpsearch.jobs.conclusion import Conclusion
from hpsearch.study.study import SharedStudy, number_of
from hpsearch.trials.objective import Objective
from hpsearch.trials.progress import Progress
from parts import composed, hypermodel, like_cifar, part
from rows import Row, run


def objective(config: Any, data: SearchData) -> Objective:
    """Return what runs the trials of a search, as `jobs.Search` puts it together."""
    training = part(config.training)
    study = SharedStudy.open(
        "bench",
        storage=part(config.storage)(),
        sampler=part(config.sampler, root_seed=config.seed),
        pruner=part(config.pruner),
        direction=training.goal,
        budget=part(config.budget),
    )
    tracking, space = part(config.tracking)(), part(config.space)
    trainer = part(config.trainer, settings=training, data=data)
    trainer.remembered_proofs = study.remembered_proofs
    parent = tracking.open_parent("bench", None, {})
    costs, registration, uncertainty = (
        part(config.costs),
        part(config.registration),
        part(config.uncertainty),
    )
    conclusion = Conclusion(
        "bench", study, tracking, parent, space, training, costs, registration, uncertainty, {}
    )
    return Objective(
        make=lambda hp: hypermodel(config, data),
        space=space,
        trainer=trainer,
        study=study,
        tracking=tracking,
        parent=parent,
        keep_model=conclusion.keep,
        costs=costs,
        checkpoints=part(config.checkpoints),
        progress=Progress(
            training.monitor, training.epochs, training.goal, Console(file=io.StringIO())
        ),
        settings={},
        root_seed=config.seed,
    )


def run_trials(made: Objective) -> Iterator[tuple[float, float]]:
    """Run all trials; yield of each its seconds, and how many of them were epochs."""
    begin = time.perf_counter()
    while (trial := made.claim()) is not None:
        made.run(trial)
        made.tracking.spool.drain(60)  # which in a search goes on beside the next trial
        spent = time.perf_counter() - begin
        child = made.tracking.find_child(made.parent, number_of(trial))
        history = made.tracking.client.get_metric_history(child.info.run_id, "time/epoch_s")
        yield spent, sum(metric.value for metric in history)
        begin = time.perf_counter()
    made.end_paused()


def memory_rows(given: argparse.Namespace) -> Iterator[Row]:
    """Return the rows of memory and disk."""
    few, many = given.trials // 10, given.trials
    config = composed(
        "data=digits", "data.n_train=200", "arch=elu", "training.epochs=3",
        "pruner=promoting", "pruner.min_resource=1", f"budget.n_trials={many}", "sampler=random",
    )  # fmt: skip
    process, sizes = psutil.Process(), []
    for _ in run_trials(objective(config, part(config.data).for_search())):
        sizes.append(process.memory_info().rss / 2**20)
    early, late = (
        statistics.median(sizes[max(0, n - max(3, few // 4)) : n]) for n in (few, len(sizes))
    )
    yield Row(
        f"memory after {many} trials / after {few}",
        late / early,
        "x",
        1.1,
        note=f"{late:.0f} and {early:.0f} MiB",
    )
    left = [path for path in Path("checkpoints").rglob("*") if path.is_file()]
    yield Row(f"checkpoints left after {many} trials", len(left), "files", 0)


def cost_rows(given: argparse.Namespace) -> Iterator[Row]:
    """Return the rows of time."""
    config = composed(
        f"arch={given.arch}", "training.epochs=10", "pruner=none",
        f"budget.n_trials={given.cost_trials}", "storage.path=cost.db", "sampler=tpe",
    )  # fmt: skip
    first, *rest = run_trials(objective(config, like_cifar(given.n_train, 5000, given.seed)))
    share = statistics.median((spent - epochs) / spent for spent, epochs in rest)
    shown = (
        f"{statistics.median(s for s, _ in rest):.1f} s a trial; "
        f"the first, which compiles, {first[0]:.1f} s"
    )
    yield Row(
        "a trial's cost beyond training / the whole, CIFAR-10, 10 epochs",
        share,
        "",
        0.1,
        note=shown,
    )


def measure(given: argparse.Namespace) -> Iterator[Row]:
    """Return all rows."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        yield from cost_rows(given)
        yield from memory_rows(given)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="elu")
    parser.add_argument("--n-train", type=int, default=45000)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--cost-trials", type=int, default=4)
    parser.add_argument("--quick", action="store_true")
    known, _ = parser.parse_known_args()
    if known.quick:
        parser.set_defaults(n_train=320, trials=20, cost_trials=2)
    run("memory", parser, measure)
