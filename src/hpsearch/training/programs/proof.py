"""Compare a compiled program with Keras on one batch, before the program trains.

`difference` says in words what differs. The comparison runs on the user's own model, at dropout
rates of 0. Then nothing is random but what other layers draw from seeds, and both sides have the
same seeds. Three things are compared:

1. One step of Keras's own, in the user's model and in the program's model. Loss, metrics,
   gradients and the state of layers must be the same, to `_Step.TOLERANCE` of their size.
2. The two optimizers. They must compute the same weights from the same gradients.
3. The compiled step. It must report the same loss and metrics, and change the weights as the
   optimizer did.

The user's variables are left bit for bit as they were; the model's metrics and its optimizer are
built afterwards. Not compared are dropout at its own rate, averaged weights, the rates of a
schedule and the smaller last batch: the tests cover these.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from hpsearch.models.dropout_masks import Tensor
from hpsearch.models.loss_and_optimizer import numbers_of
from hpsearch.training.programs.inputs import dropouts, innermost
from hpsearch.training.programs.order import Element, Order
from hpsearch.training.programs.program import (
    Program,
    build_metrics,
    copy_values,
    has_gpu,
    jax_variables,
    plain_variables,
    values_of,
)


class _Recorder(keras.Optimizer):  # type: ignore[misc]
    """An optimizer that records the gradients and changes no weights."""

    def __init__(self) -> None:
        super().__init__(learning_rate=0.0)
        self.found: list[Tensor] = []

    def apply(self, grads: Sequence[Tensor], trainable_variables: object = None) -> None:
        """Record the gradients, in the order of the trainable variables."""
        self.found = list(grads)


def difference(
    source: keras.Model,
    program: Program,
    images: Tensor,
    labels: Tensor,
    order: Order,
) -> str | None:
    """Return in words how the program trains otherwise than Keras; None where it does not.

    Args:
        source: The user's own model, built, compiled and untrained.
        program: A program made of another model from the same `build`.
        images: The train images on the device, (n, H, W, C).
        labels: Their labels on the device, in the form that the loss takes.
        order: The order of the examples. The step is made with its first batch.
    """
    rows = order.element_at(0)[0][0]
    program.load(source, lambda layer: 12345 + layer)
    for layer in program.dropouts:
        layer.rate.assign(0.0)
    batch = (ops.take(images, rows, axis=0), ops.take(labels, rows, axis=0))
    with _put_back(source):  # some layers draw from their seeds even where nothing trains
        build_metrics(source, images[:2], labels[:2])
    loaded = program.snapshot()
    with _rates_at_zero(source), _put_back(source):
        step = _eager_step(source, batch)
        mine = _eager_step(program.model, batch)
        program.restore(loaded)
        found = step.difference(mine)
        if found is None:
            found = _differing_optimizers(source, program.model, step)
    weights = values_of(program.model.trainable_variables)
    program.restore(loaded)
    if found is not None:
        return found
    element = order.element(rows[None], None)
    return _differing_compiled(program, element, step, weights)


@dataclass(frozen=True)
class _Step:
    """The result of one step that is not compiled as a program is.

    Attributes:
        logs: The loss and the metrics that the step reported.
        gradients: The gradient of each trainable variable, None where it has none.
        state: The values of the variables that are not trainable, after the step.
    """

    TOLERANCE: ClassVar = 1e-4

    logs: dict[str, float]
    gradients: list[np.ndarray | None]
    state: list[np.ndarray]

    def difference(self, other: _Step) -> str | None:
        """Return in words what differs in another step; None where nothing does."""
        if self.logs.keys() != other.logs.keys():
            return f"it reports {sorted(other.logs)}, but Keras reports {sorted(self.logs)}"
        for name, value in self.logs.items():
            found = other.logs[name]
            if not np.isclose(found, value, self.TOLERANCE, self.TOLERANCE, equal_nan=True):
                return f"its {name} after a step is {found:.6g}, but Keras's is {value:.6g}"
        if not _all_agree(self.gradients, other.gradients):
            return "a gradient differs after a step"
        if not _all_agree(self.state, other.state):
            return "the state of a layer differs after a step"
        return None


def _all_agree(some: Sequence[np.ndarray | None], others: Sequence[np.ndarray | None]) -> bool:
    """Return whether two lists of arrays have the same length and values, up to rounding."""
    return len(some) == len(others) and all(map(_agree, some, others))


def _agree(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    """Return whether two arrays are equal; floats may differ by a share of their norm."""
    if one is None or other is None:
        return one is other
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    mine = np.nan_to_num(one.astype("f8"))
    gap = mine - np.nan_to_num(other.astype("f8"))
    return _is_small(gap, _Step.TOLERANCE * _norm(mine))


def _norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array.astype("f8").ravel()))


def _is_small(gap: np.ndarray, allowed: float, size: float = 0.0) -> bool:
    """Return whether the norm of a gap is as allowed, up to the rounding of weights of a norm."""
    return _norm(gap) <= allowed + 1e-7 * (1 + size)  # a NaN is not small


def _eager_step(model: keras.Model, batch: tuple[Tensor, Tensor]) -> _Step:
    """Make one step of Keras's own that records the gradients and changes no weights."""
    optimizer = model.optimizer
    recorder = _Recorder()
    recorder.build(model.trainable_variables)
    model.optimizer = recorder
    try:
        model.reset_metrics()
        if keras.backend.backend() == "jax":
            logs, found = _jax_step(model, recorder, batch)
        else:
            logs = model.train_step(batch)
            found = recorder.found
        state = values_of([v for v in plain_variables(model) if not v.trainable])
    finally:
        model.optimizer = optimizer
    gradients = _converted(found, lambda gradient: np.array(ops.convert_to_numpy(gradient)))
    return _Step(numbers_of(logs), gradients, state)


