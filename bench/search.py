"""Count the epochs and seconds that searches take to a validation loss, with learning curves that
are replayed.

    python bench/search.py
    python bench/search.py --real --seeds 1 --overrides data=digits arch=elu
    python bench/search.py --record 112 --overrides data=cifar10 data.path=FOLDER \\
        data.n_train=5000 data.n_val=5000 training.batch_size=128 arch=elu arch.n_hidden=5

The first command replays the curves of bench/curves.json with 10 seeds. The second one trains in
place of reading the table. The third one trains and writes the curves, which takes half an hour.

A replayed trial has the curve of the recorded configuration that lies nearest. Everything else is
real: this project's studies, samplers and pruners as conf makes them, KerasTuner's oracles, Optuna
as its documentation shows it. The target is the loss that random search without pruning reaches
with 50 trials (median over the seeds), or as many as --random-trials says. Seconds are those of the
median epoch when the curves were recorded, and what the searcher takes.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import keras_tuner
import optuna
from optuna.storages.journal import BaseJournalBackend
from optuna_integration import MLflowCallback

from curves import HYPERPARAMETERS, Count, Curves, ReachedError, Reality, Table
from hpsearch.study.direction import Direction
from hpsearch.study.storage import SharedJournal
from hpsearch.study.study import SharedStudy
from hpsearch.study.trial_end import TrialEnd
from parts import composed, part
from rows import Row, run

MOST = 2  # a search is given up after so many times the epochs of those
NOT_PRUNED = ("sampler=random", "pruner=none")
OURS = {
    "random": NOT_PRUNED,
    "tpe": ("sampler=tpe", "pruner=none"),
    "tpe + median": ("sampler=tpe", "pruner=median"),
    "tpe + hyperband": ("sampler=tpe", "pruner=hyperband"),
    "tpe + promoting": ("sampler=tpe", "pruner=promoting"),
}
KERAS_TUNER = {
    "KerasTuner RandomSearch": keras_tuner.oracles.RandomSearchOracle,
    "KerasTuner BayesianOptimization": keras_tuner.oracles.BayesianOptimizationOracle,
    "KerasTuner Hyperband": keras_tuner.oracles.HyperbandOracle,
}
BUDGET = ("budget.n_trials=1000000", "budget.lease_s=1000000")


class Memory(BaseJournalBackend):
    """A journal in memory: a replay has thousands of epochs, and no other worker."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """As Optuna's."""
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """As Optuna's."""
        self.logs += logs


def record(given: argparse.Namespace) -> None:
    """Train configurations that fill the space evenly, and write their curves."""
    reality = Reality(given.overrides, given.epochs, given.seed)
    study = optuna.create_study(sampler=optuna.samplers.QMCSampler(seed=given.seed, scramble=True))
    space = part(composed(*given.overrides).space)
    records = []
    for number in range(given.record):
        trial = study.ask()
        values = {name: float(space.rules[name].draw(trial, name)) for name in HYPERPARAMETERS}
        records.append(
            {
                "values": values,
                "curve": [[round(a, 5), round(b, 4)] for a, b in reality.curve(values)],
            }
        )
        study.tell(trial, min(loss for loss, _ in records[-1]["curve"]))
        print(
            f"{number + 1}/{given.record}",
            {k: f"{v:.3g}" for k, v in values.items()},
            study.best_value,
            flush=True,
        )
        overrides = [override for override in given.overrides if not is_place(override)]
        text = json.dumps({"overrides": overrides, "epochs": given.epochs, "records": records})
        given.curves.write_text(text.replace('{"values"', '\n{"values"') + "\n")


def is_place(override: str) -> bool:
    """Return whether it says where data lies, which differs from machine to machine."""
    return override.startswith("data.path=")


def search_ours(overrides: tuple[str, ...], curves: Curves, seed: int, count: Count) -> None:
    """Search as a study of the project does."""
    config = composed(*curves.overrides, *overrides, f"training.epochs={curves.epochs}", *BUDGET)
    study = SharedStudy.open(
        f"bench-{seed}",
        storage=SharedJournal(Memory(), nullcontext),
        sampler=part(config.sampler, root_seed=seed),
        pruner=part(config.pruner),
        direction=Direction.MINIMIZE,
        budget=part(config.budget),
    )
    space = part(config.space)
    while (trial := study.claim()) is not None:
        curve = curves.curve(
            {name: space.rules[name].draw(trial, name) for name in HYPERPARAMETERS}
        )
        for epoch in range(trial.user_attrs.get("promoted", 0) + 1, len(curve) + 1):
            count.epoch(*curve[epoch - 1])
            study.report(trial, curve[epoch - 1][0], epoch)
            if epoch < len(curve) and study.should_stop(trial, epoch):
                study.pause(trial) if study.pauses else study.prune(trial, TrialEnd.PRUNED)
                break
        else:
            study.complete(trial, min(loss for loss, _ in curve))


