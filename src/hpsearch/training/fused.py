"""Many trials of one architecture, trained together by one compiled program on JAX.

Learning rate, momentum and dropout rate change no tensor's shape. So `jax.vmap` turns the training
loop of one trial into that of many, with a leading trial axis over weights, optimizer state, seeds
and data order (Wang et al. 2021, "Horizontally Fused Training Array", MLSys).

Each trial runs in a thread of its own, as it would alone. Only inside `FusedTrainer.fit` do the
threads meet: the program has a seat for each trial, and trains an epoch when all trials in its
seats have asked for one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax import Array

from hpsearch.data.split import SearchData
from hpsearch.errors import ConfigError
from hpsearch.models.loss_and_optimizer import numbers_of
from hpsearch.training.epochs import Epochs, Fitted, Work
from hpsearch.training.how_trained import NoProgramError, Tensors, question, structure_of
from hpsearch.training.own_fit import may_change_form, owns_fit
from hpsearch.training.programs.averages import averages_of
from hpsearch.training.programs.on_jax import State, metrics_of, steps_of
from hpsearch.training.programs.order import Element, Order
from hpsearch.training.programs.program import Program, jax_variables
from hpsearch.training.programs.proof import compiled_tolerance
from hpsearch.training.schedules import Schedule
from hpsearch.training.scheduling import Scheduling
from hpsearch.training.settings import VAL_BATCH_SIZE, Training
from hpsearch.training.trainer import Trainer


class FusedProgram:
    """A program with a seat for each of `n_seats` trials.

    One compiled call trains an epoch in every seat, and validates.

    Args:
        program: The program of one trial alone. A trial enters and leaves its seat by way of the
            variables of this program.
        tensors: Images and labels of train, then of val.
        n_seats: The number of trials.
    """

    def __init__(
        self,
        program: Program,
        tensors: Tensors,
        n_seats: int,
    ) -> None:
        self.program = program
        self.n_seats = n_seats

        def of_all_seats(value: Array) -> Array:
            copies = [value] * n_seats
            return jnp.stack(copies)

        values = self._values()
        self.state: State = jax.tree.map(of_all_seats, values)
        epoch = _epoch_of(program, tensors)
        axes = (0, 0, None, 0, 0, 0)  # all seats have the same number of steps
        epochs = jax.vmap(epoch, in_axes=axes)
        self._epoch = jax.jit(epochs, donate_argnums=0)
        self._fill = jax.jit(_fill, donate_argnums=0)
        self._read = jax.jit(_read)

    def _values(self) -> State:
        """Return the values of the program's variables."""
        parts = jax_variables(self.program.model)
        return [[v.value for v in part] for part in parts]

    def put(self, seat: int) -> None:
        """Copy the program's variables into a seat."""
        self.state = self._fill(self.state, seat, self._values())

    def get(self, seat: int) -> Program:
        """Copy a seat into the program's variables, and return the program."""
        values = self._read(self.state, seat)
        self.program.set_jax_state(values)
        return self.program

    def run(self, elements: Mapping[int, Element]) -> dict[int, dict[str, float]]:
        """Train one element of an `Order` in each seat, validate, and return the metrics.

        All elements must have the same number of steps. The seats without one are trained on
        arbitrary examples, and their contents are lost.
        """
        any_element = next(iter(elements.values()))
        of_seats = [elements.get(seat, any_element) for seat in range(self.n_seats)]
        parts = zip(*of_seats, strict=True)
        stacked = map(np.stack, parts)
        rows, n_steps, tables, last, _, last_rates = stacked
        n_steps_of_all = int(n_steps[0, 0])
        logs, state = self._epoch(self.state, rows, n_steps_of_all, tables, last, last_rates)
        self.state = list(map(list, state))
        logs = jax.device_get(logs)
        found = {}
        for seat in elements:
            of_seat = {name: values[seat] for name, values in logs.items()}
            found[seat] = numbers_of(of_seat)
        return found

    def differs(self, source: keras.Model, order: Order) -> str | None:
        """Return in words how a step in the seats differs from one of the program alone.

        Return None where it does not differ.

        Args:
            source: A freshly built model, whose weights the step begins with.
            order: Gives the batch of the step.
        """
        rows, _, _, last, comes, _ = order.element_at(0)
        rest = None
        if comes[0]:
            rest = last
        element = order.element(rows[:1], None, rest)
        self.program.load(source, lambda layer: layer)
        before = self.program.snapshot()
        for seat in range(self.n_seats):
            self.put(seat)
        self.program.model.reset_metrics()
        alone = self.program.run(element)
        self.program.restore(before)
        elements = dict.fromkeys(range(self.n_seats), element)
        seats = self.run(elements)
        tolerance = compiled_tolerance(self.program.model)
        for name, value in alone.items():
            # Up to two steps are made, and the rounding of the first one changes the second one.
            size = max(1.0, abs(value))
            rounding = 10 * tolerance * size
            if name != "loss":
                rounding += 2 / order.batch_size  # examples on the border of two classes
            found = [logs[name] for logs in seats.values()]
            gaps = np.subtract(found, value)
            distances = np.abs(gaps)
            seat_of_worst = int(np.argmax(distances))
            worst = found[seat_of_worst]
            if not abs(worst - value) <= rounding:  # also where one of them is NaN
                return f"with others, its {name} is {worst:.6g} after a step, alone {value:.6g}"
        return None


