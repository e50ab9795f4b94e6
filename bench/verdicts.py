"""Count the false verdicts of `hpsearch.evaluation.differences` on simulated predictions.

    python bench/verdicts.py --json docs/results/verdicts.json
    python bench/verdicts.py --parts masks --cifar10 FOLDER --json docs/results/verdict_masks.json

A quarter of an hour on one core. FOLDER holds CIFAR-10; without it, Keras downloads it.

The parts are:

- nulls: pairs of arms that have the same value of some measures. A verdict other than "no
  detectable difference" on such a measure is a false call. At level 0.05 at most 65 of 1,000 pairs
  may have one, which is two standard errors above 50.
- power: how often a true difference of the NLL is found, in units of the detectable difference.
- gate: how often a challenger that is as good as the champion is promoted.
- masks: whether the verdicts on one model are the same for 20 root seeds of its dropout masks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from keras import layers

from hpsearch import metrics
from hpsearch.data import datasets
from hpsearch.data.split import Examples
from hpsearch.evaluation.differences import DEPENDS, LABELS, NONE, compare
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.evaluation.settings import MEASURES
from hpsearch.evaluation.verdict import Verdict
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.metrics import Floats, Ints
from hpsearch.serving.registration import Registration
from rows import Row, run

LEVEL = 0.05
PARTS = ("nulls", "power", "gate", "masks")
Pair = tuple[Floats, Floats, Ints]
Generator = np.random.Generator


class Null(NamedTuple):
    """Pairs of arms that have the same value of some measures.

    Attributes:
        name: What is equal, and what is not.
        pair: Draws N examples with the distributions of both arms.
        n_examples: N.
        equal: The measures of which both arms have the same value.
    """

    name: str
    pair: Callable[[Generator, int], Pair]
    n_examples: int
    equal: tuple[str, ...]


def softmax(logits: Floats) -> Floats:
    """Return distributions, (N, C)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def drawn(probs: Floats, rng: Generator) -> Ints:
    """Return labels that have these distributions, (N,)."""
    edges = probs.cumsum(axis=1)
    places = (edges < rng.random((len(probs), 1))).sum(axis=1)
    return np.minimum(places, probs.shape[1] - 1)


def exchangeable(n_classes: int) -> Callable[[Generator, int], Pair]:
    """Return pairs of arms that differ by noise of the same kind."""

    def pair(rng: Generator, n: int) -> Pair:
        labels = rng.integers(0, n_classes, n)
        shared = rng.normal(size=(n, n_classes)) + 1.5 * np.eye(n_classes)[labels]
        first, second = (
            softmax(shared + rng.normal(scale=0.7, size=(n, n_classes))) for _ in range(2)
        )
        return first, second, labels

    return pair


def opposite(sharp: float) -> Callable[[Generator, int], Pair]:
    """Return pairs of an overconfident and an equally underconfident arm.

    Args:
        sharp: Temperature of the overconfident arm. That of the other one is found by bisection.
    """
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=(200_000, 10))
    truth = softmax(logits)
    wanted = true_squared_error(softmax(logits / sharp), truth)
    low, high = 1.0, 2.0
    for _ in range(14):
        soft = (low + high) / 2
        if true_squared_error(softmax(logits / soft), truth) < wanted:
            low = soft
        else:
            high = soft

    def pair(rng: Generator, n: int) -> Pair:
        logits = rng.normal(scale=2, size=(n, 10))
        labels = drawn(softmax(logits), rng)
        return softmax(logits / sharp), softmax(logits / soft), labels

    return pair


def true_squared_error(probs: Floats, truth: Floats) -> float:
    """Return the squared calibration error of an arm whose labels have known distributions."""
    predicted = probs.argmax(axis=1)
    confidence = probs.max(axis=1)
    bins = metrics.Reliability.equal_width(confidence)
    gaps = truth[np.arange(len(truth)), predicted] - confidence
    sums = np.bincount(bins, gaps)
    counts = np.maximum(np.bincount(bins), 1)
    return float((sums**2 / counts).sum() / len(truth))


