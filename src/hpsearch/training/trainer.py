"""Fit one model: tell a listener of each epoch, stop early, refuse NaN, keep the best weights."""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import keras_tuner
import numpy as np

from hpsearch.data.split import Examples, SearchData
from hpsearch.errors import ConfigError
from hpsearch.models.architecture import build_model
from hpsearch.models.loss_and_optimizer import labels_for
from hpsearch.seeds import derive
from hpsearch.training.checkpoints import Slot
from hpsearch.training.epochs import Continuation, Epochs, Fitted, Listener
from hpsearch.training.own_fit import averaging_epochs_of, companions, owns_fit
from hpsearch.training.programs.averages import average_weights
from hpsearch.training.programs.inputs import learning_rate_of, momentum_input, momentum_of
from hpsearch.training.programs.order import Batches, Order
from hpsearch.training.programs.program import (
    Averaging,
    Program,
    averaged_variables,
    build_metrics,
    copy_values,
    on_device,
    values_of,
)
from hpsearch.training.schedules import (
    CONSTANT,
    LossOfEach,
    RatesOfSteps,
    Schedule,
    Scheduling,
    Sweep,
    sweep_by_keras,
)
from hpsearch.training.settings import BATCH_SIZE, VAL_BATCH_SIZE, Training
from hpsearch.training.ways import PAYS_FROM_STEPS, NoProgramError, proved_program, structure_of

Told = Callable[[str], None]
BY_PROGRAM = "by a compiled program, which takes the same steps as Keras's fit"
BY_KERAS = "by Keras's own fit:"


@dataclass(frozen=True)
class Work:
    """One fit that is asked for; see `Trainer.fit`."""

    hypermodel: keras_tuner.HyperModel
    hp: keras_tuner.HyperParameters
    model: keras.Model
    seed: int
    listener: Listener
    slot: Slot | None
    tensors: tuple[Any, ...]