def _fill(state: State, seat: int, values: State) -> State:
    """Return the state of all seats with `values` in one seat."""

    def fill(of_all: Array, value: Array) -> Array:
        return of_all.at[seat].set(value)

    filled: State = jax.tree.map(fill, state, values)
    return filled


def _read(state: State, seat: int) -> State:
    """Return the state of one seat."""
    found: State = jax.tree.map(lambda of_all: of_all[seat], state)
    return found


def _epoch_of(
    program: Program,
    tensors: Tensors,
) -> Callable[..., tuple[dict[str, Array], State]]:
    """Return the epoch of one trial: training steps, then validation with the averaged weights."""
    model = program.model
    images, labels, val_images, val_labels = tensors
    steps, last_step = steps_of(model, images, labels)
    validate = _validation_of(model, val_images, val_labels)
    places = []  # of the averaged weights among the variables of the optimizer
    if program.averaging:
        ids = [id(v) for v in model.optimizer.variables]
        averages = averages_of(model.optimizer)
        places = [ids.index(id(average)) for average in averages]

    def epoch(  # noqa: PLR0917
        state: State,
        rows: Array,
        n_steps: Array,
        table: Array,
        last: Array,
        last_rates: Array,
    ) -> tuple[dict[str, Array], State]:
        trainable, non_trainable, optimizer, metrics = state
        fresh = [jnp.zeros_like(v) for v in metrics]
        begin = (trainable, non_trainable, optimizer, fresh)
        logs, state = steps(begin, rows, n_steps, table)
        if last.shape[0]:
            logs, state = last_step(state, last, last_rates)
        trainable, non_trainable, optimizer, _ = state
        if places:
            trainable = [optimizer[place] for place in places]
        val_logs = validate((trainable, non_trainable, fresh))
        of_val = {f"val_{name}": value for name, value in val_logs.items()}
        return {**logs, **of_val}, state

    return epoch


def _validation_of(
    model: keras.Model,
    images: Array,
    labels: Array,
) -> Callable[[State], dict[str, Array]]:
    """Return the function from (weights, other variables, fresh metrics) to the val metrics."""
    n_examples = len(labels)
    batch_size = min(VAL_BATCH_SIZE, n_examples)
    n_batches, n_rest = divmod(n_examples, batch_size)

    def test(begin: int, size: int, state: State) -> State:
        part_images = jax.lax.dynamic_slice_in_dim(images, begin, size)
        part_labels = jax.lax.dynamic_slice_in_dim(labels, begin, size)
        _, state = model.test_step(state, [part_images, part_labels])
        return state

    def test_batch(i: int, state: State) -> State:
        return test(i * batch_size, batch_size, state)

    def validate(state: State) -> dict[str, Array]:
        state = jax.lax.fori_loop(0, n_batches, test_batch, state)
        if n_rest:
            state = test(n_examples - n_rest, n_rest, state)
        _, _, metrics = state
        return metrics_of(model, metrics)

    return validate