def skewed(rng: Generator, n: int) -> Pair:
    """Draw arms of equal NLL: the second is better in most examples and much worse in a few."""
    losses = rng.lognormal(sigma=1.0, size=n) - np.exp(0.5)
    return with_losses(rng, 0.1 * losses)


def rarely_worse(rng: Generator, n: int) -> Pair:
    """Draw arms of equal NLL: the second is better by 0.1, and worse by 0.9 in 10 % of examples."""
    return with_losses(rng, np.where(rng.random(n) < 0.1, 0.9, -0.1))


def with_losses(rng: Generator, losses: Floats) -> Pair:
    """Draw arms whose NLLs differ by what is given for each example, (N,)."""
    n, n_classes = len(losses), 10
    labels = rng.integers(0, n_classes, n)
    first = -np.log(rng.uniform(0.3, 0.6, n))
    shares = rng.dirichlet(np.ones(n_classes - 1), n)
    arms = []
    for nll in (first, first + losses):
        probs = np.empty((n, n_classes))
        others = np.arange(n_classes)[None, :] != labels[:, None]
        probs[~others] = np.exp(-nll)
        probs[others] = (shares * (1 - np.exp(-nll))[:, None]).ravel()
        arms.append(probs)
    return arms[0], arms[1], labels


def calibrated(rng: Generator, n: int) -> Pair:
    """Draw arms that are both calibrated, the second of which knows more."""
    logits = rng.normal(size=(n, 2))
    labels = drawn(softmax(np.stack([logits.sum(axis=1), np.zeros(n)], axis=1)), rng)
    nodes, weights = np.polynomial.hermite_e.hermegauss(30)
    known = 1 / (1 + np.exp(-(logits[:, :1] + nodes)))
    vague = known @ (weights / weights.sum())
    sharp = 1 / (1 + np.exp(-logits.sum(axis=1)))
    first, second = (np.stack([chance, 1 - chance], axis=1) for chance in (vague, sharp))
    return first, second, labels


def nulls() -> list[Null]:
    """Return all nulls."""
    calibration = ("accuracy", "squared_calibration_error")
    return [
        Null("exchangeable", exchangeable(10), 1000, MEASURES),
        Null("opposite, strong", opposite(0.8), 1000, calibration),
        Null("opposite, mild", opposite(0.95), 1000, calibration),
        Null("equal NLL, skewed", skewed, 300, ("nll",)),
        Null("two classes", exchangeable(2), 500, MEASURES),
        Null("100 examples", exchangeable(10), 100, MEASURES),
        Null("both calibrated", calibrated, 1000, ("squared_calibration_error",)),
        Null("equal NLL, skewed, 100 examples", skewed, 100, ("nll",)),
        Null("equal NLL, rarely worse, 100 examples", rarely_worse, 100, ("nll",)),
    ]


def truth_of(null: Null) -> dict[str, float]:
    """Return the true difference of each measure, from many examples where it is not 0."""
    first, second, labels = null.pair(np.random.default_rng(1), 400_000)
    before = metrics.summary(first, labels)
    after = metrics.summary(second, labels)
    name = "squared_calibration_error"
    before[name] = squared_error(first, labels)
    after[name] = squared_error(second, labels)
    found = {measure: after[measure] - before[measure] for measure in MEASURES}
    return found | dict.fromkeys(null.equal, 0.0)


def squared_error(probs: Floats, labels: Ints) -> float:
    """Return the squared calibration error of so many examples that its bias is negligible."""
    confidence = probs.max(axis=1)
    bins = metrics.Reliability.of(confidence, metrics.correct(probs, labels))
    squares = bins.count * (bins.accuracy - bins.confidence) ** 2
    return float(squares.sum() / len(labels))


