"""The training of one model: `Trainer.fit`, by a compiled program or by Keras's own `fit`.

A fit reports each epoch to a listener, stops early, ends with an error at a loss that is NaN or
infinite, keeps the weights of the best epoch, and continues from a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import keras
import keras_tuner
import numpy as np

from hpsearch.data.split import Examples, SearchData
from hpsearch.errors import ConfigError
from hpsearch.models.architecture import build_model
from hpsearch.models.loss_and_optimizer import labels_for
from hpsearch.seeds import derive
from hpsearch.training.checkpoints import CheckpointFile
from hpsearch.training.epochs import Continuation, Epochs, Fitted, Listener
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
from hpsearch.training.schedules import (
    CONSTANT,
    RatesOfSteps,
    Schedule,
    Scheduling,
    sweep_by_keras,
    sweep_by_program,
)
from hpsearch.training.settings import BATCH_SIZE, VAL_BATCH_SIZE, Training

BY_PROGRAM = "by a compiled program, which takes the same steps as Keras's fit"
BY_KERAS = "by Keras's own fit:"


@dataclass(frozen=True)
class Work:
    """The arguments of one call of `Trainer.fit`, and the examples in the form that it needs."""

    hypermodel: keras_tuner.HyperModel
    hp: keras_tuner.HyperParameters
    model: keras.Model
    seed: int
    listener: Listener
    checkpoint_file: CheckpointFile | None
    tensors: Tensors

    def seed_of_epoch(self, epoch: int) -> int:
        """Return the seed of the order of the examples in an epoch, counted from 0."""
        return derive(self.seed, "order", epoch)

    def seed_of_layer(self, layer: int) -> int:
        """Return the seed of the masks of a dropout layer, counted from 0."""
        return derive(self.seed, "dropout", layer)

    def tell_earlier_epochs(self, fitted: Fitted) -> None:
        """Tell the listener of the epochs that were trained before the checkpoint."""
        for n_epochs, metrics in enumerate(fitted.history, start=1):
            self.listener(n_epochs, metrics)


class _Held(NamedTuple):
    """The program that a trainer holds, and everything on which its making depends."""

    program: Program
    kind: tuple[object, ...]


class Trainer:
    """Fits models on one data set, which it holds on the device for all trials of a study.

    Args:
        settings: The settings of all fits.
        data: The data set; its train part is trained on, its val part gives the val metrics.
        schedule: Computes learning rate and momentum of each step from those of the trial.

    Attributes:
        n_slots: The number of fits that can run at the same time.
        varies: Whether trials may have different structures.
        remembered_proofs: What earlier proofs of programs have found; see
            `how_trained.proved_program`.
    """

    n_slots = 1

    def __init__(self, settings: Training, data: SearchData, schedule: Schedule = CONSTANT) -> None:
        self.settings = settings
        self.schedule = schedule
        self.data = data
        self.varies = False
        self.remembered_proofs: MutableMapping[str, str] = {}
        self._tensors: dict[str, Tensors] = {}
        self._held: _Held | None = None

    def fit(
        self,
        hypermodel: keras_tuner.HyperModel,
        hp: keras_tuner.HyperParameters,
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
            listener: Called as `listener(n_epochs, metrics)` after each epoch, and first for each
                epoch before a checkpoint. An exception that it raises ends the fit.
            checkpoint_file: Where checkpoints are kept. The fit continues from a checkpoint of the
                same fit if there is one. It writes checkpoints at intervals and when the listener
                raises. A HyperModel's own `fit` writes none and always begins anew.
            told: Called before the first epoch with the way in which the model is trained, in
                words.

        Raises:
            DivergedError: A loss or the monitored metric is NaN or infinite.
        """
        tensors = self._on_device(labels_for(model))
        work = Work(hypermodel, hp, model, seed, listener, checkpoint_file, tensors)
        if owns_fit(hypermodel):
            told("by its HyperModel's own fit")
            return self._fit_its_own_way(work)
        order = self._order(work)
        structure = None
        try:
            structure = structure_of(model, self.data.train.inputs)
            program = self._load_program(work, structure, order)
        except NoProgramError as reason:
            told(f"{BY_KERAS} {reason}")
            return self._fit_by_keras(work, order, structure)
        told(BY_PROGRAM)
        return self._fit_by_program(work, order, program)

    def _fit_by_program(self, work: Work, order: Order, program: Program) -> Fitted:
        program.load(work.model, work.seed_of_layer)
        continuation = self._continuation(work, program.name, program.snapshot, program.restore)
        epochs = Epochs(self.settings, work.listener, program.state, order, continuation)
        callbacks = [epochs]
        callbacks.append(Scheduling(self.schedule, order, program.drawn, epochs))
        callbacks.extend(companions(work.hypermodel, epochs))
        if program.averaging:
            callbacks.append(Averaging())
        self._run(work, program.model, order, epochs, callbacks)
        program.unload(work.model, epochs.best_state)
        return epochs.fitted

    def _fit_by_keras(self, work: Work, order: Order, structure: str | None) -> Fitted:
        """Fit the model itself by Keras's own `fit`, on the batches that a program would see.

        `structure` is None for a model whose state is not wholly known. Such a model gets neither
        checkpoints nor a schedule.
        """
        model = work.model
        optimizer = model.optimizer
        averaging = self._averaging_of(work, order.n_steps)
        if averaging:
            average_weights(optimizer, averaging)

        def state() -> list[np.ndarray]:
            return kept_values(model, model.variables, averaging)

        drawn = None
        continuation = None
        if structure is not None:
            drawn = rates_of(optimizer)
            self._build_for_keras(model)
            continuation = self._continuation_by_keras(work, structure)
        epochs = Epochs(self.settings, work.listener, state, order, continuation)
        callbacks = [epochs, *companions(work.hypermodel, epochs)]
        if averaging:
            callbacks.append(Averaging())
        if drawn is not None and self.schedule != CONSTANT:
            callbacks.append(Scheduling(self.schedule, order, drawn, epochs))
            callbacks.append(RatesOfSteps(order))
        images, labels = self._train
        batches = Batches(order, images, labels)
        self._run(work, model, batches, epochs, callbacks)
        copy_values(epochs.best_state, model.variables)
        return epochs.fitted

    def _build_for_keras(self, model: keras.Model) -> None:
        """Build the optimizer and the metrics of a model, whose variables a checkpoint holds."""
        if self.schedule != CONSTANT:
            momentum_input(model.optimizer)
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        images, labels = self._train
        build_metrics(model, images[:1], labels[:1])

    def _continuation_by_keras(self, work: Work, structure: str) -> Continuation | None:
        """Return what reads and writes the checkpoints of a fit that is Keras's own."""
        model = work.model

        def variables() -> list[keras.Variable]:
            return [*model.variables, *model.optimizer.variables]

        def snapshot() -> list[np.ndarray]:
            return values_of(variables())

        def restore(saved: list[np.ndarray]) -> None:
            copy_values(saved, variables())

        return self._continuation(work, f"fit {structure}", snapshot, restore)

    def _run(
        self,
        work: Work,
        model: keras.Model,
        x: keras.utils.PyDataset,
        epochs: Epochs,
        callbacks: list[keras.callbacks.Callback],
    ) -> None:
        """Let the HyperModel fit `model` on the elements of `x`, from its checkpoint on."""
        work.tell_earlier_epochs(epochs.fitted)
        if epochs.patience_is_over:  # an earlier process died between the last epoch and the end
            return
        work.hypermodel.fit(
            work.hp,
            model,
            x=x,
            shuffle=False,
            initial_epoch=epochs.fitted.n_epochs,
            callbacks=callbacks,
            **self._common(work.tensors),
        )

    def _continuation(
        self,
        work: Work,
        name: str,
        snapshot: Callable[[], list[np.ndarray]],
        restore: Callable[[list[np.ndarray]], None],
    ) -> Continuation | None:
        if work.checkpoint_file is None:
            return None
        identity = self._identity(name, work)
        return Continuation(work.checkpoint_file, identity, snapshot, restore)

    def sweep(  # noqa: PLR0917
        self,
        hypermodel: keras_tuner.HyperModel,
        hp: keras_tuner.HyperParameters,
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
        tensors = self._on_device(labels_for(model))
        work = Work(hypermodel, hp, model, seed, lambda *_: None, None, tensors)
        order = self._order(work)
        try:
            structure = structure_of(model, self.data.train.inputs)
            program = self._load_program(work, structure, order)
        except NoProgramError:
            return sweep_by_keras(model, order, self._train, learning_rates, steps_per_point)
        program.load(model, work.seed_of_layer)
        return sweep_by_program(program, order, learning_rates, steps_per_point)

    def stop(self, error: BaseException) -> None:
        """End the fits that other threads wait in; this trainer has none."""

    def let_go(self) -> None:
        """Let go of the program; the next fit makes a new one.

        An error or an interruption may have left the program in any state. Letting go of it also
        frees its memory, for a trial that had too little.
        """
        self._held = None

    def _fit_its_own_way(self, work: Work) -> Fitted:
        """Let the HyperModel's own `fit` train the model."""
        model = work.model
        images, labels = work.tensors[:2]
        epochs = Epochs(self.settings, work.listener, model.get_weights)
        common = self._common(work.tensors)
        fit = model.fit
        # This batch size holds unless the HyperModel's `fit` gives another one.
        model.fit = partial(fit, batch_size=self.batch_size(work.hp))
        try:
            work.hypermodel.fit(work.hp, model, x=images, y=labels, callbacks=[epochs], **common)
        finally:
            model.fit = fit
        model.set_weights(epochs.best_state)
        return epochs.fitted

    def _identity(self, name: str, work: Work) -> str:
        """Return a text that no other fit has, of another trial or with other settings."""
        parts = (
            type(self).__name__,
            keras.backend.backend(),
            name,
            work.seed,
            self.data.fingerprint,
            self.batch_size(work.hp),
            self.settings.averaging_epochs,
            self.schedule,
        )
        return " ".join(str(part) for part in parts)

    def _common(self, tensors: Tensors) -> dict[str, object]:
        """Return the arguments that all calls of a `fit` share."""
        return {
            "epochs": self.settings.epochs,
            "verbose": 0,
            "validation_data": tensors[2:],
            "validation_batch_size": VAL_BATCH_SIZE,
        }

    def _on_device(self, form: str) -> Tensors:
        """Return all examples as tensors, with labels in the form that `labels_for` names."""
        if form not in self._tensors:
            n_classes = self.data.n_classes
            train = _arrays(self.data.train, form, n_classes)
            val = _arrays(self.data.val, form, n_classes)
            self._train = train
            tensors = tuple(map(keras.ops.convert_to_tensor, (*train, *val)))
            self._tensors = {form: tensors}
            self._held = None
        return self._tensors[form]

    def batch_size(self, hp: keras_tuner.HyperParameters) -> int:
        """Return the batch size of a fit: the hyperparameter if there is one, else the setting."""
        return int(hp.values.get(BATCH_SIZE, self.settings.batch_size))

    def _order(self, work: Work) -> Order:
        n_examples = len(self.data.train.targets)
        batch_size = self.batch_size(work.hp)
        return Order(n_examples, batch_size, self.settings.steps_per_call, work.seed_of_epoch)

    def _averaging_of(self, work: Work, n_steps: int) -> float:
        """Return the share that averaged weights keep of themselves in a step; 0 for no averaging.

        Args:
            work: The fit; its HyperModel is asked where the settings say nothing.
            n_steps: Steps of an epoch.

        Raises:
            ConfigError: The optimizer averages weights already, or scales the loss.
        """
        n_epochs = self.settings.averaging_epochs
        if n_epochs is None:
            n_epochs = float(getattr(work.hypermodel, "averaging_epochs", 0.0))
        if not n_epochs:
            return 0.0
        if not _can_average(work.model.optimizer):
            raise ConfigError(
                f"training.averaging_epochs={n_epochs:g} cannot average the weights of a model "
                "whose optimizer averages or scales the loss itself; give "
                "training.averaging_epochs=0."
            )
        return math.exp(-1 / (n_epochs * n_steps))

    def _load_program(self, work: Work, structure: str, order: Order) -> Program:
        """Return the program of a model.

        Only one program is held at a time, because each has a copy of weights and optimizer.

        Raises:
            NoProgramError: No program can be shown to train the model as Keras does, or compiling
                one would take longer than it saves.
        """
        # Below 2,000 steps of one trial, compiling takes longer than it saves, unless all trials
        # share one program.
        if self.varies and self.settings.epochs * order.n_steps < 2000:
            raise NoProgramError(
                "compiling a program takes longer than it saves in so short a training, where each "
                "trial may have another structure"
            )
        # The averaging depends on the number of steps in an epoch.
        averaging = self._averaging_of(work, order.n_steps)
        kind = (structure, averaging, order.batch_size, order.steps_per_call, order.n_rest)
        if self._held is not None and self._held.kind == kind:
            return self._held.program
        self._held = None  # frees the memory of the other program first
        program = proved_program(
            structure,
            work.model,
            lambda: build_model(work.hypermodel, work.hp),
            work.tensors,
            order,
            self.remembered_proofs,
            averaging=averaging,
            jit=self.settings.jit_compile,
        )
        self._held = _Held(program, kind)
        return program


def _can_average(optimizer: keras.optimizers.Optimizer) -> bool:
    """Return whether an optimizer can average weights, and does not yet do so."""
    if not hasattr(optimizer, "use_ema"):
        return False
    return not optimizer.use_ema and not hasattr(optimizer, "inner_optimizer")


def _arrays(part: Examples, form: str, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels, one-hot if `form` says so."""
    labels = part.targets
    if form == "onehot":
        labels = keras.utils.to_categorical(labels, n_classes)
    return part.inputs, labels
