"""Many trials of one architecture in one program: a leading trial axis over weights, optimizer,
seeds and data order.

Learning rate, momentum and dropout rate change no tensor's shape, so `jax.vmap` turns the loop of
one trial into that of many (Wang et al. 2021, "Horizontally Fused Training Array", MLSys). Each
trial keeps a thread of its own, in which
all is as for a trial alone: only `fit` meets the others, in a program that trains an epoch when all
who sit in it ask.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import keras
import keras_tuner
import numpy as np

from hpsearch.data.split import SearchData
from hpsearch.errors import ConfigError
from hpsearch.models.loss_and_optimizer import labels_for
from hpsearch.seeds import derive
from hpsearch.training.checkpoints import Slot
from hpsearch.training.epochs import Epochs, Fitted, Listener
from hpsearch.training.own_fit import becomes_another, owns_fit
from hpsearch.training.programs.averages import averages_of
from hpsearch.training.programs.on_jax import last_step_of, metrics_of, steps_of
from hpsearch.training.programs.order import Order
from hpsearch.training.programs.program import Program, jax_variables, numbers_of
from hpsearch.training.programs.proof import compiled_tolerance
from hpsearch.training.schedules import CONSTANT, Schedule, Scheduling
from hpsearch.training.settings import VAL_BATCH_SIZE, Training
from hpsearch.training.trainer import BY_PROGRAM, Told, Trainer, Work
from hpsearch.training.ways import NoProgramError, question, structure_of

State = list[list[Any]]


class FusedProgram:
    """A program with seats for `n_seats` trials; each is trained an epoch, and validated, in one
    compiled call.

    Args:
        program: Of a trial alone; what a seat holds passes through its variables on the way in and
            out.
        tensors: Images and labels of train, then of val.
        n_seats: How many trials.
    """

    def __init__(self, program: Program, tensors: tuple[Any, ...], n_seats: int) -> None:
        self.program, self.n_seats = program, n_seats
        self.state: State = [
            [jnp.stack([v.value] * n_seats) for v in part] for part in self._variables
        ]
        epoch = jax.vmap(_epoch_of(program, tensors), in_axes=(0, 0, None, 0, 0, 0))
        self._epoch = jax.jit(epoch, donate_argnums=0)
        self._fill = jax.jit(
            lambda state, seat, values: jax.tree.map(
                lambda all_of, v: all_of.at[seat].set(v), state, values
            ),
            donate_argnums=0,
        )
        self._read = jax.jit(lambda state, seat: jax.tree.map(lambda all_of: all_of[seat], state))

    @property
    def _variables(self) -> list[list[Any]]:
        return list(jax_variables(self.program.model))

    def put(self, seat: int) -> None:
        """Take what the program's variables hold into a seat."""
        self.state = self._fill(
            self.state, seat, [[v.value for v in part] for part in self._variables]
        )

    def get(self, seat: int) -> Program:
        """Return the program with its variables as a seat holds them."""
        for values, variables in zip(self._read(self.state, seat), self._variables, strict=True):
            for value, variable in zip(values, variables, strict=True):
                variable.assign(value)
        return self.program

    def run(self, orders: dict[int, Order]) -> dict[int, dict[str, float]]:
        """Train an epoch in the seats of `orders`, whatever happens in the others; return the
        metrics of each.
        """
        return self.run_elements({seat: order.element_at(0) for seat, order in orders.items()})

    def run_elements(
        self, elements: dict[int, tuple[np.ndarray, ...]]
    ) -> dict[int, dict[str, float]]:
        """Train the steps of an element of an `Order` in each seat; the elements have as many steps
        as one another.
        """
        anyone = next(iter(elements.values()))
        rows, tables, last, last_rates = (
            np.stack([elements.get(seat, anyone)[part] for seat in range(self.n_seats)])
            for part in (0, 2, 3, 5)
        )
        logs, state = self._epoch(self.state, rows, int(anyone[1][0]), tables, last, last_rates)
        self.state = [list(values) for values in state]
        found = {name: np.asarray(values) for name, values in logs.items()}
        return {
            seat: numbers_of({name: values[seat] for name, values in found.items()})
            for seat in elements
        }

    def differs(self, source: keras.Model, order: Order) -> str | None:
        """Return in words what a step in the seats does otherwise than one of the program alone;
        None for nothing.
        """
        rows, _, _, last, comes, _ = order.element_at(0)
        element = order.element(rows[:1], None, last if comes[0] else None)
        self.program.load(source, lambda layer: layer)
        before = self.program.snapshot()
        for seat in range(self.n_seats):
            self.put(seat)
        self.program.model.reset_metrics()
        alone = self.program.run(element)
        self.program.restore(before)
        seats = self.run_elements(dict.fromkeys(range(self.n_seats), element))
        tolerance = compiled_tolerance(self.program.model)
        for name, value in alone.items():
            rounding = (
                10 * tolerance * max(1.0, abs(value))
            )  # two steps, of which the first moves by its rounding
            rounding += 0.0 if name == "loss" else 2 / order.batch_size
            worst = seats[
                int(np.argmax([abs(seats[i][name] - value) for i in range(self.n_seats)]))
            ][name]
            if not abs(worst - value) <= rounding:
                return f"with others, its {name} is {worst:.6g} after a step, alone {value:.6g}"
        return None