class Tally:
    """Counts of false calls, and of intervals that hold the true difference.

    Args:
        null: The pairs that are compared.
    """

    def __init__(self, null: Null) -> None:
        self.null = null
        self.truth = truth_of(null)
        self.false = dict.fromkeys(MEASURES, 0)
        self.held = dict.fromkeys(MEASURES, 0)
        self.any_false = 0

    def add(self, seed: int, repeat: int, n_resamples: int) -> None:
        """Compare one more pair."""
        rng = np.random.default_rng([seed, repeat])
        pair = self.null.pair(rng, self.null.n_examples)
        found = compare(*pair, n_resamples=n_resamples, level=LEVEL, seed=repeat)
        is_false = False
        for difference in found:
            name = difference.measure
            self.held[name] += difference.low <= self.truth[name] <= difference.high
            called = difference.verdict(LEVEL) != NONE
            if called != (difference.low > 0 or difference.high < 0):
                raise ValueError(f"Expected a verdict as its interval. Received: {difference}.")
            if called and name in self.null.equal:
                self.false[name] += 1
                is_false = True
        self.any_false += is_false

    def rows(self, repeats: int) -> Iterator[Row]:
        """Return the counts of so many pairs."""
        must = (LEVEL + 0.015) * repeats
        unit = f"of {repeats}"
        name = f"{self.null.name}, n = {self.null.n_examples}"
        yield Row(f"{name}: false calls of any kind", self.any_false, unit, must)
        for measure in MEASURES:
            covered = (
                f"the interval holds the true difference in {self.held[measure] / repeats:.1%}"
            )
            if measure in self.null.equal:
                what = f"{name}: false calls in {LABELS[measure]}"
                yield Row(what, self.false[measure], unit, must, note=covered)
            else:
                what = f"{name}: intervals of {LABELS[measure]} without the true difference"
                yield Row(what, repeats - self.held[measure], unit, note=covered)


def of_nulls(given: argparse.Namespace) -> Iterator[Row]:
    """Count false calls and the intervals that hold the true difference."""
    for null in nulls():
        tally = Tally(null)
        for repeat in range(given.repeats):
            tally.add(given.seed, repeat, given.n_resamples)
        yield from tally.rows(given.repeats)


def of_power(given: argparse.Namespace) -> Iterator[Row]:
    """Measure how often a difference of the NLL is found, in units of the detectable one."""
    place = MEASURES.index("nll")

    def found(effect: float, repeat: int) -> tuple[float, bool]:
        """Return the detectable difference of one pair, and whether its difference is found."""
        rng = np.random.default_rng([given.seed, repeat, 1])
        pair = with_losses(rng, rng.uniform(-0.5, 0.5, 300) + effect)
        differences = compare(*pair, n_resamples=given.n_resamples, level=LEVEL, seed=repeat)
        return differences[place].detectable, differences[place].verdict(LEVEL) == "worse"

    at_null = [found(0.0, repeat)[0] for repeat in range(100)]
    detectable = float(np.mean(at_null))
    yield Row("the detectable difference of the NLL, n = 300", detectable, "nats")
    for part in (0.25, 0.5, 0.75, 0.92, 1.0, 1.19, 1.5):
        shares = [found(part * detectable, repeat)[1] for repeat in range(given.repeats)]
        what = f"power at {part} detectable differences of the NLL"
        must = None
        if part == 1.0:
            must = 0.77  # 80 %, less two standard errors of 1,000 repeats
        yield Row(what, float(np.mean(shares)), "", must, least=True)


def of_gate(given: argparse.Namespace) -> Iterator[Row]:
    """Count how often the gate promotes a challenger that is as good as the champion."""
    settings = mc_dropout(seed=0, n_samples=1)
    champion, challenger = (half(place) for place in range(2))
    gate = Registration(0.9, "nll", LEVEL, given.n_resamples, seed=0)
    promoted = 0
    for repeat in range(given.repeats):
        rng = np.random.default_rng([given.seed, repeat, 2])
        first, second, labels = exchangeable(10)(rng, 300)
        logits = np.log(np.hstack([first, second])).astype(np.float32)
        val = Examples(logits, labels)
        is_better, _ = gate.compare(challenger, champion, val, settings, settings)
        promoted += is_better
    must = (LEVEL + 0.015) * given.repeats
    yield Row("equally good challengers that are promoted", promoted, f"of {given.repeats}", must)


