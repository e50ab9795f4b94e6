"""Decide whether a compiled program may train a model, or Keras's `fit` has to.

`structure_of` refuses models that train in a way of their own or that cannot be compared.
`proved_program` builds a program and compares it with Keras on one batch (`programs/proof.py`),
unless the study remembers the result. A `NoProgramError` says why `fit` has to train the model.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import cache
from importlib.metadata import version
from types import FunctionType

import keras
from keras.src.backend import compute_output_spec
from keras.src.trainers.trainer import Trainer as KerasTrainer

from hpsearch.errors import first_line
from hpsearch.models.architecture import build_model
from hpsearch.models.dropout_masks import Tensor
from hpsearch.models.own_code import is_library
from hpsearch.seeds import GLOBAL_GENERATOR
from hpsearch.training.epochs import Work
from hpsearch.training.programs.fingerprint import UnknownStateError, fingerprint
from hpsearch.training.programs.inputs import dropouts
from hpsearch.training.programs.program import Program, has_gpu
from hpsearch.training.programs.proof import difference, untouched_randomness

Tensors = tuple[Tensor, ...]  # images and labels of train, then of val, on the device


class NoProgramError(Exception):
    """No program can be shown to train a model; the message is the reason, in words."""


def structure_of(model: keras.Model, images: Tensor) -> str:
    """Return the fingerprint of a model that a program may train.

    Args:
        model: A compiled model. It is built if it waits for its first batch.
        images: An array or a tensor (n, H, W, C), of which only shape and type are read.

    Raises:
        NoProgramError: The model or its class trains in a way of its own, the model cannot be
            built, or a part of it cannot be compared with that of another model.
    """
    own = _own_step(model)
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


def known_structure(model: keras.Model, images: Tensor) -> str | None:
    """Return the fingerprint of a model, None where no program may train it."""
    try:
        return structure_of(model, images)
    except NoProgramError:
        return None


def _build(model: keras.Model, images: Tensor) -> None:
    """Build a model that waits for its first batch, as `fit` does.

    This takes shapes only, so it draws no random number.
    """
    try:
        dtype = keras.backend.standardize_dtype(images.dtype)
        shape = (None, *images.shape[1:])
        spec = keras.KerasTensor(shape, dtype=dtype)
        compute_output_spec(model, spec, training=False)
    except Exception as error:  # the model's `build` and `call` may raise anything
        line = first_line(error)
        reason = f"it cannot be built before its first batch: {line:.200}"
        raise NoProgramError(reason) from error


@cache
def _keras_steps() -> frozenset[str]:
    """Return the names of everything by which Keras's models train.

    `loss` is not among them, because `compile` sets it on each model.
    """
    names: set[str] = set()
    for cls in (KerasTrainer, *keras.Model.__mro__):
        if cls.__name__.endswith("Trainer"):
            names.update(vars(cls))
    names.discard("loss")
    private = {name for name in names if name.startswith("__")}
    return frozenset(names - private)


def _own_step(model: keras.Model) -> str | None:
    """Return the name of a training step that a model or its class replaces, None for none."""
    steps = _keras_steps()
    for cls in type(model).__mro__:
        changed = steps & vars(cls).keys()
        if changed and not _is_of_keras(cls):
            return min(changed)
    own = steps & vars(model).keys()
    replaced: list[str] = sorted(own)
    for name in replaced:
        of_keras = getattr(keras.Model, name)
        if isinstance(of_keras, FunctionType):
            return name
    return None


def _is_of_keras(cls: type) -> bool:
    """Return whether a class is Keras's own, or a library's that is not a model."""
    module = cls.__module__
    package, _, _ = module.partition(".")
    if package == "keras":
        return True
    return is_library(module) and not issubclass(cls, keras.Model)


def proved_program(
    work: Work,
    structure: str,
    tensors: Tensors,
    remembered_proofs: MutableMapping[str, str],
    *,
    averaging: float,
    jit: bool | None,
) -> Program:
    """Return a program that trains models of a structure as Keras does.

    Args:
        work: The trial that is about to begin. Its order gives the batch of the proof.
        structure: The fingerprint of its model.
        tensors: Images and labels of train, then of val.
        remembered_proofs: What earlier proofs have found, by `question`: an empty text where a
            program may train, otherwise the reason against it. The result of a new proof is added.
        averaging: As for `Program`.
        jit: Whether XLA compiles the program; with None, `proved_program` decides.

    Raises:
        NoProgramError: No program can be shown to train the models as Keras does.
    """
    key = question(structure)
    reason = remembered_proofs.get(key)
    if reason:
        raise NoProgramError(reason)
    images, labels, *_ = tensors
    try:
        with GLOBAL_GENERATOR, untouched_randomness():
            model = build_model(work.hypermodel, work.hp, images.shape[1:])
            _check_copy(model, structure, images)
            if jit is None:
                jit = _is_compiled_faster(model)
            program = Program(structure, model, images, labels, averaging=averaging, jit=jit)
            if key not in remembered_proofs:
                reason = difference(work.model, program, images, labels, work.order)
    except NoProgramError as error:
        reason = str(error)
    except Exception as error:  # a model may fail in a program, though it does not in `fit`
        name = type(error).__name__
        reason = f"in a compiled program it raises {name}: {first_line(error):.200}"
    remembered_proofs.setdefault(key, reason or "")
    if reason:
        raise NoProgramError(reason)
    return program


def _check_copy(
    model: keras.Model,
    structure: str,
    images: Tensor,
) -> None:
    """Raise NoProgramError where a second model of a trial cannot become a program."""
    if structure_of(model, images) != structure:
        raise NoProgramError("building it twice makes two different models")
    if keras.backend.backend() != "jax":
        return
    layers = model._flatten_layers()
    if not all(layer.supports_jit for layer in layers):
        raise NoProgramError("it holds a layer that XLA cannot compile")


def question(structure: str) -> str:
    """Return the key under which the answer of a proof is remembered.

    The key names the device and the versions of the libraries, since others may give another
    answer.
    """
    backend = keras.backend.backend()
    of_backend = version(backend)
    of_keras = version("keras")
    libraries = f"{backend} {of_backend} keras {of_keras}"
    device = "cpu"
    if has_gpu():
        device = "gpu"
    beginning = structure[:24]
    return f"program {beginning} {libraries} {device}"


def _is_compiled_faster(model: keras.Model) -> bool:
    """Return whether XLA compiles the program of a model.

    JAX always compiles by XLA. On TensorFlow, XLA does not compile convolutions for a CPU, where
    TensorFlow itself is faster, unless the model was compiled with `jit_compile=True`. XLA also
    compiles no model in which layers other than live dropout are random, because it would draw
    other numbers than Keras.
    """
    if keras.backend.backend() != "tensorflow":
        return True
    layers = list(model._flatten_layers())
    live = {id(layer) for layer in dropouts(model)}
    for layer in layers:
        is_random = layer._seed_generators and id(layer) not in live
        if is_random or not layer.supports_jit:
            return False
    if model.jit_compile is True or has_gpu():
        return True
    return not any("Conv" in type(layer).__name__ for layer in layers)
