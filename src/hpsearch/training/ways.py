"""Which way a model is trained: by a program where that provably trains the same model, else by
Keras's fit.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from importlib.metadata import version
from types import FunctionType
from typing import Any

import keras
from keras.src.backend import compute_output_spec
from keras.src.trainers.trainer import Trainer as KerasTrainer

from hpsearch.errors import first_line
from hpsearch.seeds import GLOBAL_GENERATOR
from hpsearch.training.programs.fingerprint import UnknownStateError, fingerprint, is_library
from hpsearch.training.programs.inputs import dropouts
from hpsearch.training.programs.order import Order
from hpsearch.training.programs.program import Program, has_gpu
from hpsearch.training.programs.proof import difference, untouched_randomness

# of one trial: below, compiling takes longer than it saves, unless all trials share a program
PAYS_FROM_STEPS = 2000
STEPS = frozenset(
    name
    for cls in (KerasTrainer, *(c for c in keras.Model.__mro__ if c.__name__.endswith("Trainer")))
    for name in vars(cls)
    if not name.startswith("__") and name != "loss"  # which `compile` sets
)
Build = Callable[[], keras.Model]


class NoProgramError(Exception):
    """Why no program can be shown to train a model, in words."""


def structure_of(model: keras.Model, images: Any) -> str:
    """Return the fingerprint of a model that a program may train.

    Raises:
        NoProgramError: Its class trains in a way of its own, or it holds what cannot be compared.
    """
    own = own_steps(model)
    if own:
        raise NoProgramError(f"its class has a {own} of its own")
    if model.run_eagerly:
        raise NoProgramError("it was compiled with run_eagerly=True")
    if not model.built:
        _build(model, images)
    try:
        return fingerprint(model)
    except UnknownStateError as error:
        raise NoProgramError(str(error)) from error


def known_structure(model: keras.Model, images: Any) -> str | None:
    """Return the fingerprint of a model; None where no program may train it."""
    try:
        return structure_of(model, images)
    except NoProgramError:
        return None


def _build(model: keras.Model, images: Any) -> None:
    """Build a model that waits for its input, as `fit` does: by shapes alone, which draws no random
    number.
    """
    try:
        spec = keras.KerasTensor(
            (None, *images.shape[1:]), dtype=keras.backend.standardize_dtype(images.dtype)
        )
        compute_output_spec(model, spec, training=False)
    except Exception as error:  # whatever stands in its `build` and `call`
        raise NoProgramError(
            f"it cannot be built before its first batch: {first_line(error):.200}"
        ) from error


def own_steps(model: keras.Model) -> str | None:
    """Return the name of what a model or its class does otherwise than `keras.Model` when it
    trains.
    """
    for cls in type(model).__mro__:
        if not _is_of_keras(cls):
            changed: list[str] = sorted(STEPS & vars(cls).keys())
            if changed:
                return changed[0]
    replaced: list[str] = sorted(
        name
        for name in STEPS & vars(model).keys()
        if isinstance(getattr(keras.Model, name), FunctionType)
    )
    return replaced[0] if replaced else None


def _is_of_keras(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "keras" or (
        is_library(cls.__module__) and not issubclass(cls, keras.Model)
    )


def proved_program(  # noqa: PLR0917
    structure: str,
    source: keras.Model,
    build: Build,
    tensors: tuple[Any, ...],
    order: Order,
    answers: MutableMapping[str, str],
    *,
    averaging: float,
    jit: bool | None,
) -> Program:
    """Return a program that trains models of `structure` as Keras does.

    Args:
        structure: The fingerprint of `source`.
        source: The model of the trial that is about to begin.
        build: Builds another one.
        tensors: Images and labels of train, then of val.
        order: Gives the batch of the proof.
        answers: What has been found before, by `question`: empty where a program may train, else
            why not.
        averaging: As `Program`.
        jit: Whether XLA compiles; None decides.

    Raises:
        NoProgramError: None can be shown to.
    """
    key = question(structure)
    if answers.get(key):
        raise NoProgramError(answers[key])
    try:
        with GLOBAL_GENERATOR, untouched_randomness():
            program = _made(structure, source, build, tensors, averaging, jit)
            found = (
                None
                if key in answers
                else difference(source, program, tensors[0], tensors[1], order)
            )
    except NoProgramError as error:
        found = str(error)
    except Exception as error:  # whatever a model does in a program that it does not do in `fit`
        found = f"in a compiled program it raises {type(error).__name__}: {first_line(error):.200}"
    if key not in answers:
        answers[key] = found or ""
    if found:
        raise NoProgramError(found)
    return program


def _made(  # noqa: PLR0917
    structure: str,
    source: keras.Model,
    build: Build,
    tensors: tuple[Any, ...],
    averaging: float,
    jit: bool | None,
) -> Program:
    model = build()
    if structure_of(model, tensors[0]) != structure:
        raise NoProgramError("building it twice makes two different models")
    if keras.backend.backend() == "jax" and not all(
        layer.supports_jit for layer in model._flatten_layers()
    ):
        raise NoProgramError("it holds a layer that XLA cannot compile")
    compiled = is_compiled_faster(model) if jit is None else jit
    return Program(structure, model, *tensors[:2], averaging=averaging, jit=compiled)


def question(structure: str) -> str:
    """Return what an answer is remembered by: it may be another one on another device or with other
    libraries.
    """
    backend = keras.backend.backend()
    device = "gpu" if has_gpu() else "cpu"
    return (
        f"program {structure[:24]} {backend} {version(backend)} keras {version('keras')} {device}"
    )


def is_compiled_faster(model: keras.Model) -> bool:
    """Return whether XLA compiles a program: it does not on a CPU for convolutions, where
    TensorFlow is faster.

    Nor where other layers than live dropout are random, of which XLA would draw other numbers than
    Keras does.
    """
    if keras.backend.backend() != "tensorflow":  # JAX has no other way
        return True
    layers = list(model._flatten_layers())
    live = {id(layer) for layer in dropouts(model)}
    is_random = any(layer._seed_generators and id(layer) not in live for layer in layers)
    if is_random or not all(layer.supports_jit for layer in layers):
        return False
    convolves = any("Conv" in type(layer).__name__ for layer in layers)
    return model.jit_compile is True or not convolves or has_gpu()
