"""Fit one model: tell a listener of each epoch, stop early, refuse NaN, keep the best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import keras_tuner
import numpy as np

from hpsearch.architectures.compiling import labels_for
from hpsearch.data import Examples, SearchData
from hpsearch.errors import ConfigError, DivergedError, did_you_mean
from hpsearch.programs import Averaging, Order, Program, on_device, signature
from hpsearch.schedules import Place, Schedule
from hpsearch.seeds import derive

VAL_BATCH_SIZE = 1000
EXPLODED = 4.0  # times the lowest loss: a sweep of learning rates ends there
Listener = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Training:
    """Settings of a fit; see conf/training for what each means."""

    epochs: int
    batch_size: int
    patience_epochs: int
    monitor: str
    averaging_epochs: float
    steps_per_call: int
    jit_compile: bool | None

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience_epochs", 1), ("steps_per_call", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"training.{name} must be at least {least}, but is {getattr(self, name)}.")
        if self.averaging_epochs < 0:
            raise ConfigError(f"training.averaging_epochs must be 0 or more, but is {self.averaging_epochs}.")

    @property
    def maximize(self) -> bool:
        """Whether more of the monitored metric is better."""
        return not self.monitor.endswith(("loss", "error"))


@dataclass
class Fitted:
    """What a fit came to: its best epoch (counted from 1), the metrics then, and how many epochs it took."""

    best_epoch: int = 0
    n_epochs: int = 0
    metrics: dict[str, float] = field(default_factory=dict)


def metric_key(keras_name: str) -> str:
    """Return MLflow's key of a Keras log: `val_loss` is `val/loss`, `loss` is `train/loss`."""
    return f"val/{keras_name[4:]}" if keras_name.startswith("val_") else f"train/{keras_name}"


def check_monitor(model: keras.Model, monitor: str) -> None:
    """Raise ConfigError unless fitting `model` will report `monitor`."""
    names = ["loss", *(m if isinstance(m, str) else m.name for m in model.get_compile_config()["metrics"] or [])]
    valid = [f"{part}/{name}" for part in ("train", "val") for name in names]
    if monitor not in valid:
        raise ConfigError(f"training.monitor={monitor} is no metric of this model.{did_you_mean(monitor, valid)}")


class Trainer:
    """Fits models on one data set, which it holds on the device for all trials of a study."""

    def __init__(self, settings: Training, data: SearchData, schedule: Schedule) -> None:
        self.settings = settings
        self.schedule = schedule
        self.data = data
        self._tensors: dict[str, tuple[Any, ...]] = {}
        self._program: tuple[str, Program] | None = None

    def fit(
        self,
        hypermodel: keras_tuner.HyperModel,
        hp: keras_tuner.HyperParameters,
        model: keras.Model,
        seed: int,
        listener: Listener,
    ) -> Fitted:
        """Fit `model` and leave the weights of its best epoch in it.

        Args:
            hypermodel: Where the model comes from; its own `fit`, if it has one, is what runs.
            hp: The hyperparameters that the model was built with.
            model: A compiled model that takes raw pixels (N, H, W, C).
            seed: Decides the order of the examples and the dropout masks.
            listener: Called as `listener(n_epochs, metrics)` after each epoch; what it raises ends the fit.

        Raises:
            DivergedError: The training or validation loss is NaN or infinite.
        """
        tensors = self._on_device(labels_for(model))
        if type(hypermodel).fit is not keras_tuner.HyperModel.fit:
            return self._fit_its_own_way(hypermodel, hp, model, tensors, listener)
        order = self._order(lambda epoch: derive(seed, "order", epoch))
        program = self._load_program(model, order.n_steps, tensors)
        program.load(model, lambda layer: derive(seed, "dropout", layer))
        epochs = _Epochs(self.settings, listener, program.state, order)
        scheduling = Scheduling(self.schedule, order, self.settings.epochs, *program.drawn)
        averaging = [Averaging()] if program.averaging else []
        callbacks = [epochs, scheduling, *averaging]
        hypermodel.fit(hp, program.model, x=order, shuffle=False, callbacks=callbacks, **self._common(tensors))
        program.unload(model, epochs.best_state)
        return epochs.fitted

    def sweep(self, model: keras.Model, seed: int, learning_rates: np.ndarray, steps_per_point: int) -> np.ndarray:
        """Train a few steps at each learning rate in turn, and return the mean training loss at each, (n,).

        It ends early where the loss explodes. `model` keeps its weights; the program is the one that `fit` uses.
        """
        tensors = self._on_device(labels_for(model))
        order = self._order(lambda epoch: derive(seed, "order", epoch))
        program = self._load_program(model, order.n_steps, tensors)
        program.load(model, lambda layer: derive(seed, "dropout", layer))
        sweep = Sweep(order, learning_rates, program.drawn[1], min(steps_per_point, order.steps_per_call))
        losses = _Losses()
        program.model.fit(sweep, shuffle=False, verbose=0, callbacks=[losses])
        return np.array(losses.found)

    def _fit_its_own_way(self, hypermodel: Any, hp: Any, model: Any, tensors: Any, listener: Listener) -> Fitted:
        epochs = _Epochs(self.settings, listener, model.get_weights)
        hypermodel.fit(hp, model, x=tensors[0], y=tensors[1], callbacks=[epochs], **self._common(tensors))
        model.set_weights(epochs.best_state)
        return epochs.fitted

    def _common(self, tensors: tuple[Any, ...]) -> dict[str, Any]:
        val = {"validation_data": tensors[2:], "validation_batch_size": VAL_BATCH_SIZE}
        return {"epochs": self.settings.epochs, "verbose": 0, **val}

    def _on_device(self, form: str) -> tuple[Any, ...]:
        if form not in self._tensors:
            parts = [_arrays(part, form, self.data.n_classes) for part in (self.data.train, self.data.val)]
            self._tensors = {form: tuple(on_device(array) for pair in parts for array in pair)}
            self._program = None
        return self._tensors[form]

    def _order(self, seed_of_epoch: Callable[[int], int]) -> Order:
        n = len(self.data.train.labels)
        return Order(n, self.settings.batch_size, self.settings.steps_per_call, seed_of_epoch)

    def _load_program(self, model: keras.Model, n_steps: int, tensors: tuple[Any, ...]) -> Program:
        text = signature(model)
        if self._program is None or text is None or self._program[0] != text:
            self._program = None  # one at a time: a program holds a copy of the weights and of the optimizer
            jit = self.settings.jit_compile
            jit = _is_compiled_faster(model) if jit is None else jit
            averaged = self.settings.averaging_epochs * n_steps
            averaging = math.exp(-1 / averaged) if averaged else 0.0
            self._program = (text or "", Program(model, tensors[0], tensors[1], averaging, jit))
        return self._program[1]


