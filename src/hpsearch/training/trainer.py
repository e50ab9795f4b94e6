"""Fit one model: tell a listener of each epoch, stop early, refuse NaN, keep the best weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import keras
import keras_tuner
import numpy as np

from hpsearch.architectures.compiling import labels_for
from hpsearch.data.split import Examples, SearchData
from hpsearch.programs.order import Order
from hpsearch.programs.program import Averaging, Program, on_device
from hpsearch.programs.signature import signature
from hpsearch.seeds import GLOBAL_GENERATOR, derive
from hpsearch.training.brought import companions, owns_fit
from hpsearch.training.checkpoints import Slot
from hpsearch.training.epochs import Continuation, Epochs, Fitted, Listener
from hpsearch.training.rates import LossOfEach, Scheduling, Sweep
from hpsearch.training.schedules import CONSTANT, Schedule
from hpsearch.training.settings import BATCH_SIZE, VAL_BATCH_SIZE, Training


class Trainer:
    """Fits models on one data set, which it holds on the device for all trials of a study."""

    n_slots = 1  # how many fits go on at once

    def __init__(self, settings: Training, data: SearchData, schedule: Schedule = CONSTANT) -> None:
        self.settings = settings
        self.schedule = schedule
        self.data = data
        self._tensors: dict[str, tuple[Any, ...]] = {}
        self._program: Program | None = None
        self._n_steps = 0  # of an epoch of the program

    def fit(
        self,
        hypermodel: keras_tuner.HyperModel,
        hp: keras_tuner.HyperParameters,
        model: keras.Model,
        seed: int,
        listener: Listener,
        *,
        slot: Slot | None = None,
    ) -> Fitted:
        """Fit `model` and leave the weights of its best epoch in it.

        Args:
            hypermodel: Where the model comes from; its own `fit`, if it has one, is what runs.
            hp: The hyperparameters that the model was built with.
            model: A compiled model that takes raw pixels (N, H, W, C).
            seed: Decides the order of the examples and the dropout masks.
            listener: Called as `listener(n_epochs, metrics)` after each epoch, those before a checkpoint included;
                what it raises ends the fit.
            slot: Where the fit goes on from, if there is a checkpoint of this very fit, and leaves checkpoints: now and
                then, and when the listener raises. A HyperModel's own `fit` has none, and begins anew.

        Raises:
            DivergedError: The training or validation loss is NaN or infinite.
        """
        tensors = self._on_device(labels_for(model))
        if owns_fit(hypermodel):
            return self._fit_its_own_way(hypermodel, hp, model, tensors, listener)
        order = self._order(hp, lambda epoch: derive(seed, "order", epoch))
        program = self._load_program(model, order.n_steps, tensors)
        program.load(model, lambda layer: derive(seed, "dropout", layer))
        goes_on = (
            Continuation(slot, self._identity(program, hp, seed), program.snapshot, program.restore) if slot else None
        )
        epochs = self._epochs(listener, program.state, order=order, continuation=goes_on)
        callbacks = [epochs, Scheduling(self.schedule, order, self.settings.epochs, program.drawn, epochs)]
        callbacks += companions(hypermodel, epochs)
        callbacks += [Averaging()] if program.averaging else []
        for n_epochs, metrics in enumerate(epochs.fitted.history, start=1):
            listener(n_epochs, metrics)
        if not epochs.patience_is_over:  # else its process died between the last epoch and the trial's end
            rest = {"initial_epoch": epochs.fitted.n_epochs, "callbacks": callbacks, **self._common(tensors)}
            hypermodel.fit(hp, program.model, x=order, shuffle=False, **rest)
        program.unload(model, epochs.best_state)
        return epochs.fitted

    def sweep(
        self,
        hp: keras_tuner.HyperParameters,
        model: keras.Model,
        seed: int,
        learning_rates: np.ndarray,
        steps_per_point: int,
    ) -> np.ndarray:
        """Train a few steps at each learning rate in turn, and return the mean training loss at each, (n,).

        It ends early where the loss explodes. `model` keeps its weights; the program is the one that `fit` uses.
        """
        tensors = self._on_device(labels_for(model))
        order = self._order(hp, lambda epoch: derive(seed, "order", epoch))
        program = self._load_program(model, order.n_steps, tensors)
        program.load(model, lambda layer: derive(seed, "dropout", layer))
        sweep = Sweep(order, learning_rates, program.drawn[1], steps_per_point)
        losses = LossOfEach()
        program.model.fit(sweep, shuffle=False, verbose=0, callbacks=[losses])
        return np.array(losses.found)

    def stop(self, error: BaseException) -> None:
        """End the fits that other threads wait in; here there are none."""

    def let_go(self) -> None:
        """Let go of the program, which an error or an interruption may have left in any state: the next fit makes one.

        Its memory is then free, which is what a trial that had too little needs of the one before.
        """
        self._program = None

    def _fit_its_own_way(self, hypermodel: Any, hp: Any, model: Any, tensors: Any, listener: Listener) -> Fitted:
        epochs = self._epochs(listener, model.get_weights)
        fit, model.fit = model.fit, partial(model.fit, batch_size=self.batch_size(hp))  # unless its way names another
        try:
            hypermodel.fit(hp, model, x=tensors[0], y=tensors[1], callbacks=[epochs], **self._common(tensors))
        finally:
            model.fit = fit
        model.set_weights(epochs.best_state)
        return epochs.fitted

    def _identity(self, program: Program, hp: keras_tuner.HyperParameters, seed: int) -> str:
        """Return what tells this fit from others, of other trials or settings."""
        settings = self.settings
        parts = (type(self).__name__, keras.backend.backend(), program.name, seed, self.data.fingerprint)
        return " ".join(map(str, (*parts, self.batch_size(hp), settings.averaging_epochs, self.schedule)))

    def _epochs(self, listener: Listener, state: Callable[[], list[np.ndarray]], **more: Any) -> Epochs:
        settings = self.settings
        return Epochs(
            monitor=settings.monitor,
            maximize=settings.maximize,
            patience_epochs=settings.patience_epochs,
            listener=listener,
            state=state,
            **more,
        )

    def _common(self, tensors: tuple[Any, ...]) -> dict[str, Any]:
        val = {"validation_data": tensors[2:], "validation_batch_size": VAL_BATCH_SIZE}
        return {"epochs": self.settings.epochs, "verbose": 0, **val}

    def _on_device(self, form: str) -> tuple[Any, ...]:
        if form not in self._tensors:
            parts = [_arrays(part, form, self.data.n_classes) for part in (self.data.train, self.data.val)]
            self._tensors = {form: tuple(on_device(array) for pair in parts for array in pair)}
            self._program = None
        return self._tensors[form]

    def batch_size(self, hp: keras_tuner.HyperParameters) -> int:
        """Return the batch size of a fit: a hyperparameter of this name comes before the setting."""
        return int(hp.values.get(BATCH_SIZE, self.settings.batch_size))

    def _order(self, hp: keras_tuner.HyperParameters, seed_of_epoch: Callable[[int], int]) -> Order:
        n = len(self.data.train.labels)
        return Order(n, self.batch_size(hp), self.settings.steps_per_call, seed_of_epoch)

    def _load_program(self, model: keras.Model, n_steps: int, tensors: tuple[Any, ...]) -> Program:
        name = signature(model)
        known = (self._program.name, self._n_steps) if self._program else None
        if name is None or known != (name, n_steps):  # how fast the averages forget depends on the steps of an epoch
            self._program = None  # one at a time: a program holds a copy of the weights and of the optimizer
            jit = self.settings.jit_compile
            jit = _is_compiled_faster(model) if jit is None else jit
            averaged = self.settings.averaging_epochs * n_steps
            averaging = math.exp(-1 / averaged) if averaged else 0.0
            with GLOBAL_GENERATOR:
                self._program = Program(name or "", model, *tensors[:2], averaging=averaging, jit=jit)
            self._n_steps = n_steps
        return cast("Program", self._program)


def _arrays(part: Examples, form: str, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    labels = keras.utils.to_categorical(part.labels, n_classes) if form == "onehot" else part.labels
    return part.images, labels


def _is_compiled_faster(model: keras.Model) -> bool:
    """XLA for all, but for convolutions on a CPU, where TensorFlow's own kernels are faster."""
    if keras.backend.backend() != "tensorflow":  # JAX has no other way, and answers a question for GPUs with an error
        return True
    convolves = any("Conv" in type(layer).__name__ for layer in model.layers)
    return not convolves or bool(keras.distribution.list_devices("gpu"))
