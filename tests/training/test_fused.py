"""Trials that train in one program come to what each comes to alone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest

from hpsearch.errors import ConfigError
from hpsearch.seeds import GLOBAL_GENERATOR
from hpsearch.training.settings import Training
from hpsearch.training.trainer import Trainer
from small_training import SETTINGS, Net, OwnFit, StoppedError, file_in, search_data, timeless

N_TRIALS = 8

on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="needs KERAS_BACKEND=jax")


def values(number: int) -> dict[str, float]:
    """Return a trial's hyperparameters, no two the same."""
    return {"learning_rate": 0.002 * (number + 1), "dropout_rate": 0.08 * number}


def fit(
    trainer: Trainer, number: int, stop_after: int = 0, file: Any = None, made: Any = None
) -> Any:
    """Fit trial `number`; return its weights and its `Fitted`, or None where it was stopped."""

    def listen(epoch: int, *_: object) -> None:
        if epoch == stop_after:
            raise StoppedError

    hp, made = keras_tuner.HyperParameters(), made or Net()
    hp.values.update(values(number))
    with GLOBAL_GENERATOR:
        keras.utils.set_random_seed(number)
        model = made.build(hp)
    try:
        fitted = trainer.fit(made, hp, model, number, listen, checkpoint_file=file)
    except StoppedError:
        return None
    return model.get_weights(), fitted


def fused_trainer(n_slots: int, **changed: Any) -> Any:
    from hpsearch.training.fused import FusedTrainer  # noqa: PLC0415 (imports JAX, which may be missing)

    return FusedTrainer(Training(**SETTINGS | changed), search_data(), n_slots)


def assert_close(fused: Any, alone: Any) -> None:
    """Products of many matrices at once are rounded otherwise than one by one: 1e-4 after five
    epochs.
    """
    assert fused[1].best_epoch == alone[1].best_epoch
    assert fused[1].n_epochs == alone[1].n_epochs
    for mine, theirs in zip(timeless(fused[1].history), timeless(alone[1].history), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-4)
    for mine, theirs in zip(fused[0], alone[0], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="it is on JAX")
def test_another_backend_is_refused() -> None:
    pytest.importorskip("jax")
    with pytest.raises(ConfigError, match="set KERAS_BACKEND=jax"):
        fused_trainer(8)


@on_jax
def test_eight_fused_trials_equal_the_same_eight_alone() -> None:
    trainer = fused_trainer(N_TRIALS)
    with ThreadPoolExecutor(N_TRIALS) as pool:
        fused = list(pool.map(lambda number: fit(trainer, number), range(N_TRIALS)))
    alone = Trainer(Training(**SETTINGS), search_data())
    for number in range(N_TRIALS):
        assert_close(fused[number], fit(alone, number))


@on_jax
def test_a_slot_goes_to_the_next_trial_and_checkpoints_go_on(tmp_path: Path) -> None:
    """Seven trials in three slots: some stop early, one is paused and goes on beside others than
    before.
    """
    trainer, alone = fused_trainer(3), Trainer(Training(**SETTINGS), search_data())
    stops, files = {0: 2, 3: 1, 5: 3}, {5: file_in(tmp_path)}
    with ThreadPoolExecutor(3) as pool:
        fused = list(pool.map(lambda n: fit(trainer, n, stops.get(n, 0), files.get(n)), range(7)))
        paused = pool.submit(fit, trainer, 5, 0, files[5])
        beside = pool.submit(fit, trainer, 1)
    for number in (1, 2, 4, 6):
        assert_close(fused[number], fit(alone, number))
    assert_close(paused.result(), fit(alone, 5))
    assert_close(beside.result(), fit(alone, 1))


@on_jax
def test_patience_is_each_trials_own() -> None:
    trainer = fused_trainer(2, epochs=12, patience_epochs=1)
    with ThreadPoolExecutor(2) as pool:
        fused = list(pool.map(lambda number: fit(trainer, number), (0, 7)))
    alone = Trainer(Training(**SETTINGS | {"epochs": 12, "patience_epochs": 1}), search_data())
    for found, number in zip(fused, (0, 7), strict=True):
        assert found[1].n_epochs == fit(alone, number)[1].n_epochs


@on_jax
def test_a_hypermodels_own_fit_trains_alone() -> None:
    made = OwnFit()
    assert fit(fused_trainer(2, epochs=1), 0, made=made)[1].n_epochs == 1
    assert made.seen["epochs"] == 1


@on_jax
def test_stop_ends_fits_that_wait() -> None:
    trainer = fused_trainer(2)
    trainer._seated[1] = None  # another trial that never asks
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(fit, trainer, 0)
        while not trainer._asked:
            threading.Event().wait(0.05)
        trainer.stop(KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            waiting.result()