class FusedTrainer(Trainer):
    """Fits up to `n_slots` models at once, each called for from a thread of its own.

    A model that needs another program than the others, and one whose HyperModel has a `fit` of its
    own, is trained alone while the others wait.

    Args:
        settings: The settings of all fits.
        data: The data set.
        n_slots: The number of fits that can run at the same time.
        schedule: Computes learning rate and momentum of each step from those of the trial.

    Raises:
        ConfigError: Keras runs on another backend than JAX, or the moments of SWAG are asked for.
    """

    def __init__(
        self,
        settings: Training,
        data: SearchData,
        n_slots: int,
        schedule: Schedule | None = None,
    ) -> None:
        if settings.swag:
            raise ConfigError(
                "training.swag=true needs trainer=alone, since trainer=fused collects no moments "
                "of SWAG."
            )
        backend = keras.backend.backend()
        if backend != "jax":
            raise ConfigError(
                f"trainer=fused needs Keras on JAX, but Keras is on {backend} here: set "
                "KERAS_BACKEND=jax."
            )
        super().__init__(settings, data, schedule)
        self.n_slots = n_slots
        self._meeting = threading.Condition()
        # The programs, by all that the making of a program depends on.
        self._fused: dict[object, FusedProgram] = {}
        self._seated: dict[int, Order] = {}
        self._asked: set[int] = set()
        self._logs: dict[int, dict[str, float]] = {}
        self._stop: BaseException | None = None

    def stop(self, error: BaseException) -> None:
        """End all fits that wait for an epoch, with `error`."""
        with self._meeting:
            self._stop = error
            self._meeting.notify_all()

    def _fit(self, work: Work, told: Callable[[str], None]) -> Fitted:
        """Fit a model as a `Trainer` does, if possible together with other trials."""
        order = self._order(work.hp, work.seed, 0)
        together = replace(work, order=order)
        with self._meeting:
            if self._stop is not None:
                raise self._stop
            fused = self._fused_for(together)
            if fused is None:
                return super()._fit(work, told)
        told(f"{self.BY_PROGRAM}, together with other trials")
        with self._seat(order) as seat:
            epochs, scheduling = self._sit(fused, seat, together)
            epochs.tell_earlier_epochs()
            for epoch in range(epochs.fitted.n_epochs, self.settings.epochs):
                if epochs.patience_is_over:
                    break
                epochs.on_epoch_begin(epoch)
                scheduling.on_epoch_begin(epoch)
                logs = self._next_epoch(fused, seat)
                epochs.on_epoch_end(epoch, logs)
        fused.program.unload(work.model, epochs.best_state)
        return epochs.fitted

    def _fused_for(self, work: Work) -> FusedProgram | None:
        """Return the program that can train a model, None where it must be trained alone."""
        if owns_fit(work.hypermodel) or may_change_form(work.hypermodel):
            return None
        try:
            structure = structure_of(work.model, self.data.train.inputs)
            averaging = self._averaging_of(work)
            kind = (structure, work.order.batch_size, averaging)
            if not self._fused:
                self._fused[kind] = self._fuse(structure, work)
        except NoProgramError:
            return None
        return self._fused.get(kind)

    def _fuse(self, structure: str, work: Work) -> FusedProgram:
        """Return a program that trains models of a structure together as it trains them alone.

        Raises:
            NoProgramError: A trial that is trained with others differs from one trained alone.
        """
        key = f"fused {question(structure)}"
        reason = self.remembered_proofs.get(key)
        if reason:
            raise NoProgramError(reason)
        program = self._load_program(work, structure)
        tensors = self._on_device(work.model)
        fused = FusedProgram(program, tensors, self.n_slots)
        self.let_go()  # a trial that is trained alone gets another program
        if reason is None:
            reason = fused.differs(work.model, work.order) or ""
            self.remembered_proofs[key] = reason
        if reason:
            raise NoProgramError(reason)
        return fused

    @contextmanager
    def _seat(self, order: Order) -> Iterator[int]:
        """Hold a free seat, in which the examples come in `order`, while the block runs."""
        with self._meeting:
            free = (seat for seat in range(self.n_slots) if seat not in self._seated)
            seat = next(free)
            self._seated[seat] = order
        try:
            yield seat
        finally:
            with self._meeting:
                del self._seated[seat]
                self._asked.discard(seat)
                self._meeting.notify_all()  # the other trials may have waited only for this one

    def _sit(
        self,
        fused: FusedProgram,
        seat: int,
        work: Work,
    ) -> tuple[Epochs, Scheduling]:
        """Put a trial into its seat, freshly built or as its checkpoint has it."""

        def read(kind: Callable[[Program], list[np.ndarray]]) -> list[np.ndarray]:
            with self._meeting:
                return kind(fused.get(seat))

        with self._meeting:
            program = fused.program
            program.load(work.model, work.seed_of_layer)
            snapshot = partial(read, Program.snapshot)
            continuation = self._continuation(
                work,
                program.name,
                snapshot,
                program.restore,
            )
            state = partial(read, Program.state)
            epochs = Epochs(self.settings, work, state, continuation)
            epochs.set_model(program.model)
            scheduling = Scheduling(self.schedule, program.drawn, epochs)
            fused.put(seat)
        return epochs, scheduling

    def _next_epoch(self, fused: FusedProgram, seat: int) -> dict[str, float]:
        """Ask for the next epoch, and return its metrics.

        The thread that finds that all trials have asked runs the epoch for all of them.
        """
        with self._meeting:
            self._asked.add(seat)
            while seat in self._asked:
                if self._stop is not None:
                    raise self._stop
                if self._asked == self._seated.keys():
                    orders = self._seated.items()
                    elements = {of: order.element_at(0) for of, order in orders}
                    self._logs = fused.run(elements)
                    self._asked.clear()
                    self._meeting.notify_all()
                else:
                    self._meeting.wait()
            return self._logs[seat]