class Sweep(keras.utils.PyDataset):  # type: ignore[misc]
    """Elements of an order, each with a few steps at one learning rate."""

    def __init__(self, order: Order, learning_rates: np.ndarray, momentum: float, n_steps: int) -> None:
        super().__init__()
        self.order, self.learning_rates, self.momentum, self.n_steps = order, learning_rates, momentum, n_steps

    def __len__(self) -> int:
        return len(self.learning_rates)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n, size = self.order.n_examples, self.order.batch_size
        places = np.arange(index * self.n_steps * size, (index + 1) * self.n_steps * size) % n
        shuffled = np.random.default_rng(self.order.seed_of_epoch(0)).permutation(n)
        rates = np.tile([self.learning_rates[index], self.momentum], (self.n_steps, 1))
        return self.order.element(shuffled[places].reshape(self.n_steps, size), rates)


class _Losses(keras.callbacks.Callback):  # type: ignore[misc]
    """Collects the loss of each element: Keras reports the mean of all so far."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        loss = (batch + 1) * float(logs["loss"]) - sum(self.found)
        if not math.isfinite(loss) or (self.found and loss > EXPLODED * min(self.found)):
            self.model.stop_training = True
        else:
            self.found.append(loss)


class Scheduling(keras.callbacks.Callback):  # type: ignore[misc]
    """Sits in Keras's fit and writes the rates of each epoch into its order."""

    def __init__(
        self, schedule: Schedule, order: Order, n_epochs: int, learning_rate: float | None, momentum: float
    ) -> None:
        super().__init__()
        self.schedule, self.order, self.n_epochs = schedule, order, n_epochs
        self.learning_rate, self.momentum = learning_rate, momentum
        self.losses: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Write the rates, unless the model brings a Keras schedule."""
        if self.learning_rate is None:
            return
        place = Place(epoch, self.n_epochs, self.order.n_steps, self.losses)
        self.order.rates = np.stack(self.schedule.rates(self.learning_rate, self.momentum, place), axis=1)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Remember the validation loss."""
        self.losses.append(float(logs["val_loss"]))


class _Epochs(keras.callbacks.Callback):  # type: ignore[misc]
    """Sits in Keras's fit: names and checks the metrics, keeps the best state, tells the listener, stops early."""

    def __init__(
        self,
        settings: Training,
        listener: Listener,
        state: Callable[[], list[np.ndarray]],
        order: Order | None = None,
    ) -> None:
        super().__init__()
        self.settings, self.listener, self.state, self.order = settings, listener, state, order
        self.fitted = Fitted()
        self.best_state: list[np.ndarray] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begin = time.perf_counter()
        if self.order is not None:
            self.order.epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        n_epochs = epoch + 1
        metrics = {metric_key(name): float(value) for name, value in logs.items()}
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise DivergedError(f"{name} is {value} after epoch {n_epochs}.")
        metrics["time/epoch_s"] = time.perf_counter() - self._begin
        self.fitted.n_epochs = n_epochs
        if self._improves(metrics[self.settings.monitor]):
            self.fitted.best_epoch, self.fitted.metrics = n_epochs, metrics
            self.best_state = self.state()
        self.listener(n_epochs, metrics)
        if n_epochs - self.fitted.best_epoch >= self.settings.patience_epochs:
            self.model.stop_training = True

    def _improves(self, value: float) -> bool:
        best = self.fitted.metrics.get(self.settings.monitor)
        return best is None or (value > best if self.settings.maximize else value < best)


def _arrays(part: Examples, form: str, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    labels = keras.utils.to_categorical(part.labels, n_classes) if form == "onehot" else part.labels
    return part.images, labels


def _is_compiled_faster(model: keras.Model) -> bool:
    """XLA for all, but for convolutions on a CPU, where TensorFlow's own kernels are faster."""
    convolves = any("Conv" in type(layer).__name__ for layer in model.layers)
    on_cpu = not keras.distribution.list_devices("gpu")
    return not (convolves and on_cpu and keras.backend.backend() == "tensorflow")
