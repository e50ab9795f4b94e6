"""Which weights a fit collects for SWAG, in whichever way it trains, and after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest

from hpsearch.errors import ConfigError
from hpsearch.models.moments import Arrays
from hpsearch.training.epochs import Fitted
from hpsearch.training.settings import Training
from hpsearch.training.snapshots import Snapshots, epochs_of
from hpsearch.training.trainer import Trainer
from small_training import SETTINGS, Net, OwnFit, file_in, fit, search_data, timeless, trainer


def assert_same(one: Fitted, other: Fitted) -> None:
    mine, theirs = one.snapshots.by_epoch, other.snapshots.by_epoch
    assert mine.keys() == theirs.keys()
    for epoch, arrays in mine.items():
        for array, other_array in zip(arrays, theirs[epoch], strict=True):
            np.testing.assert_array_equal(array, other_array)


def test_the_epochs_are_those_of_the_last_half() -> None:
    assert {n: list(epochs_of(n)) for n in (1, 4, 5, 10)} == {
        1: [1],
        4: [3, 4],
        5: [3, 4, 5],
        10: [6, 7, 8, 9, 10],
    }
    assert list(epochs_of(40)) == list(range(21, 41))
    assert list(epochs_of(41)) == list(range(22, 41, 2))


def test_no_epoch_is_needed_that_was_not_held() -> None:
    held: set[int] = set()
    for n_epochs in range(1, 1000):
        needed = set(epochs_of(n_epochs))
        assert needed <= held | {n_epochs}
        assert len(needed) <= 20
        assert n_epochs < 20 or len(needed) >= 10
        held = needed


def linear() -> keras.Model:
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(2), keras.layers.Dense(1)])


def test_fewer_than_three_snapshots_make_no_moments() -> None:
    model, snapshots = linear(), Snapshots()
    for epoch in (1, 2, 3, 4):
        snapshots.add(epoch, model)
        assert snapshots.moments(model) is None
    snapshots.add(5, model)
    moments = snapshots.moments(model)
    assert moments is not None
    assert moments.n_snapshots == 3
    moments.check_fits(model)


def test_snapshots_are_of_the_weights_that_are_trained_to_the_end() -> None:
    model, snapshots = linear(), Snapshots()
    model.layers[0].trainable = False
    for epoch in range(1, 8):
        snapshots.add(epoch, model)
    model.layers[0].trainable = True
    assert snapshots.moments(model) is None  # nothing has trained its first layer
    snapshots.add(8, model)
    assert list(snapshots.by_epoch) == [8]


class Recording(OwnFit):
    """A HyperModel whose own fit records the weights at the end of each epoch."""

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        self.seen_weights: list[Arrays] = []

        def record(epoch: int, logs: object) -> None:
            weights = [np.array(v) for v in model.trainable_variables]
            self.seen_weights.append(weights)

        callback = keras.callbacks.LambdaCallback(on_epoch_end=record)
        kwargs["callbacks"] = [*kwargs["callbacks"], callback]
        return super().fit(hp, model, *args, **kwargs)


@pytest.mark.slow
def test_a_hypermodels_own_fit_leaves_snapshots() -> None:
    hypermodel, hp = Recording(), keras_tuner.HyperParameters()
    model = hypermodel.build(hp)
    fitted = trainer(swag=True).fit(hypermodel, hp, model, 7, lambda *_: None)
    assert sorted(fitted.snapshots.by_epoch) == [3, 4, 5]
    for epoch, arrays in fitted.snapshots.by_epoch.items():
        for mine, theirs in zip(arrays, hypermodel.seen_weights[epoch - 1], strict=True):
            np.testing.assert_array_equal(mine, theirs)
    moments = fitted.snapshots.moments(model)
    assert moments is not None
    moments.check_fits(model)


@pytest.mark.slow
def test_collecting_changes_nothing_else() -> None:
    with_snapshots, without = fit(trainer(swag=True)), fit(trainer())
    assert timeless(with_snapshots[1].history) == timeless(without[1].history)
    assert without[1].snapshots.by_epoch == {}
    for mine, theirs in zip(with_snapshots[0].get_weights(), without[0].get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("averaging_epochs", [0.0, 1.0])
def test_the_snapshots_are_the_iterates_and_not_their_average(averaging_epochs: float) -> None:
    """The last snapshot is the weights of a fit of one batch an epoch, which no average changes."""
    settings = SETTINGS | {"batch_size": 96, "swag": True}
    averaged = Trainer(Training(**settings | {"averaging_epochs": averaging_epochs}), search_data())
    plain = Trainer(Training(**settings | {"averaging_epochs": 0.0}), search_data())
    _, mine, _ = fit(averaged, dropout_rate=0.0)
    _, theirs, _ = fit(plain, dropout_rate=0.0)
    for epoch in (3, 4, 5):
        for one, other in zip(
            mine.snapshots.by_epoch[epoch], theirs.snapshots.by_epoch[epoch], strict=True
        ):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("by_keras", [False, True])
def test_a_fit_that_goes_on_has_the_same_snapshots(tmp_path: Path, by_keras: bool) -> None:
    def shared() -> Trainer:
        made = Trainer(Training(**SETTINGS | {"swag": True}), search_data())
        made.varies = by_keras
        return made

    model, never, _ = fit(shared())
    fit(shared(), file_in(tmp_path), stop_after=4)
    again_model, again, _ = fit(shared(), file_in(tmp_path))
    assert_same(again, never)
    one, other = again.snapshots.moments(again_model), never.snapshots.moments(model)
    assert one is not None
    assert other is not None
    assert one.checksums == other.checksums
    for kind in ("mean", "variance", "deviations"):
        for mine, theirs in zip(getattr(one, kind), getattr(other, kind), strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
def test_a_checkpoint_without_snapshots_is_not_continued_with_them(tmp_path: Path) -> None:
    fit(trainer(), file_in(tmp_path), stop_after=4)
    _, fitted, told = fit(trainer(swag=True), file_in(tmp_path))
    assert len(told) == 5
    assert sorted(fitted.snapshots.by_epoch) == [3, 4, 5]


def test_too_few_epochs_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"training.epochs must be at least 5, but is 4"):
        Training(**SETTINGS | {"epochs": 4, "swag": True})


def test_the_trainer_of_many_trials_at_once_is_refused() -> None:
    fused = pytest.importorskip("hpsearch.training.fused")
    settings = Training(**SETTINGS | {"swag": True})
    with pytest.raises(ConfigError, match=r"training.swag=true needs trainer=alone"):
        fused.FusedTrainer(settings, search_data(), 2)


@pytest.mark.slow
def test_a_net_has_a_program() -> None:
    """The tests above train in both ways only where this net is trained by a program."""
    told: list[str] = []
    hp = keras_tuner.HyperParameters()
    trainer().fit(Net(), hp, Net().build(hp), 7, lambda *_: None, told=told.append)
    assert told == [Trainer.BY_PROGRAM]