def _converted(
    gradients: Sequence[Tensor | None],
    convert: Callable[[Tensor], Tensor],
) -> list[Tensor | None]:
    """Return converted gradients; None where a weight has none."""
    converted: list[Tensor] = []
    for gradient in gradients:
        if gradient is None:
            converted.append(None)
        else:
            converted.append(convert(gradient))
    return converted


def _jax_step(
    model: keras.Model,
    recorder: _Recorder,
    batch: tuple[Tensor, Tensor],
) -> tuple[dict[str, object], list[Tensor]]:
    """Return the logs and the gradients of a step of Keras's own on JAX.

    The step is compiled alone, as `fit` does it on JAX.
    """

    def step(state: Tensor, batch: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        logs, state = model.train_step(state, batch)
        return logs, state[1], list(recorder.found)  # Keras makes it a list of its own class.

    parts = jax_variables(model)
    state = tuple([v.value for v in part] for part in parts)
    logs, values, gradients = _compiled_quickly(step)(state, batch)
    copy_values(values, parts[1])
    return logs, gradients


def _compiled_quickly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a compiled function of JAX arrays that is meant to be called once.

    On a CPU it is compiled with few optimizations. Without compiling the function as a whole, JAX
    would compile each operation for each shape, which takes longer.
    """
    options = None
    if not has_gpu():
        options = {"xla_backend_optimization_level": 0}
    compiled: Callable[..., Any] = import_module("jax").jit(function, compiler_options=options)
    return compiled


def _apply(model: keras.Model, gradients: list[Tensor]) -> None:
    """Let the optimizer of a model make a step with gradients."""
    optimizer = model.optimizer
    trainable = model.trainable_variables
    if keras.backend.backend() != "jax":
        optimizer.apply(gradients, trainable)
        return

    slots = [v.value for v in optimizer.variables]
    weights = [v.value for v in trainable]
    weights, slots = _compiled_quickly(optimizer.stateless_apply)(slots, gradients, weights)
    copy_values([*weights, *slots], [*trainable, *optimizer.variables])


def _n_steps_of_a_change(model: keras.Model) -> int:
    """Return after how many steps an optimizer changes the weights.

    There are several where it first sums up the gradients of some steps.
    """
    optimizers = (model.optimizer, innermost(model.optimizer))
    return max(getattr(o, "gradient_accumulation_steps", None) or 1 for o in optimizers)


def _differing_optimizers(
    source: keras.Model,
    mine: keras.Model,
    step: _Step,
) -> str | None:
    """Return in words how two optimizers differ; None where they do not.

    Both get the gradients of `step`, and both models hold the same weights.
    """
    if not source.optimizer.built:
        source.optimizer.build(source.trainable_variables)
    before = values_of(source.trainable_variables)
    slots = values_of(source.optimizer.variables)
    gradients = _converted(step.gradients, ops.convert_to_tensor)
    for model in (source, mine):
        for _ in range(_n_steps_of_a_change(source)):
            _apply(model, gradients)
    copy_values(slots, source.optimizer.variables)
    theirs = values_of(source.trainable_variables)
    ours = values_of(mine.trainable_variables)
    for old, one, other in zip(before, theirs, ours, strict=True):
        allowed = 1e-3 * _norm(one - old)  # 1e-3: 1 - momentum in float32
        if not _is_small(one - other, allowed, _norm(old)):
            return "its optimizer computes other weights from the same gradients"
    return None


def _differing_compiled(
    program: Program,
    element: Element,
    step: _Step,
    weights: list[np.ndarray],
) -> str | None:
    """Return in words what the compiled step does otherwise; None where it does the same.

    Args:
        program: The program, with the weights from before the step.
        element: One batch.
        step: The same step without the program.
        weights: The weights that the optimizer made of its gradients.
    """
    model = program.model
    before = _joined(values_of(model.trainable_variables))
    model.reset_metrics()
    for _ in range(_n_steps_of_a_change(model)):
        logs = program.run(element)
    expected = step.logs
    if logs.keys() != expected.keys():
        return f"its compiled step reports {sorted(logs)}, but Keras reports {sorted(expected)}"
    for name, value in expected.items():
        found = logs[name]
        rounding = compiled_tolerance(model) * max(1.0, abs(value))
        if name != "loss":
            rounding += 1.5 / element[0].shape[1]  # an example on the border of two classes
        if not np.isclose(found, value, 0.0, rounding, equal_nan=True):
            return f"its {name} after a compiled step is {found:.6g}, but Keras's is {value:.6g}"
    after = _joined(values_of(model.trainable_variables))
    # Adam and its kin turn the rounding of a gradient near 0 into a whole step.
    allowed = 0.3 * _norm(_joined(weights) - before)
    if not _is_small(_joined(weights) - after, allowed, _norm(before)):
        return "its compiled step computes other weights"
    return None


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    """Return the numbers of all arrays, (n,) float64."""
    return np.concatenate([np.zeros(0), *map(np.ravel, arrays)])


def compiled_tolerance(model: keras.Model) -> float:
    """Return by how much compiling may change a number of about 1."""
    if model.dtype_policy.compute_dtype in ("float16", "bfloat16"):
        return 3e-2
    if has_gpu():  # GPUs multiply in TF32
        return 1e-2
    return _Step.TOLERANCE


@contextmanager
def _rates_at_zero(model: keras.Model) -> Iterator[None]:
    """Set the dropout rates of a model to 0 while the block runs."""
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
    """Put the variables of a model back after the block, and reset its metrics."""
    before = values_of(model.variables)
    try:
        yield
    finally:
        copy_values(before, model.variables)
        model.reset_metrics()


@contextmanager
def untouched_randomness() -> Iterator[None]:
    """Put the global random states of Python, NumPy and Keras back after the block."""
    from keras.src.random import seed_generator  # noqa: PLC0415 (Keras has no public name for it)

    state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 (people's layers draw from it)
    of_keras = seed_generator.global_seed_generator().state
    value = np.array(ops.convert_to_numpy(of_keras))
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        of_keras.assign(value)