def _epoch_of(program: Program, tensors: tuple[Any, ...]) -> Callable[..., Any]:
    """Return the epoch of one trial: training steps, then validation with the averaged weights."""
    model, (images, labels, val_images, val_labels) = program.model, tensors
    steps, last_step = steps_of(model, images, labels), last_step_of(model, images, labels)
    n_val, size = len(val_labels), min(VAL_BATCH_SIZE, len(val_labels))
    averages = [id(v) for v in averages_of(model.optimizer)] if program.averaging else []
    places = [
        next(i for i, v in enumerate(model.optimizer.variables) if id(v) == average)
        for average in averages
    ]

    def validate(trainable: Any, non_trainable: Any, fresh: Any) -> Any:
        def batch(begin: Any, length: int, state: Any) -> Any:
            part = [
                jax.lax.dynamic_slice_in_dim(a, begin, length) for a in (val_images, val_labels)
            ]
            return model.test_step(state, part)[1]

        state = (trainable, non_trainable, fresh)
        state = jax.lax.fori_loop(
            0, n_val // size, lambda i, state: batch(i * size, size, state), state
        )
        if n_val % size:
            state = batch(n_val - n_val % size, n_val % size, state)
        return metrics_of(model, state[2])

    def epoch(  # noqa: PLR0917
        state: Any, order: Any, n_steps: Any, table: Any, last: Any, last_rates: Any
    ) -> Any:
        fresh = [jnp.zeros_like(v) for v in state[3]]
        logs, state = steps((*state[:3], fresh), order, n_steps, table)
        if last.shape[0]:
            logs, state = last_step(state, last, last_rates)
        trainable = [state[2][place] for place in places] or state[0]
        val = validate(trainable, state[1], fresh)
        return logs | {f"val_{name}": value for name, value in val.items()}, state

    return epoch