def half(place: int) -> keras.Model:
    """Return a model whose distributions are given by the first or second half of its inputs."""
    inputs = keras.Input((20,))
    dense = layers.Dense(10, "softmax", use_bias=False)
    model = keras.Model(inputs, dense(inputs))
    kernel = np.zeros((20, 10))
    kernel[10 * place : 10 * (place + 1)] = np.eye(10)
    dense.set_weights([kernel])
    return model


def mc_dropout(seed: int, n_samples: int) -> McDropout:
    """Return settings of MC Dropout."""
    return McDropout(
        n_samples=n_samples,
        shared_masks=False,
        seed=seed,
        batch_size=1000,
        memory_mb=256,
        from_logits=False,
    )


def of_masks(given: argparse.Namespace) -> Iterator[Row]:
    """Compare the verdicts on one model over 20 root seeds of its masks."""
    digits = datasets.digits()
    yield from over_seeds("digits", trained(digits, 1500, 40), digits, 100, given)
    folder = None
    if given.cifar10:
        folder = str(given.cifar10)
    cifar10 = datasets.cifar10(folder)
    yield from over_seeds("CIFAR-10", trained(cifar10, 5000, 8), cifar10, 20, given)


def trained(data: datasets.Arrays, n: int, epochs: int) -> keras.Model:
    """Return a small net that was trained on the first examples."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(data.x_train.shape[1:])
    hidden = layers.Rescaling(1 / 255)(inputs)
    if data.x_train.shape[-1] == 3:
        hidden = layers.Conv2D(16, 3, strides=2, activation="relu")(hidden)
        hidden = layers.Conv2D(32, 3, strides=2, activation="relu")(hidden)
    hidden = layers.Dropout(0.4)(layers.Dense(64, "relu")(layers.Flatten()(hidden)))
    model = keras.Model(inputs, layers.Dense(10, "softmax")(hidden))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(data.x_train[:n], data.y_train[:n], epochs=epochs, verbose=0)
    return model


def over_seeds(
    name: str,
    model: keras.Model,
    data: datasets.Arrays,
    n_samples: int,
    given: argparse.Namespace,
) -> Iterator[Row]:
    """Count the verdicts of each measure over 20 root seeds, and the pairs that contradict."""
    test = Examples(data.x_test[:2000], data.y_test[:2000].astype(np.int64))
    verdict = Verdict(level=LEVEL, n_resamples=given.n_resamples, n_seeds=5, seed=0)
    said: dict[str, list[str]] = {}
    for seed in range(20):
        settings = mc_dropout(seed, n_samples)
        section = verdict.examine(EvaluatedModel(model, settings, val=test, test=test))
        for row in section.table[1:-1]:
            said.setdefault(row[0], []).append(row[-1])
    for measure, verdicts in said.items():
        kinds = [text.partition(" (")[0] for text in verdicts]
        plain = [kind for kind in kinds if kind != DEPENDS]
        pairs = sum(a != b for place, a in enumerate(plain) for b in plain[:place])
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        what = f"{name}, S = {n_samples}, {measure}: pairs of pages that contradict silently"
        yield Row(what, pairs, "of 190", 0, note=counts)


def measured(given: argparse.Namespace) -> Iterator[Row]:
    """Measure the parts that the command line names."""
    parts = {"nulls": of_nulls, "power": of_power, "gate": of_gate, "masks": of_masks}
    for name in given.parts:
        yield from parts[name](given)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[:3])
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--n-resamples", type=int, default=400)
    parser.add_argument("--cifar10", type=Path, help="folder of CIFAR-10")
    run("verdicts", parser, measured)


if __name__ == "__main__":
    main()
