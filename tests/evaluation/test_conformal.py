"""Conformal sets: hand-worked cases, the coverage that they promise, and odd calibration parts."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from hpsearch.errors import ConfigError
from hpsearch.evaluation.conformal import Conformal, ConformalSets, fewest, regularized_adaptive


def drawn(n, seed, n_classes=4):
    """Return distributions, and labels that are drawn from them."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(n_classes), n)
    labels = (rng.random((n, 1)) > probs.cumsum(axis=1)).sum(axis=1).clip(max=n_classes - 1)
    return probs, labels


def raps(probs):
    return regularized_adaptive(probs, 0.1, 1)


class Given(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose examples are its distributions, as MAPIE takes them."""

    classes_ = np.arange(4)

    def fit(self, probs, labels):
        return self

    def predict_proba(self, probs):
        return probs

    def predict(self, probs):
        return probs.argmax(axis=1)


def test_the_limit_on_a_hand_worked_case():
    # Nine probabilities of the label, 0.1 to 0.9; coverage 0.8 wants the ceil(10 * 0.8) = 8th
    # smallest score -p: p = 0.2.
    p, labels = np.arange(1, 10) / 10, np.arange(9) % 2
    probs = np.stack([np.where(labels == 0, p, 1 - p), np.where(labels == 1, p, 1 - p)], axis=1)
    assert ConformalSets(probs, labels, 0.8).threshold == pytest.approx(0.2)


def test_the_scores_of_raps_on_a_hand_worked_case():
    probs = np.array([[0.2, 0.5, 0.0, 0.3]])
    # In order 0.5, 0.3, 0.2, 0: the mass before is 0, 0.5, 0.8, 1; places 2, 3, 4 cost 0.1 each.
    assert regularized_adaptive(probs, 0.1, 1)[0] == pytest.approx([1.0, 0.0, 1.3, 0.6])
    assert regularized_adaptive(probs, 0.1, 3)[0] == pytest.approx([0.8, 0.0, 1.1, 0.5])


def test_sets_are_those_of_mapie():
    mapie = pytest.importorskip("mapie.classification")
    probs, labels = drawn(4000, 2)
    theirs = mapie.SplitConformalClassifier(Given(), 0.9, conformity_score="lac", prefit=True)
    theirs.conformalize(probs[:2000], labels[:2000])
    _, held = theirs.predict_set(probs[2000:])
    mine = ConformalSets(probs[:2000], labels[:2000], 0.9)
    np.testing.assert_array_equal(mine.of(probs[2000:]), held[:, :, 0])
    np.testing.assert_array_equal(mine.of(probs), probs >= mine.threshold)


@pytest.mark.parametrize("options", [{}, {"scores": raps}, {"per_class": True}])
def test_coverage_falls_into_its_interval_as_often_as_it_says(options):
    n_below = n_above = 0
    for seed in range(200):
        probs, labels = drawn(300, seed)
        sets = ConformalSets(probs[:120], labels[:120], 0.8, **options)
        tested = labels[120:]
        covered = sets.of(probs[120:])[np.arange(180), tested].mean()
        low, high = sets.by_chance(tested, 0.1)
        n_below += covered < low
        n_above += covered > high
    assert n_below <= 20
    assert n_above <= 20
    assert n_below + n_above >= 5


def test_the_interval_on_a_hand_worked_case():
    # One calibration example and coverage 0.5: k = 1, so the coverage is uniform on [0, 1].
    sets = ConformalSets(np.array([[0.6, 0.4]]), np.array([0]), 0.5)
    low, high = sets.by_chance(np.zeros(99, int), 0.21)
    assert (low, high) == pytest.approx((10 / 99, 89 / 99))


def test_the_most_probable_class_is_in_every_set_of_raps():
    probs, labels = drawn(300, 0)
    held = ConformalSets(probs, labels, 0.5, raps).of(probs)
    assert held[np.arange(300), probs.argmax(axis=1)].all()


def test_sets_with_a_limit_for_each_class_cover_each_class():
    probs, labels = drawn(40_000, 3)
    probs = probs**3 / (probs**3).sum(axis=1, keepdims=True)
    probs[:, 1] *= 0.3  # class 1 is underrated, so one limit for all covers it too rarely
    probs /= probs.sum(axis=1, keepdims=True)
    half = np.arange(40_000) < 20_000
    of_class_1 = labels[~half] == 1
    found = []
    for per_class in (False, True):
        sets = ConformalSets(probs[half], labels[half], 0.9, per_class=per_class)
        held = sets.of(probs[~half])
        found.append(held[of_class_1, 1].mean())
    assert found[0] < 0.85
    assert found[1] == pytest.approx(0.9, abs=0.02)


def test_a_class_with_too_few_examples_is_in_every_set():
    probs, labels = drawn(400, 1)
    labels = np.where(labels == 2, 0, labels)
    few = np.flatnonzero(labels == 3)[8:]
    labels[few] = 1
    sets = ConformalSets(probs, labels, 0.9, per_class=True)
    assert fewest(0.9) == 9
    assert sets.always == {2: 0, 3: 8}
    held = sets.of(probs)
    assert held[:, 2:].all()
    assert not held[:, :2].all()
    assert sets.by_chance(np.full(10, 2), 0.05) == (1.0, 1.0)
    assert ConformalSets(probs, labels, 0.9).always == {}


@pytest.mark.parametrize("n", [1, 2, 8, 9])
def test_few_calibration_examples_put_every_class_in_every_set(n):
    probs, labels = drawn(n, n)
    for options in ({}, {"scores": raps}):
        sets = ConformalSets(probs, labels, 0.9, **options)
        assert sets.of(np.eye(4)).all() == (n < 9)
    assert ConformalSets(probs[:8], labels[:8], 0.9).threshold == 0.0


@pytest.mark.parametrize("labels", [[3] * 30, [0, 3] * 15])
def test_a_section_stands_where_classes_are_missing_and_names_what_is_missed(labels):
    labels = np.array(labels)
    probs = np.full((30, 4), 0.1)
    probs[np.arange(30), labels] = 0.7
    evaluated = SimpleNamespace(
        test=SimpleNamespace(targets=np.arange(40) % 4),
        on_test={"plain": np.tile([0.6, 0.2, 0.1, 0.1], (40, 1))},
        on_calibrating={"plain": probs},
        calibrating=SimpleNamespace(targets=labels),
        calibrated_on="30 calibration examples",
    )
    found = Conformal(0.9, 0.1, 1, 0.001).examine(evaluated)
    assert "The sets are made on 30 calibration examples" in found.text
    assert "in 90% of cases" in found.text
    assert "with probability 99.9%" in found.text
    assert "Below it lie LAC of plain" in found.text
    assert "1 (has 0), 2 (has 0)" in found.text
    assert [row[:2] for row in found.table[1:]] == [
        ("plain", "LAC"),
        ("plain", "RAPS"),
        ("plain", "per class"),
    ]
    assert found.metrics["test/plain/conformal_coverage"] == 0.0
    assert found.metrics["test/plain/conformal_raps_coverage"] == 0.25
    assert all(np.isfinite(value) for value in found.metrics.values())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ((1.5, 0.1, 1, 0.05), r"parts.conformal.coverage must lie between 0 and 1, but is 1.5"),
        ((0.9, -1.0, 1, 0.05), r"received raps_penalty=-1.0, raps_rank=1\."),
        ((0.9, 0.1, 0, 0.05), r"received raps_penalty=0.1, raps_rank=0\."),
        ((0.9, 0.1, 1, 1.0), r"level must lie between 0 and 1, but is 1.0"),
    ],
)
def test_impossible_settings_are_refused(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Conformal(*settings)
