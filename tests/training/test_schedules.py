"""Schedules by hand, and that a program's every step really has their rates."""

from __future__ import annotations

import keras
import keras_tuner
import numpy as np
import pytest

from hpsearch.errors import ConfigError
from hpsearch.training import how_trained
from hpsearch.training.checkpoints import CheckpointFile
from hpsearch.training.programs.order import Order
from hpsearch.training.programs.program import Program
from hpsearch.training.schedules import Constant, Cosine, OneCycle, Place, ReduceOnPlateau
from hpsearch.training.settings import Training
from hpsearch.training.trainer import Trainer
from small_training import SETTINGS, search_data, timeless


@keras.saving.register_keras_serializable("test_schedules")
def mean_output(labels, outputs):
    return keras.ops.mean(outputs)


def whole(schedule, n_epochs=10, n_steps=10, losses=()):
    """Return learning rates and momentums of all steps of a training."""
    parts = [
        schedule.rates(0.1, 0.95, Place(epoch, n_epochs, n_steps, losses))
        for epoch in range(n_epochs)
    ]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def test_constant_is_what_was_drawn():
    rates, momentums = whole(Constant())
    assert set(rates) == {0.1}
    assert set(momentums) == {0.95}


def test_one_cycle_peaks_at_the_drawn_rate_where_momentum_is_lowest():
    rates, momentums = whole(OneCycle(warmup=0.3, start=0.04, end=0.001, low_momentum=0.85))
    assert rates[0] == pytest.approx(0.004)
    assert momentums[0] == pytest.approx(0.95)
    assert rates.argmax() == momentums.argmin() == 30
    assert rates[30] == pytest.approx(0.1)
    assert momentums[30] == pytest.approx(0.85)
    assert rates[15] == pytest.approx((0.004 + 0.1) / 2)  # the middle of an arc
    assert rates[-1] < 0.001
    assert (np.diff(rates[:30]) > 0).all()
    assert (np.diff(rates[30:]) < 0).all()


def test_one_cycle_never_raises_momentum_above_the_drawn_one():
    _, momentums = OneCycle(0.3, 0.04, 0.001, low_momentum=0.85).rates(
        0.1, 0.5, Place(3, 10, 10, ())
    )
    assert set(momentums) == {0.5}


def test_cosine_falls_from_the_drawn_rate_through_its_half():
    rates, momentums = whole(Cosine(end=0.0))
    assert rates[0] == pytest.approx(0.1)
    assert rates[50] == pytest.approx(0.05)
    assert (np.diff(rates) < 0).all()
    assert set(momentums) == {0.95}


@pytest.mark.parametrize(
    ("losses", "share"),
    [
        ([], 1.0),
        ([3, 2, 1], 1.0),
        ([1, 2], 1.0),
        ([1, 2, 2], 0.5),
        ([1, 2, 2, 2], 0.5),
        ([1, 2, 2, 2, 2], 0.25),
        ([1, 2, 0.5, 2], 1.0),
        ([1] * 50, 0.1),  # the least
    ],
)
def test_reduce_on_plateau_depends_on_the_losses_alone(losses, share):
    schedule = ReduceOnPlateau(factor=0.5, patience_epochs=2, least=0.1)
    rates, _ = schedule.rates(0.1, 0.9, Place(len(losses), 100, 4, losses))
    np.testing.assert_allclose(rates, 0.1 * share)


def test_impossible_settings_name_their_key():
    with pytest.raises(ConfigError, match=r"schedule\.warmup must lie between 0 and 1, but is 1\."):
        OneCycle(1.0, 0.04, 0.001, 0.85)
    with pytest.raises(ConfigError, match=r"schedule\.factor must lie between 0 and 1, but is 2"):
        ReduceOnPlateau(2, 1, 0.1)


