"""What a calibration part of its own gives and costs, beside fitting on the validation part.

    python bench/calibration.py --cifar10 DIR --json docs/results/calibration.json

DIR holds CIFAR-10 as `data.path` takes it. A seed draws the data sets (from CIFAR-10 as many
training images as --pool, and the whole test set; from the digits another test part), the splits
and the trials. A search is a number of random learning rates of a dense net; val chooses an epoch
of each and one of them. There are three arms: the model trained on all that is not in val, its
temperature and conformal sets fitted on val; the model trained without the calibration part, fitted
on val; and the same model fitted on the calibration part.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from hpsearch import metrics
from hpsearch.data.datasets import Arrays, cifar10, digits
from hpsearch.data.split import Data, Examples, SearchData
from hpsearch.evaluation.calibration import scaled, temperature
from hpsearch.evaluation.conformal import ConformalSets
from hpsearch.metrics import Floats
from rows import machine

COVERAGE = 0.9
ARMS = ("all, val", "less, val", "less, calibration")
COLUMNS = (
    "coverage",
    "its distance from 90 %",
    "temperature",
    "ratio to the test's temperature",
    "NLL scaled",
    "NLL",
    "accuracy",
)


def of_digits(seed: int) -> Arrays:
    """Return the digits with another fifth of them as test part."""
    given = digits()
    x = np.concatenate([given.x_train, given.x_test])
    y = np.concatenate([given.y_train, given.y_test])
    order = np.random.default_rng(seed).permutation(len(y))
    test, train = order[:355], order[355:]
    return Arrays(x[train], y[train], x[test], y[test], given.class_names)


def of_cifar10(whole: Arrays, n: int, seed: int) -> Arrays:
    """Return CIFAR-10 with so many of its training images."""
    chosen = np.random.default_rng(seed).permutation(len(whole.y_train))[:n]
    return replace(whole, x_train=whole.x_train[chosen], y_train=whole.y_train[chosen])


class Searches:
    """Searches of a dense net on data of one form, which share one compiled model."""

    def __init__(self, data: SearchData, n_trials: int, epochs: int) -> None:
        self.n_trials, self.epochs = n_trials, epochs
        shape = data.image_shape
        layers = [keras.Input(shape), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
        for _ in range(2):
            layers += [keras.layers.Dense(128, activation="relu"), keras.layers.Dropout(0.2)]
        last = keras.layers.Dense(data.n_classes, activation="softmax")
        self.model = keras.Sequential([*layers, last])
        self.model.compile("adam", "sparse_categorical_crossentropy")

    def trained(self, data: SearchData, seed: int) -> tuple[float, list[Floats]]:
        """Train with a random learning rate; return the best val loss, and the weights then."""
        model = self.model
        keras.utils.set_random_seed(seed)
        for weight in model.trainable_variables:
            made = keras.initializers.Zeros()
            if len(weight.shape) == 2:
                made = keras.initializers.GlorotUniform(seed)
            weight.assign(made(weight.shape))
        for variable in model.optimizer.variables:
            variable.assign(np.zeros(variable.shape))
        model.optimizer.learning_rate = 10 ** np.random.default_rng(seed).uniform(-3.5, -2.3)
        best = keras.callbacks.EarlyStopping(
            "val_loss", patience=self.epochs, restore_best_weights=True
        )
        history = model.fit(
            data.train.inputs,
            data.train.targets,
            batch_size=64,
            epochs=self.epochs,
            validation_data=(data.val.inputs, data.val.targets),
            validation_batch_size=500,
            callbacks=[best],
            verbose=0,
        ).history
        return min(history["val_loss"]), model.get_weights()

    def best(self, data: SearchData, seed: int) -> keras.Model:
        """Return the model with the weights of the best of random trials."""
        trials = [self.trained(data, 1000 * seed + trial) for trial in range(self.n_trials)]
        self.model.set_weights(min(trials, key=lambda trial: trial[0])[1])
        return self.model


def measured(model: keras.Model, fitted_on: Examples, test: Examples) -> list[float]:
    """Return the measures of `COLUMNS` on test."""
    on_fit, on_test = (distributions(model, part) for part in (fitted_on, test))
    sets = ConformalSets(on_fit, fitted_on.targets, COVERAGE).of(on_test)
    found = temperature(on_fit, fitted_on.targets)
    covered = float(sets[np.arange(len(test)), test.targets].mean())
    return [
        covered,
        abs(covered - COVERAGE),
        found,
        found / temperature(on_test, test.targets),
        metrics.nll(scaled(on_test, found), test.targets),
        metrics.nll(on_test, test.targets),
        metrics.accuracy(on_test, test.targets),
    ]


def distributions(model: keras.Model, examples: Examples) -> Floats:
    """Return the distributions of a model, (N, C)."""
    return np.asarray(model.predict(examples.inputs, batch_size=1000, verbose=0), np.float64)


def of_seed(
    arrays: Arrays,
    n_val: int,
    seed: int,
    searches: list[Searches],
    given: argparse.Namespace,
) -> list[list[float]]:
    """Return the measures of the three arms for a seed."""
    before = Data(
        name="bench", load=lambda: arrays, path=None, n_train=None, n_val=n_val, split_seed=seed
    )
    after = replace(before, n_calibration=None)
    whole, less = before.for_search(), after.for_search()
    assert less.calibration is not None
    test = before.test()
    if not searches:
        searches.append(Searches(whole, given.trials, given.epochs))
    model = searches[0].best(whole, seed)
    found = [measured(model, whole.val, test)]
    model = searches[0].best(less, seed)
    return [*found, measured(model, less.val, test), measured(model, less.calibration, test)]


def lines(name: str, values: Floats) -> Iterator[str]:
    """Yield the rows of a data set; values are (seeds, arms, measures)."""
    means = values.mean(axis=0)
    errors = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    for arm, mean, error in zip(ARMS, means, errors, strict=True):
        cells = [f"{m:.4f} ± {e:.4f}" for m, e in zip(mean, error, strict=True)]
        yield f"| {name} | {arm} | {' | '.join(cells)} |"


def main() -> None:
    """Measure all seeds, print the table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar10", help="folder of CIFAR-10; without it, the digits alone")
    parser.add_argument("--pool", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    sources = {"digits": (of_digits, 287)}
    if given.cifar10:
        whole = cifar10(given.cifar10)
        sources["CIFAR-10"] = (lambda seed: of_cifar10(whole, given.pool, seed), 1000)
    found = {}
    began = time.time()
    print(f"| data | arm | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|", sep="\n")
    for name, (source, n_val) in sources.items():
        searches: list[Searches] = []
        rows = [of_seed(source(seed), n_val, seed, searches, given) for seed in range(given.seeds)]
        found[name] = rows
        for line in lines(name, np.array(rows)):
            print(line, flush=True)
    if given.json:
        settings = {key: getattr(given, key) for key in ("pool", "seeds", "trials", "epochs")}
        record = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine(),
            "seconds": round(time.time() - began),
            "settings": settings,
            "arms": ARMS,
            "measures": COLUMNS,
            "found": found,
        }
        given.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
