"""The proof that a program trains a model as Keras does, run on the person's own model before its
first step.

With the dropout rates at 0 nothing is random but what other layers draw from seeds, which both
sides share. Then

1. loss, metrics, gradients and the state of layers after one step of Keras's own are the same, to
   `TOLERANCE` of their size, in the model and in the program's;
2. both optimizers make the same weights of the same gradients;
3. the compiled step reports the same loss and metrics, and changes the weights as the optimizer
   did.

The model is left bit for bit as it was. That live dropout drops its rate is a property of its
layers, which tests hold.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from hpsearch.training.programs.inputs import dropouts, innermost
from hpsearch.training.programs.order import Order
from hpsearch.training.programs.program import (
    Program,
    build_metrics,
    compiled_quickly,
    copy_values,
    has_gpu,
    jax_variables,
    numbers_of,
    plain_variables,
    values_of,
)

TOLERANCE = 1e-4
COMPILED_CHANGE = 0.3  # Adam and its kin turn the rounding of a gradient near 0 into a whole step
OPTIMIZER_TOLERANCE = 1e-3  # 1 - momentum in float32
TINY = 1e-7
SEED = 12345


class _Recorder(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Takes gradients and changes nothing."""

    def __init__(self) -> None:
        super().__init__(learning_rate=0.0)
        self.found: list[Any] = []

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Note the gradients, in the order of the trainable variables."""
        self.found = list(grads)


def difference(
    source: keras.Model, program: Program, images: Any, labels: Any, order: Order
) -> str | None:
    """Return in words how the program's model trains otherwise than `source`; None where it does
    not.

    Args:
        source: The person's own model, built, compiled and untrained.
        program: Made of another model that the same `build` made.
        images: Train images on the device.
        labels: Their labels.
        order: Its first batch makes the step.
    """
    rows = order.element_at(0)[0][0]
    program.load(source, lambda layer: SEED + layer)
    for layer in program.dropouts:
        layer.rate.assign(0.0)
    batch = (keras.ops.take(images, rows, axis=0), keras.ops.take(labels, rows, axis=0))
    with _put_back(source):  # some layers draw from their seeds even where nothing trains
        build_metrics(source, images[:2], labels[:2])
    loaded = program.snapshot()
    with _rates_at_zero(source), _put_back(source):
        step, mine = (_eager_step(model, batch) for model in (source, program.model))
        program.restore(loaded)
        found = step.difference(mine) or _differing_optimizers(source, program.model, step)
    weights = values_of(program.model.trainable_variables)
    program.restore(loaded)
    return found or _differing_compiled(program, order.element(rows[None], None), step, weights)


@dataclass(frozen=True)
class _Step:
    """One step without compiling: what it reported, the gradients, and the state of layers after
    it.
    """

    logs: dict[str, float]
    gradients: list[np.ndarray | None]
    state: list[np.ndarray]

    def difference(self, other: _Step) -> str | None:
        """Return in words what differs between two steps."""
        if self.logs.keys() != other.logs.keys():
            return f"it reports {sorted(other.logs)} where Keras reports {sorted(self.logs)}"
        for name, value in self.logs.items():
            if not np.isclose(
                other.logs[name], value, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True
            ):
                return f"its {name} is {other.logs[name]:.6g} after a step, Keras's {value:.6g}"
        for what, some, others in (
            ("a gradient", self.gradients, other.gradients), ("the state of a layer", self.state, other.state)
        ):  # fmt: skip
            if len(some) != len(others) or not all(map(_agree, some, others)):
                return f"{what} differs after a step"
        return None


def _agree(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    some, others = (np.nan_to_num(array.astype("f8").ravel()) for array in (one, other))
    return bool(np.linalg.norm(some - others) <= TOLERANCE * np.linalg.norm(some) + TINY)


def _eager_step(model: keras.Model, batch: tuple[Any, Any]) -> _Step:
    """Take one step of Keras's own, without compiling; its optimizer takes the gradients and
    changes nothing.
    """
    recorder, optimizer = _Recorder(), model.optimizer
    recorder.build(model.trainable_variables)
    model.optimizer = recorder
    try:
        model.reset_metrics()
        is_jax = keras.backend.backend() == "jax"
        logs, found = (
            _jax_step(model, recorder, batch)
            if is_jax
            else (model.train_step(batch), recorder.found)
        )
        state = values_of([v for v in plain_variables(model, dropouts(model)) if not v.trainable])
    finally:
        model.optimizer = optimizer
    return _Step(
        numbers_of(logs),
        [None if g is None else np.array(keras.ops.convert_to_numpy(g)) for g in found],
        state,
    )


def _jax_step(
    model: keras.Model, recorder: _Recorder, batch: tuple[Any, Any]
) -> tuple[dict[str, Any], list[Any]]:
    """Return the logs and the gradients of a step of Keras's own, compiled alone as `fit` does it
    on JAX.
    """
    parts = jax_variables(model)

    def step(state: Any, batch: Any) -> Any:
        logs, state = model.train_step(state, batch)
        return logs, state[1], list(recorder.found)

    logs, values, gradients = compiled_quickly(step)(
        tuple([v.value for v in part] for part in parts), batch
    )
    copy_values(list(values), parts[1])
    return dict(logs), gradients


def _apply(model: keras.Model, gradients: list[Any]) -> None:
    """Let the optimizer of a model make a step of gradients."""
    optimizer, trainable = model.optimizer, model.trainable_variables
    if keras.backend.backend() != "jax":
        optimizer.apply(gradients, trainable)
        return
    values = [[v.value for v in variables] for variables in (optimizer.variables, trainable)]
    apply = compiled_quickly(
        lambda slots, weights: optimizer.stateless_apply(slots, gradients, weights)
    )
    weights, slots = apply(*values)
    copy_values([*weights, *slots], [*trainable, *optimizer.variables])


def _n_steps_of_a_change(model: keras.Model) -> int:
    """Return after how many steps an optimizer changes the weights: it may first sum up the
    gradients of some.
    """
    optimizers = (model.optimizer, innermost(model.optimizer))
    return max(
        getattr(optimizer, "gradient_accumulation_steps", None) or 1 for optimizer in optimizers
    )


def _differing_optimizers(source: keras.Model, mine: keras.Model, step: _Step) -> str | None:
    """Return what differs where both optimizers get the gradients of `step`; both models hold the
    same weights.
    """
    if not source.optimizer.built:
        source.optimizer.build(source.trainable_variables)
    before = values_of(source.trainable_variables)
    slots = values_of(source.optimizer.variables)
    given = [None if g is None else keras.ops.convert_to_tensor(g) for g in step.gradients]
    for model in (source, mine):
        for _ in range(_n_steps_of_a_change(source)):
            _apply(model, given)
    copy_values(slots, source.optimizer.variables)
    for old, one, other in zip(
        before,
        values_of(source.trainable_variables),
        values_of(mine.trainable_variables),
        strict=True,
    ):
        change, gap = (np.linalg.norm((one - x).astype("f8").ravel()) for x in (old, other))
        if not gap <= OPTIMIZER_TOLERANCE * change + TINY * (
            1 + np.linalg.norm(old.astype("f8").ravel())
        ):
            return "its optimizer makes other weights of the same gradients"
    return None


def _differing_compiled(
    program: Program, element: tuple[np.ndarray, ...], step: _Step, weights: list[np.ndarray]
) -> str | None:
    """Return what the compiled step does otherwise than the one without compiling, which made
    `weights`.
    """
    before = values_of(program.model.trainable_variables)
    program.model.reset_metrics()
    for _ in range(_n_steps_of_a_change(program.model)):
        logs = program.run(element)
    if logs.keys() != step.logs.keys():
        return f"compiled, it reports {sorted(logs)} where Keras reports {sorted(step.logs)}"
    for name, value in step.logs.items():
        rounding = compiled_tolerance(program.model) * max(1.0, abs(value))
        rounding += (
            0.0 if name == "loss" else 1.5 / element[0].shape[1]
        )  # an example on the border of two classes
        if not (abs(logs[name] - value) <= rounding or (np.isnan(value) and np.isnan(logs[name]))):
            return f"compiled, its {name} is {logs[name]:.6g} after a step, Keras's {value:.6g}"
    change, gap = 0.0, 0.0
    for old, one, other in zip(
        before, weights, values_of(program.model.trainable_variables), strict=True
    ):
        change += float(np.square((one - old).astype("f8")).sum())
        gap += float(np.square((one - other).astype("f8")).sum())
    size = sum(float(np.square(old.astype("f8")).sum()) for old in before)
    if not np.sqrt(gap) <= COMPILED_CHANGE * np.sqrt(change) + TINY * (1 + np.sqrt(size)):
        return "compiled, it makes other weights"
    return None


def compiled_tolerance(model: keras.Model) -> float:
    """Return how much compiling may change a number of about 1."""
    if model.dtype_policy.compute_dtype in ("float16", "bfloat16"):
        return 3e-2
    return 1e-2 if has_gpu() else TOLERANCE  # GPUs multiply in TF32


@contextmanager
def _rates_at_zero(model: keras.Model) -> Iterator[None]:
    rates = [(layer, layer.rate) for layer in dropouts(model)]
    for layer, _ in rates:
        layer.rate = 0.0
    try:
        yield
    finally:
        for layer, rate in rates:
            layer.rate = rate


@contextmanager
def _put_back(model: keras.Model) -> Iterator[None]:
    before = values_of(model.variables)
    try:
        yield
    finally:
        copy_values(before, model.variables)
        model.reset_metrics()


@contextmanager
def untouched_randomness() -> Iterator[None]:
    """Leave Python's, NumPy's and Keras's global random numbers after the block where they were
    before it.
    """
    from keras.src.random import seed_generator  # noqa: PLC0415 (Keras has no public name for it)

    state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 (people's layers draw from it)
    of_keras = seed_generator.global_seed_generator().state
    value = np.array(keras.ops.convert_to_numpy(of_keras))
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        of_keras.assign(value)