def test_a_program_takes_each_step_at_the_rate_of_its_table():
    """Plain gradient descent on one weight whose gradient is always 1: the weight falls by the sum
    of the rates.
    """

    def built():
        model = keras.Sequential(
            [keras.Input((1,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")]
        )
        model.compile(keras.optimizers.SGD(0.5, momentum=0.9), loss=mean_output)
        return model

    x, y = np.ones((8, 1), np.float32), np.zeros((8, 1), np.float32)
    images, labels = map(keras.ops.convert_to_tensor, (x, y))
    program = Program("", built(), images, labels, averaging=0.0, jit=True)
    program.load(built(), lambda layer: layer)
    order = Order(8, 2, 3, lambda epoch: epoch)  # two calls: three steps and one
    order.rates = np.array([[0.1, 0.0], [0.2, 0.0], [0.3, 0.0], [0.4, 0.0]])
    program.model.fit(order, epochs=1, shuffle=False, verbose=0)
    np.testing.assert_allclose(program.state()[0], [[-1.0]], rtol=1e-6)
    order.rates[:, 1] = 0.5  # momentum joins: v = 0.5 v - rate
    program.load(built(), lambda layer: layer)
    program.model.fit(order, epochs=1, shuffle=False, verbose=0)
    # v is -0.1, -0.25, -0.425, -0.6125; the weight is their sum.
    np.testing.assert_allclose(program.state()[0], [[-1.3875]], rtol=1e-6)


class Linear(keras_tuner.HyperModel):
    """A linear classifier, trained by an optimizer with momentum."""

    def __init__(self, optimizer):
        super().__init__()
        self.optimizer = optimizer

    def build(self, hp):
        layers = keras.layers
        model = keras.Sequential(
            [keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(3, activation="softmax")]
        )
        model.compile(self.optimizer(), "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [
        (lambda: keras.optimizers.SGD(0.1, momentum=0.95), "momentum"),
        (lambda: keras.optimizers.Adam(0.01, beta_1=0.95), "beta_1"),
    ],
    ids=["SGD", "Adam"],
)
@pytest.mark.parametrize(
    "reason",
    ["its training is short", pytest.param("its proof fails", marks=pytest.mark.slow)],
)
def test_keras_own_fit_averages_weights_and_follows_the_momentum_of_a_schedule(
    optimizer, name, reason, monkeypatch
):
    schedule = OneCycle(warmup=0.3, start=0.04, end=0.001, low_momentum=0.5)
    settings, hypermodel = Training(**SETTINGS), Linear(optimizer)
    hp = keras_tuner.HyperParameters()

    def trained(trainer):
        keras.utils.set_random_seed(5)
        model, said = hypermodel.build(hp), []
        fitted = trainer.fit(hypermodel, hp, model, 7, lambda *_: None, told=said.append)
        return timeless(fitted.history), model, said[0]

    by_program = trained(Trainer(settings, search_data(), schedule))
    assert by_program[2] == Trainer.BY_PROGRAM
    other = Trainer(settings, search_data(), schedule)
    other.varies = reason == "its training is short"
    difference = how_trained.difference
    monkeypatch.setattr(how_trained, "difference", lambda *given: difference(*given) or reason)
    by_keras = trained(other)
    assert by_keras[2].startswith(Trainer.BY_KERAS)
    last = schedule.rates(0.1, 0.95, Place(settings.epochs - 1, settings.epochs, 6, ()))[1][-1]
    momentum = keras.ops.convert_to_numpy(getattr(by_keras[1].optimizer, name))
    assert momentum == pytest.approx(last)
    for mine, theirs in zip(by_keras[0], by_program[0], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    weights = zip(by_keras[1].get_weights(), by_program[1].get_weights(), strict=True)
    for mine, theirs in weights:
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)


class _StopError(Exception):
    """Ends a fit after an epoch."""


@pytest.mark.parametrize("schedule", [None, OneCycle(0.3, 0.04, 0.001, 0.5)], ids=["none", "cycle"])
def test_a_fit_whose_proof_failed_goes_on_where_the_proof_is_remembered(
    schedule, monkeypatch, tmp_path
):
    """The proof builds the optimizer, so its variables have another order than in a fresh one."""
    hypermodel = Linear(lambda: keras.optimizers.SGD(0.1, momentum=0.9))
    hp = keras_tuner.HyperParameters()
    difference = how_trained.difference
    monkeypatch.setattr(how_trained, "difference", lambda *given: difference(*given) or "it fails")
    remembered = {}

    def trained(listener, file):
        keras.utils.set_random_seed(5)
        model = hypermodel.build(hp)
        trainer = Trainer(Training(**SETTINGS), search_data(), schedule)
        trainer.remembered_proofs = remembered
        trainer.fit(hypermodel, hp, model, 7, listener, checkpoint_file=file)
        return model.get_weights()

    def stop(epoch, *_):
        if epoch == 2:
            raise _StopError

    whole = trained(lambda *_: None, None)
    remembered.clear()
    file = CheckpointFile(tmp_path / "1.npz", 0.0)
    with pytest.raises(_StopError):
        trained(stop, file)
    assert remembered
    for mine, theirs in zip(trained(lambda *_: None, file), whole, strict=True):
        np.testing.assert_array_equal(mine, theirs)