class Trainer:
    """Fits models on one data set, which it holds on the device for all trials of a study."""

    n_slots = 1  # how many fits go on at once

    def __init__(self, settings: Training, data: SearchData, schedule: Schedule = CONSTANT) -> None:
        self.settings = settings
        self.schedule = schedule
        self.data = data
        self.varies = False  # whether trials may have different structures
        self.answers: MutableMapping[
            str, str
        ] = {}  # what is known of programs; see ways.proved_program
        self._tensors: dict[str, tuple[Any, ...]] = {}
        self._held: tuple[Program, tuple[Any, ...]] | None = None  # with what it was made for

    def fit(
        self,
        hypermodel: keras_tuner.HyperModel,
        hp: keras_tuner.HyperParameters,
        model: keras.Model,
        seed: int,
        listener: Listener,
        *,
        slot: Slot | None = None,
        told: Told = lambda way: None,
    ) -> Fitted:
        """Fit `model` and leave the weights of its best epoch in it.

        Args:
            hypermodel: Where the model comes from; its own `fit`, if it has one, is what runs.
            hp: The hyperparameters that the model was built with.
            model: A compiled model that takes raw pixels (N, H, W, C).
            seed: Decides the order of the examples and the dropout masks.
            listener: Called as `listener(n_epochs, metrics)` after each epoch, those before a
                checkpoint included; what it raises ends the fit.
            slot: Where the fit goes on from, if there is a checkpoint of this very fit, and leaves
                checkpoints: now and then, and when the listener raises. A HyperModel's own `fit`
                has none, and begins anew.
            told: Called before the first epoch with the way that the model is trained, in words.

        Raises:
            DivergedError: The training or validation loss is NaN or infinite.
        """
        tensors = self._on_device(labels_for(model))
        if owns_fit(hypermodel):
            told("by its HyperModel's own fit")
            return self._fit_its_own_way(hypermodel, hp, model, tensors, listener)
        work = Work(hypermodel, hp, model, seed, listener, slot, tensors)
        order = self._order(hp, lambda epoch: derive(seed, "order", epoch))
        structure = None
        try:
            structure = structure_of(model, self.data.train.images)
            program = self._load_program(work, structure, order)
        except NoProgramError as reason:
            told(f"{BY_KERAS} {reason}")
            return self._fit_by_keras(work, order, structure)
        told(BY_PROGRAM)
        return self._fit_by_program(work, order, program)

    def _fit_by_program(self, work: Work, order: Order, program: Program) -> Fitted:
        program.load(work.model, lambda layer: derive(work.seed, "dropout", layer))
        epochs = self._epochs(
            work.listener,
            program.state,
            order=order,
            continuation=self._continuation(work, program.name, program.snapshot, program.restore),
        )
        callbacks = [
            epochs,
            Scheduling(self.schedule, order, self.settings.epochs, program.drawn, epochs),
        ]
        callbacks += companions(work.hypermodel, epochs)
        callbacks += [Averaging()] if program.averaging else []
        self._run(work, program.model, order, epochs, callbacks)
        program.unload(work.model, epochs.best_state)
        return epochs.fitted

    def _fit_by_keras(self, work: Work, order: Order, structure: str | None) -> Fitted:
        """Fit the model itself by Keras's own `fit`, on the batches that a program would see.

        A model whose state is not known wholly has no `structure`, and no checkpoints.
        """
        model = work.model
        averaging = self._averaging_of(work, order.n_steps)
        if averaging:
            average_weights(model.optimizer, averaging)
        drawn = None
        if structure is not None:
            drawn = (learning_rate_of(model.optimizer), momentum_of(model.optimizer))
            if self.schedule != CONSTANT:
                momentum_input(model.optimizer)
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
            build_metrics(model, *(array[:1] for array in self._train))

        def variables() -> list[Any]:
            return [*model.variables, *model.optimizer.variables]

        continuation = self._continuation(
            work,
            f"fit {structure}",
            lambda: values_of(variables()),
            lambda snapshot: copy_values(snapshot, variables()),
        )
        epochs = self._epochs(
            work.listener,
            lambda: values_of(
                averaged_variables(model, model.variables) if averaging else model.variables
            ),
            order=order,
            continuation=continuation if structure is not None else None,
        )
        callbacks = [
            epochs,
            *companions(work.hypermodel, epochs),
            *([Averaging()] if averaging else []),
        ]
        if drawn is not None and self.schedule != CONSTANT:
            scheduling = Scheduling(self.schedule, order, self.settings.epochs, drawn, epochs)
            callbacks += [scheduling, RatesOfSteps(order)]
        train = self._train
        self._run(work, model, Batches(order, *train), epochs, callbacks)
        copy_values(epochs.best_state, model.variables)
        return epochs.fitted

    def _run(
        self, work: Work, model: keras.Model, x: Any, epochs: Epochs, callbacks: list[Any]
    ) -> None:
        """Let the HyperModel fit `model` from where a checkpoint left it."""
        for n_epochs, metrics in enumerate(epochs.fitted.history, start=1):
            work.listener(n_epochs, metrics)
        if (
            not epochs.patience_is_over
        ):  # else its process died between the last epoch and the trial's end
            rest = {
                "initial_epoch": epochs.fitted.n_epochs,
                "callbacks": callbacks,
                **self._common(work.tensors),
            }
            work.hypermodel.fit(work.hp, model, x=x, shuffle=False, **rest)

    def _continuation(
        self,
        work: Work,
        name: str,
        snapshot: Callable[[], list[np.ndarray]],
        restore: Callable[[list[np.ndarray]], None],
    ) -> Continuation | None:
        identity = self._identity(name, work)
        return Continuation(work.slot, identity, snapshot, restore) if work.slot else None

    def sweep(  # noqa: PLR0917
        self,
        hypermodel: keras_tuner.HyperModel,
        hp: keras_tuner.HyperParameters,
        model: keras.Model,
        seed: int,
        learning_rates: np.ndarray,
        steps_per_point: int,
    ) -> np.ndarray:
        """Train a few steps at each learning rate in turn, and return the mean training loss at
        each, (n,).

        It ends early where the loss explodes. The program is the one that `fit` uses; a model that
        none can be shown to train is trained by Keras's `train_on_batch`, and changed by it.
        """
        tensors = self._on_device(labels_for(model))
        order = self._order(hp, lambda epoch: derive(seed, "order", epoch))
        work = Work(hypermodel, hp, model, seed, lambda *_: None, None, tensors)
        try:
            program = self._load_program(work, structure_of(model, self.data.train.images), order)
        except NoProgramError:
            return sweep_by_keras(model, order, self._train, learning_rates, steps_per_point)
        program.load(model, lambda layer: derive(seed, "dropout", layer))
        sweep = Sweep(order, learning_rates, program.drawn[1], steps_per_point)
        losses = LossOfEach()
        program.model.fit(sweep, shuffle=False, verbose=0, callbacks=[losses])
        return np.array(losses.found)

    def stop(self, error: BaseException) -> None:
        """End the fits that other threads wait in; here there are none."""

    def let_go(self) -> None:
        """Let go of the program, which an error or an interruption may have left in any state: the
        next fit makes one.

        Its memory is then free, which is what a trial that had too little needs of the one before.
        """
        self._held = None

    def _fit_its_own_way(
        self, hypermodel: Any, hp: Any, model: Any, tensors: Any, listener: Listener
    ) -> Fitted:
        epochs = self._epochs(listener, model.get_weights)
        fit, model.fit = (
            model.fit,
            partial(model.fit, batch_size=self.batch_size(hp)),
        )  # unless its way names another
        try:
            hypermodel.fit(
                hp, model, x=tensors[0], y=tensors[1], callbacks=[epochs], **self._common(tensors)
            )
        finally:
            model.fit = fit
        model.set_weights(epochs.best_state)
        return epochs.fitted

    def _identity(self, name: str, work: Work) -> str:
        """Return what tells this fit from others, of other trials or settings."""
        settings = self.settings
        parts = (
            type(self).__name__,
            keras.backend.backend(),
            name,
            work.seed,
            self.data.fingerprint,
        )
        return " ".join(
            map(str, (*parts, self.batch_size(work.hp), settings.averaging_epochs, self.schedule))
        )

    def _epochs(
        self, listener: Listener, state: Callable[[], list[np.ndarray]], **more: Any
    ) -> Epochs:
        settings = self.settings
        return Epochs(
            monitor=settings.monitor,
            direction=settings.goal,
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
            train, val = (
                _arrays(part, form, self.data.n_classes)
                for part in (self.data.train, self.data.val)
            )
            self._train = train
            self._tensors = {form: tuple(on_device(array) for array in (*train, *val))}
            self._held = None
        return self._tensors[form]

    def batch_size(self, hp: keras_tuner.HyperParameters) -> int:
        """Return the batch size of a fit: a hyperparameter of this name comes before the setting."""
        return int(hp.values.get(BATCH_SIZE, self.settings.batch_size))

    def _order(self, hp: keras_tuner.HyperParameters, seed_of_epoch: Callable[[int], int]) -> Order:
        n = len(self.data.train.labels)
        return Order(n, self.batch_size(hp), self.settings.steps_per_call, seed_of_epoch)

    def _averaging_of(self, work: Work, n_steps: int) -> float:
        """Return what the averaged weights keep of themselves in a step; 0 where none are averaged.

        Raises:
            ConfigError: The person's own `compile` averages already.
        """
        asked = self.settings.averaging_epochs
        over = averaging_epochs_of(work.hypermodel) if asked is None else asked
        optimizer = work.model.optimizer
        if over and (
            not hasattr(optimizer, "use_ema")
            or optimizer.use_ema
            or hasattr(optimizer, "inner_optimizer")
        ):
            raise ConfigError(
                f"training.averaging_epochs={over:g} cannot average the weights of a model whose "
                f"optimizer averages or "
                "scales the loss itself; give training.averaging_epochs=0."
            )
        return math.exp(-1 / (over * n_steps)) if over else 0.0

    def _load_program(self, work: Work, structure: str, order: Order) -> Program:
        """Return the program of a model; one at a time is held, with its copy of weights and
        optimizer.

        Raises:
            NoProgramError: None can be shown to train the model as Keras does, or it would not pay.
        """
        if self.varies and self.settings.epochs * order.n_steps < PAYS_FROM_STEPS:
            raise NoProgramError(
                "compiling a program takes longer than it saves in so short a training, where each "
                "trial may have "
                "another structure"
            )
        averaging = self._averaging_of(
            work, order.n_steps
        )  # how fast it forgets depends on the steps of an epoch
        kind = (structure, averaging, order.batch_size, order.steps_per_call, order.n_rest)
        if self._held is None or self._held[1] != kind:
            self._held = None
            program = proved_program(
                structure,
                work.model,
                lambda: build_model(work.hypermodel, work.hp),
                work.tensors,
                order,
                self.answers,
                averaging=averaging,
                jit=self.settings.jit_compile,
            )
            self._held = (program, kind)
        return self._held[0]


def _arrays(part: Examples, form: str, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    labels = keras.utils.to_categorical(part.labels, n_classes) if form == "onehot" else part.labels
    return part.images, labels