def search_keras_tuner(make: Callable[..., Any], curves: Curves, seed: int, count: Count) -> None:
    """Search as a tuner of KerasTuner does, in the same space."""
    rules, hp = part(composed(*curves.overrides).space).rules, keras_tuner.HyperParameters()
    for name, sampling in zip(HYPERPARAMETERS, ("log", "reverse_log", "linear"), strict=True):
        hp.Float(name, rules[name].low, rules[name].high, sampling=sampling)
    is_hyperband = make is keras_tuner.oracles.HyperbandOracle
    size = (
        {"max_epochs": curves.epochs, "hyperband_iterations": 100}
        if is_hyperband
        else {"max_trials": 10**6}
    )
    objective = keras_tuner.Objective("val_loss", "min")
    fixed = {"tune_new_entries": False, "allow_new_entries": False}
    with tempfile.TemporaryDirectory() as folder:
        oracle = make(
            objective=objective, seed=seed + 1, hyperparameters=hp, **size, **fixed
        )  # it takes 0 for none
        oracle._set_project_dir(folder, "bench")
        oracle.verbose = 0
        while (trial := oracle.create_trial("worker")).status == "RUNNING":
            values = trial.hyperparameters.values
            curve = curves.curve(values)
            begin, end = (
                values.get("tuner/initial_epoch", 0),
                values.get("tuner/epochs", len(curve)),
            )
            for loss, seconds in curve[begin:end]:
                count.epoch(loss, seconds)
            oracle.update_trial(trial.trial_id, {"val_loss": min(loss for loss, _ in curve[:end])})
            trial.status = "COMPLETED"
            oracle.end_trial(trial)


def search_optuna(curves: Curves, seed: int, count: Count) -> None:
    """Search as Optuna's documentation shows it, with its callback that writes each trial to
    MLflow.
    """
    space = part(composed(*curves.overrides).space)

    def objective(trial: optuna.Trial) -> float:
        curve = curves.curve(
            {name: space.rules[name].draw(trial, name) for name in HYPERPARAMETERS}
        )
        for loss, seconds in curve:
            count.epoch(loss, seconds)
        return min(loss for loss, _ in curve)

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # the callback is experimental and deprecated, as it says for each trial
        told = MLflowCallback(tracking_uri=f"sqlite:///{folder}/mlflow.db", metric_name="val_loss")
        study.optimize(objective, n_trials=10**6, callbacks=[told])


def spend(
    search: Callable[..., None], *first: Any, curves: Curves, seed: int, target: float, most: int
) -> Count:
    """Run a search until it has its target or has spent all."""
    count, begin, trained_s = Count(target, most), time.perf_counter(), curves.trained_s
    with suppress(ReachedError):
        search(*first, curves, seed, count)
    count.search_s = time.perf_counter() - begin - (curves.trained_s - trained_s)
    return count


def less(what: str, theirs: float, ours: float, most: int, must: float) -> Row:
    """Return the row of how many times fewer epochs than theirs ours are; what never arrives counts
    `most` epochs.
    """
    if ours >= most:
        return Row(what, math.nan, "x", must, True, "ours did not come there")
    return Row(
        what,
        theirs / ours,
        "x",
        must,
        True,
        "at least: theirs did not come there" if theirs >= most else "",
    )


def measure(given: argparse.Namespace) -> Iterator[Row]:
    """Return all rows."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    curves = (
        Reality(given.overrides, given.epochs, given.seed) if given.real else Table(given.curves)
    )
    most, seeds = given.random_trials * curves.epochs, range(given.seed, given.seed + given.seeds)
    target = statistics.median(
        spend(search_ours, NOT_PRUNED, curves=curves, seed=seed, target=-math.inf, most=most).best
        for seed in seeds
    )
    most *= MOST
    arms: dict[str, tuple[Any, ...]] = {
        f"ours: {name}": (search_ours, o) for name, o in OURS.items()
    }
    arms |= {name: (search_keras_tuner, make) for name, make in KERAS_TUNER.items()}
    arms["Optuna with its MLflow callback"] = (search_optuna,)
    epochs = {}
    for name, (search, *first) in arms.items():
        found = [
            spend(search, *first, curves=curves, seed=seed, target=target, most=most)
            for seed in seeds
        ]
        missed = sum(count.best > target for count in found)
        epochs[name] = statistics.median(count.epochs for count in found)
        seconds = statistics.median(count.seconds for count in found)
        note = f"{seconds:.3g} s; {missed} of {len(found)} seeds never reached it"
        yield Row(f"epochs to val/loss {target:.4f}: {name}", epochs[name], "epochs", note=note)
    tuner = min(KERAS_TUNER, key=lambda name: epochs[name])
    for pruner in ("hyperband", "promoting"):
        ours, name = epochs[f"ours: tpe + {pruner}"], f"ours (tpe + {pruner})"
        yield less(f"random without pruning / {name}", epochs["ours: random"], ours, most, 3)
        yield less(f"{tuner}, the best of KerasTuner / {name}", epochs[tuner], ours, most, 1.5)
    stopping, promoting = (epochs[f"ours: tpe + {pruner}"] for pruner in ("hyperband", "promoting"))
    yield less("ours, hyperband that stops / promoting", stopping, promoting, most, 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--curves", type=Path, default=Path(__file__).with_name("curves.json"))
    parser.add_argument("--record", type=int, default=0, help="train so many configurations first")
    parser.add_argument(
        "--overrides", nargs="+", default=["data=digits", "arch=elu"], help="what to train"
    )
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--random-trials", type=int, default=50, help="set the target")
    parser.add_argument("--real", action="store_true")
    known, _ = parser.parse_known_args()
    if known.record:
        known.seed = 0
        record(known)
    run("search", parser, measure)