class FusedTrainer(Trainer):
    """Fits up to `n_slots` models at once, each called for from a thread of its own.

    A model that needs another program, or a HyperModel's own `fit`, is trained alone, while the
    others wait.

    Raises:
        ConfigError: Keras runs on another backend than JAX.
    """

    def __init__(
        self, settings: Training, data: SearchData, n_slots: int, schedule: Schedule = CONSTANT
    ) -> None:
        if keras.backend.backend() != "jax":
            backend = keras.backend.backend()
            raise ConfigError(
                f"trainer=fused needs Keras on JAX, which is on {backend} here: set "
                f"KERAS_BACKEND=jax."
            )
        super().__init__(settings, data, schedule)
        self.n_slots = n_slots
        self._meeting = threading.Condition()
        self._fused: FusedProgram | None = None
        self._seated: dict[int, Order] = {}
        self._asked: set[int] = set()
        self._logs: dict[int, dict[str, float]] = {}
        self._stop: BaseException | None = None

    def stop(self, error: BaseException) -> None:
        """End all fits that wait for an epoch, with `error`."""
        with self._meeting:
            self._stop = error
            self._meeting.notify_all()

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
        """As `Trainer.fit`."""
        order = Order(
            len(self.data.train), self.batch_size(hp), 0, lambda epoch: derive(seed, "order", epoch)
        )
        with self._meeting:
            if self._stop is not None:
                raise self._stop
            fused = self._fused_for(hypermodel, hp, model, order)
            if fused is None:
                return super().fit(hypermodel, hp, model, seed, listener, slot=slot, told=told)
        told(f"{BY_PROGRAM}, together with other trials")
        with self._seat(order) as seat:
            work = Work(hypermodel, hp, model, seed, listener, slot, ())
            epochs, scheduling = self._sit(fused, seat, work)
            for n_epochs, metrics in enumerate(epochs.fitted.history, start=1):
                listener(n_epochs, metrics)
            while not epochs.patience_is_over and epochs.fitted.n_epochs < self.settings.epochs:
                epoch = epochs.fitted.n_epochs
                epochs.on_epoch_begin(epoch)
                scheduling.on_epoch_begin(epoch)
                epochs.on_epoch_end(epoch, self._next_epoch(fused, seat))
        fused.program.unload(model, epochs.best_state)
        return epochs.fitted

    def _fused_for(
        self,
        hypermodel: keras_tuner.HyperModel,
        hp: keras_tuner.HyperParameters,
        model: keras.Model,
        order: Order,
    ) -> FusedProgram | None:
        """Return the program that can train `model`, None where it must be trained alone."""
        if owns_fit(hypermodel) or becomes_another(hypermodel):
            return None
        tensors = self._on_device(labels_for(model))
        work = Work(hypermodel, hp, model, 0, lambda *_: None, None, tensors)
        try:
            structure = structure_of(model, self.data.train.images)
            kind = (structure, order.batch_size, self._averaging_of(work, order.n_steps))
            if self._fused is None:
                self._fused = self._fuse(structure, work, order)
                self._kind = kind
        except NoProgramError:
            return None
        return self._fused if self._kind == kind else None

    def _fuse(self, structure: str, work: Work, order: Order) -> FusedProgram:
        """Return a program that trains models of a structure together as it trains them alone.

        Raises:
            NoProgramError: It does not.
        """
        key = f"fused {question(structure)}"
        if self.answers.get(key):
            raise NoProgramError(self.answers[key])
        fused = FusedProgram(self._load_program(work, structure, order), work.tensors, self.n_slots)
        self.let_go()  # of this one, which is taken; a trial alone gets another
        if key not in self.answers:
            self.answers[key] = fused.differs(work.model, order) or ""
        if self.answers[key]:
            raise NoProgramError(self.answers[key])
        return fused

    @contextmanager
    def _seat(self, order: Order) -> Iterator[int]:
        with self._meeting:
            seat = next(seat for seat in range(self.n_slots) if seat not in self._seated)
            self._seated[seat] = order
        try:
            yield seat
        finally:
            with self._meeting:
                del self._seated[seat]
                self._asked.discard(seat)
                self._meeting.notify_all()  # the others need not wait for this one any more

    def _sit(self, fused: FusedProgram, seat: int, work: Work) -> tuple[Epochs, Scheduling]:
        """Put a trial, freshly built or as its checkpoint has it, into its seat."""

        def state() -> list[np.ndarray]:
            with self._meeting:
                return fused.get(seat).state()

        def snapshot() -> list[np.ndarray]:
            with self._meeting:
                return fused.get(seat).snapshot()

        with self._meeting:
            program = fused.program
            program.load(work.model, lambda layer: derive(work.seed, "dropout", layer))
            goes_on = self._continuation(work, program.name, snapshot, program.restore)
            epochs = self._epochs(
                work.listener, state, order=self._seated[seat], continuation=goes_on
            )
            epochs.set_model(program.model)
            scheduling = Scheduling(
                self.schedule, self._seated[seat], self.settings.epochs, program.drawn, epochs
            )
            fused.put(seat)
        return epochs, scheduling

    def _next_epoch(self, fused: FusedProgram, seat: int) -> dict[str, float]:
        """Ask for the next epoch, and return its metrics; whoever finds that all have asked runs
        it.
        """
        with self._meeting:
            self._asked.add(seat)
            while seat in self._asked:
                if self._stop is not None:
                    raise self._stop
                if self._asked == self._seated.keys():
                    self._logs = fused.run(self._seated)
                    self._asked.clear()
                    self._meeting.notify_all()
                else:
                    self._meeting.wait()
            return self._logs[seat]
