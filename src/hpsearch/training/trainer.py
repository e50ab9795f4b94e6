"""Train one model with `Trainer.fit`, or sweep its learning rate with `Trainer.sweep`.

Of three ways to train, the first that is possible is taken: the HyperModel's own `fit`, a compiled
program (`how_trained.py`), Keras's `fit`. All of them use the callback `epochs.Epochs`, which
reports each epoch, stops early and keeps the best weights. The trainer holds the data and the
programs, which later trials use again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import ClassVar

import keras
import numpy as np
from keras_tuner import HyperModel, HyperParameters

from hpsearch.data.split import Examples, SearchData
from hpsearch.errors import ConfigError, ModelError
from hpsearch.models.loss_and_optimizer import labels_for
from hpsearch.seeds import derive
from hpsearch.training.checkpoints import CheckpointFile
from hpsearch.training.epochs import Continuation, Epochs, Fitted, Listener, Work
from hpsearch.training.how_trained import (
    NoProgramError,
    Tensors,
    proved_program,
    structure_of,
)
from hpsearch.training.own_fit import companions, owns_fit
from hpsearch.training.programs.averages import average_weights
from hpsearch.training.programs.inputs import momentum_input, rates_of
from hpsearch.training.programs.order import Batches, Order
from hpsearch.training.programs.program import (
    Averaging,
    Program,
    build_metrics,
    copy_values,
    kept_values,
    values_of,
)
from hpsearch.training.schedules import Constant, Schedule
from hpsearch.training.scheduling import Scheduling, sweep_by_keras, sweep_by_program
from hpsearch.training.settings import VAL_BATCH_SIZE, Training


class Trainer:
    """Fits models on one data set, which it holds on the device for all trials of a study.

    Args:
        settings: The settings of all fits.
        data: The data set; its train part is trained on, its val part gives the val metrics.
        schedule: Computes learning rate and momentum of each step from those of the trial. With
            None, they are the same at each step.

    Attributes:
        n_slots: The number of fits that can run at the same time.
        varies: Whether trials may have different structures.
        remembered_proofs: What earlier proofs of programs have found; see
            `how_trained.proved_program`.
    """

    BY_PROGRAM: ClassVar = "by a compiled program, which takes the same steps as Keras's fit"
    BY_KERAS: ClassVar = "by Keras's own fit:"

    n_slots = 1

    def __init__(
        self,
        settings: Training,
        data: SearchData,
        schedule: Schedule | None = None,
    ) -> None:
        self.settings = settings
        self.schedule = schedule or Constant()
        self.data = data
        self.varies = False
        self.remembered_proofs: MutableMapping[str, str] = {}
        # The tensors of one form of labels, and one program with everything that its making
        # depends on. Only one is held, because each has a copy of weights and optimizer.
        self._tensors: dict[str, Tensors] = {}
        self._programs: dict[object, Program] = {}

    def fit(
        self,
        hypermodel: HyperModel,
        hp: HyperParameters,
        model: keras.Model,
        seed: int,
        listener: Listener,
        *,
        checkpoint_file: CheckpointFile | None = None,
        told: Callable[[str], None] = lambda way: None,
    ) -> Fitted:
        """Fit `model` and leave the weights of its best epoch in it.

        Args:
            hypermodel: The HyperModel that built the model. If it has a `fit` of its own, that one
                trains the model.
            hp: The hyperparameters that the model was built with.
            model: A compiled model that takes raw pixels (N, H, W, C).
            seed: Decides the order of the examples and the dropout masks.
            listener: Called as `listener(n_epochs, metrics, is_last)` after each epoch, and first
                for each epoch before a checkpoint. An exception that it raises ends the fit.
            checkpoint_file: Where checkpoints are kept. The fit continues from a checkpoint of the
                same fit if there is one. It writes checkpoints at intervals and when the listener
                raises. A HyperModel's own `fit` writes none and always begins anew.
            told: Called before the first epoch with the way in which the model is trained, in
                words.

        Raises:
            DivergedError: A loss or the monitored metric is NaN or infinite.
        """
        order = self._order(hp, seed, self.settings.steps_per_call)
        work = Work(
            hypermodel,
            hp,
            model,
            seed,
            order,
            listener,
            checkpoint_file,
        )
        return self._fit(work, told)

    def _fit(self, work: Work, told: Callable[[str], None]) -> Fitted:
        if owns_fit(work.hypermodel):
            told("by its HyperModel's own fit")
            return self._fit_its_own_way(work)
        structure = program = None
        try:
            structure = structure_of(work.model, self.data.train.inputs)
            program = self._load_program(work, structure)
        except NoProgramError as reason:
            told(f"{self.BY_KERAS} {reason}")
        # Not in the handler, whose exception the traceback of an interrupt would show too.
        if program is None:
            return self._fit_by_keras(work, structure)
        told(self.BY_PROGRAM)
        return self._fit_by_program(work, program)

    def _fit_by_program(self, work: Work, program: Program) -> Fitted:
        program.load(work.model, work.seed_of_layer)
        continuation = self._continuation(
            work,
            program.name,
            program.snapshot,
            program.restore,
        )
        epochs = Epochs(self.settings, work, program.state, continuation, program.model)
        scheduling = Scheduling(self.schedule, program.drawn, epochs)
        callbacks = [epochs, scheduling]
        callbacks.extend(companions(work.hypermodel, epochs))
        if program.averaging:
            callbacks.append(Averaging())
        self._run(program.model, epochs, callbacks, x=work.order, shuffle=False)
        program.unload(work.model, epochs.best_state)
        return epochs.fitted

    def _fit_by_keras(self, work: Work, structure: str | None) -> Fitted:
        """Fit the model itself by Keras's own `fit`, on the batches that a program would see.

        `structure` is None for a model whose state is not wholly known. Such a model gets neither
        checkpoints nor a schedule.
        """
        model = work.model
        images, labels = self._arrays(self.data.train, model)
        averaging = self._averaging_of(work)
        is_scheduled = structure is not None and self.schedule != Constant()
        drawn = rates_of(model.optimizer)
        if is_scheduled:
            # `average_weights` changes the optimizer's class, in which no momentum is found.
            momentum_input(model.optimizer)
        if averaging:
            average_weights(model.optimizer, averaging)

        def state() -> list[np.ndarray]:
            return kept_values(model, model.variables, averaging)

        continuation = None
        if structure is not None:
            build_metrics(model, images[:1], labels[:1])
            continuation = self._continuation_by_keras(work, structure, averaging)
        epochs = Epochs(self.settings, work, state, continuation)
        callbacks = [epochs, *companions(work.hypermodel, epochs)]
        if averaging:
            callbacks.append(Averaging())
        if is_scheduled:
            scheduling = Scheduling(self.schedule, drawn, epochs, each_step=True)
            callbacks.append(scheduling)
        batches = Batches(work.order, images, labels)
        self._run(model, epochs, callbacks, x=batches, shuffle=False)
        copy_values(epochs.best_state, model.variables)
        return epochs.fitted

    def _continuation_by_keras(
        self,
        work: Work,
        structure: str,
        averaging: float,
    ) -> Continuation | None:
        """Build the optimizer, and return what reads and writes the checkpoints of Keras's fit."""
        optimizer = work.model.optimizer
        if not optimizer.built:
            optimizer.build(work.model.trainable_variables)

        def variables() -> list[keras.Variable]:
            # Where a proof has built the optimizer, it has its variables in another order. Its
            # slots always have one order, and so have the variables that were added.
            slots, added = Program.slots_and_added(optimizer, averaging)
            return [*work.model.variables, *slots, *added]

        def snapshot() -> list[np.ndarray]:
            return values_of(variables())

        def restore(saved: list[np.ndarray]) -> None:
            copy_values(saved, variables())

        name = f"fit {structure}"
        if averaging or self.schedule != Constant():
            # Earlier versions stored the variables of these fits in another order.
            name = f"fit, slots first, {structure}"
        return self._continuation(work, name, snapshot, restore)

    def _fit_its_own_way(self, work: Work) -> Fitted:
        """Let the HyperModel's own `fit` train the model."""
        model = work.model
        images, labels, *_ = self._on_device(model)
        epochs = Epochs(self.settings, work, model.get_weights)
        fit = model.fit
        # This batch size holds unless the HyperModel's `fit` gives another one.
        batch_size = self._batch_size(work.hp)
        model.fit = partial(fit, batch_size=batch_size)
        try:
            self._run(model, epochs, [epochs], x=images, y=labels)
        finally:
            model.fit = fit
        if not epochs.fitted.n_epochs:
            raise ModelError(
                "The HyperModel's own fit has not told its callbacks that an epoch ended: pass "
                "callbacks=callbacks on to model.fit, or call callback.on_epoch_end(epoch, logs) "
                "after each epoch of a loop of your own."
            )
        model.set_weights(epochs.best_state)
        return epochs.fitted

    def _run(
        self,
        model: keras.Model,
        epochs: Epochs,
        callbacks: list[keras.callbacks.Callback],
        **given: object,
    ) -> None:
        """Let the HyperModel fit `model`, on what is `given` and with what all fits share."""
        work = epochs.work
        epochs.tell_earlier_epochs()
        if epochs.patience_is_over:  # an earlier process died between the last epoch and the end
            return
        if epochs.fitted.n_epochs:
            given["initial_epoch"] = epochs.fitted.n_epochs
        tensors = self._on_device(work.model)
        work.hypermodel.fit(
            work.hp,
            model,
            callbacks=callbacks,
            epochs=self.settings.epochs,
            verbose=0,
            validation_data=tensors[2:],
            validation_batch_size=VAL_BATCH_SIZE,
            **given,
        )

    def _continuation(
        self,
        work: Work,
        name: str,
        snapshot: Callable[[], list[np.ndarray]],
        restore: Callable[[list[np.ndarray]], None],
    ) -> Continuation | None:
        """Return what reads and writes the checkpoints of a fit, None where it has none.

        Its identity is a text that no other fit has, of another trial or with other settings.
        """
        if work.checkpoint_file is None:
            return None
        parts = (
            type(self).__name__,
            keras.backend.backend(),
            name,
            work.seed,
            self.data.fingerprint,
            self._batch_size(work.hp),
            self.settings.averaging_epochs,
            self.schedule,
        )
        identity = " ".join(map(str, parts))
        if self.settings.swag:
            identity += " with snapshots"
        return Continuation(
            file=work.checkpoint_file,
            identity=identity,
            snapshot=snapshot,
            restore=restore,
        )

    def sweep(  # noqa: PLR0917
        self,
        hypermodel: HyperModel,
        hp: HyperParameters,
        model: keras.Model,
        seed: int,
        learning_rates: np.ndarray,
        steps_per_point: int,
    ) -> np.ndarray:
        """Train a few steps at each learning rate in turn, and return the mean training losses.

        The program is the one that `fit` uses. A model that no program can be shown to train is
        trained by Keras's `train_on_batch`, which changes it.

        Args:
            hypermodel: The HyperModel that built the model.
            hp: The hyperparameters that the model was built with.
            model: A compiled model that takes raw pixels (N, H, W, C).
            seed: Decides the order of the examples and the dropout masks.
            learning_rates: The learning rates, (n,).
            steps_per_point: Steps at each learning rate.

        Returns:
            The mean loss at each learning rate; fewer than n where the loss explodes.
        """
        order = self._order(hp, seed, self.settings.steps_per_call)
        work = Work(hypermodel, hp, model, seed, order)
        try:
            structure = structure_of(model, self.data.train.inputs)
            program = self._load_program(work, structure)
        except NoProgramError:
            examples = self._arrays(self.data.train, model)
            return sweep_by_keras(
                model,
                order,
                examples,
                learning_rates,
                steps_per_point,
            )
        program.load(model, work.seed_of_layer)
        return sweep_by_program(program, order, learning_rates, steps_per_point)

    def stop(self, error: BaseException) -> None:
        """End the fits that other threads wait in; this trainer has none."""

    def let_go(self) -> None:
        """Let go of the program; the next fit makes a new one.

        An error or an interruption may have left the program in any state. Letting go of it also
        frees its memory, for a trial that had too little.
        """
        self._programs.clear()

    def _arrays(self, part: Examples, model: keras.Model) -> tuple[np.ndarray, np.ndarray]:
        """Return images and labels, the labels in the form that the loss of `model` takes."""
        labels = part.targets
        if labels_for(model) == "onehot":
            labels = keras.utils.to_categorical(labels, self.data.n_classes)
        return part.inputs, labels

    def _on_device(self, model: keras.Model) -> Tensors:
        """Return all examples as tensors, the labels in the form that the loss of `model` takes."""
        form = labels_for(model)
        if form not in self._tensors:
            train = self._arrays(self.data.train, model)
            val = self._arrays(self.data.val, model)
            arrays = (*train, *val)
            tensors = map(keras.ops.convert_to_tensor, arrays)
            self._tensors = {form: tuple(tensors)}
            self._programs.clear()
        return self._tensors[form]

    def _batch_size(self, hp: HyperParameters) -> int:
        """Return the batch size of a fit: the hyperparameter if there is one, else the setting."""
        batch_size = hp.values.get("batch_size", self.settings.batch_size)
        return int(batch_size)

    def _order(
        self,
        hp: HyperParameters,
        seed: int,
        steps_per_call: int,
    ) -> Order:
        n_examples = len(self.data.train)
        batch_size = self._batch_size(hp)
        seed_of_epoch = partial(derive, seed, "order")
        return Order(n_examples, batch_size, steps_per_call, seed_of_epoch)

    def _averaging_of(self, work: Work) -> float:
        """Return the share that averaged weights keep of themselves in a step; 0 for no averaging.

        The HyperModel is asked where the settings say nothing.

        Raises:
            ConfigError: The optimizer averages weights already, or scales the loss.
        """
        n_epochs = self.settings.averaging_epochs
        if n_epochs is None:
            wanted = getattr(work.hypermodel, "averaging_epochs", 0.0)
            n_epochs = float(wanted)
        if not n_epochs:
            return 0.0
        optimizer = work.model.optimizer
        averages = getattr(optimizer, "use_ema", True)
        scales_loss = hasattr(optimizer, "inner_optimizer")
        if averages or scales_loss:
            raise ConfigError(
                f"training.averaging_epochs={n_epochs:g} cannot average the weights of a model "
                "whose optimizer averages or scales the loss itself; give "
                "training.averaging_epochs=0."
            )
        n_steps = n_epochs * work.order.n_steps
        return math.exp(-1 / n_steps)

    def _load_program(self, work: Work, structure: str) -> Program:
        """Return the program of a model.

        Raises:
            NoProgramError: No program can be shown to train the model as Keras does, or compiling
                one would take longer than it saves.
        """
        order = work.order
        # Below 2,000 steps of one trial, compiling takes longer than it saves, unless all trials
        # share one program.
        n_steps = self.settings.epochs * order.n_steps
        if self.varies and n_steps < 2000:
            raise NoProgramError(
                "compiling a program takes longer than it saves in so short a training, where each "
                "trial may have another structure"
            )
        tensors = self._on_device(work.model)
        # The averaging depends on the number of steps in an epoch.
        averaging = self._averaging_of(work)
        kind = (structure, averaging, order.batch_size, order.steps_per_call, order.n_rest)
        if kind not in self._programs:
            self._programs.clear()  # frees the memory of the other program first
            self._programs[kind] = proved_program(
                work,
                structure,
                tensors,
                self.remembered_proofs,
                averaging=averaging,
                jit=self.settings.jit_compile,
            )
        return self._programs[kind]
