"""Let an observer decide what the layers of a model do, and what Keras's random functions return.

Inside of `intercepted`, each call of a layer of the model goes to the observer, and so does each
random draw. Dropout is thereby found, and drawn from given keys, wherever it stands: in Keras's
own layers, in attention and recurrent layers, in wrappers, and in a person's own layers. Only
what the same thread calls inside of the block is intercepted.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Protocol

import keras

from hpsearch.models.dropout_masks import Tensor

# The random functions of the backend that Keras's layers and `keras.random` call.
DRAWS = (
    "beta",
    "binomial",
    "categorical",
    "dropout",
    "gamma",
    "normal",
    "randint",
    "shuffle",
    "truncated_normal",
    "uniform",
)


# The draws that drop: Keras's function, and what its layers of these names do in training.
DROPPING = ("dropout", "alpha_dropout", "gaussian_dropout")


class Observer(Protocol):
    """Decides what the layers and the random functions do."""

    def call(
        self,
        layer: keras.layers.Layer,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Return what a layer's `call` is to return, most often `original(*args, **kwargs)`."""

    def draw(
        self,
        name: str,
        original: Callable[..., Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        """Return what a random function is to return.

        `name` is one of `DRAWS` or of `DROPPING`. The arguments of the latter are always the
        inputs, the rate and the shape of the mask or None.
        """


_OBSERVER: ContextVar[Observer | None] = ContextVar("observer", default=None)
_LOCK = threading.RLock()  # held while functions of Keras are replaced


def layers_of(model: keras.Model) -> tuple[keras.layers.Layer, ...]:
    """Return all layers of a model, each once, the model among them."""
    return tuple(dict.fromkeys(model._flatten_layers()))


@contextmanager
def intercepted(layers: Iterable[keras.layers.Layer], observer: Observer) -> Iterator[None]:
    """Send the calls of layers and all random draws of the block to an observer."""
    with _LOCK, ExitStack() as undo:
        token = _OBSERVER.set(observer)
        undo.callback(_OBSERVER.reset, token)
        for module, name in _random_functions():
            original = getattr(module, name)
            undo.callback(setattr, module, name, original)
            replacement = _drawing(name, original)
            if name == "dropout":
                replacement = _dropping(original)
            setattr(module, name, replacement)
        for kind, name in _OWN_DRAWS:
            original = kind.call
            undo.callback(setattr, kind, "call", original)
            kind.call = _noise_of(name, original)
        for layer in layers:
            undo.callback(_replace_call(layer))
        yield


def _random_functions() -> Iterator[tuple[ModuleType, str]]:
    """Yield the functions that draw random numbers for Keras, and TensorFlow's own dropout."""
    from keras.src import backend  # noqa: PLC0415  # Keras exports it under no public name

    for name in DRAWS:
        yield backend.random, name
    if keras.backend.backend() == "tensorflow":
        from tensorflow import nn  # noqa: PLC0415  # other backends work without it

        yield nn, "dropout"


def _replace_call(layer: keras.layers.Layer) -> Callable[[], None]:
    """Send the calls of one layer to the observer, and return what ends that."""
    original = layer.call

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        observer = _OBSERVER.get()
        if observer is None:  # another thread calls the layer meanwhile
            return original(*args, **kwargs)
        return observer.call(layer, original, args, kwargs)

    attributes = vars(layer)  # past Keras's tracking of attributes
    before = attributes.get("call")
    attributes["call"] = call
    if before is None:
        return functools.partial(attributes.pop, "call")
    return functools.partial(attributes.__setitem__, "call", before)


def _dropping(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function of dropout that asks the observer.

    Keras names the inputs `inputs`, and TensorFlow names them `x`.
    """

    @functools.wraps(original)
    def drop(*args: Any, **kwargs: Any) -> Tensor:
        observer = _OBSERVER.get()
        if observer is None:
            return original(*args, **kwargs)
        given = inspect.signature(original).bind(*args, **kwargs).arguments
        inputs = given.get("inputs", given.get("x"))
        seeded = functools.partial(original, seed=given.get("seed"))
        arguments = (inputs, given["rate"], given.get("noise_shape"))
        return observer.draw("dropout", seeded, arguments, {})

    return drop


def _drawing(name: str, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a random function that asks the observer."""

    @functools.wraps(original)
    def draw(*args: Any, **kwargs: Any) -> Tensor:
        observer = _OBSERVER.get()
        if observer is None:
            return original(*args, **kwargs)
        return observer.draw(name, original, args, kwargs)

    return draw


def _noise_of(name: str, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the `call` of a class of layers, whose noise the observer makes."""

    @functools.wraps(original)
    def call(
        self: keras.layers.Layer,
        inputs: Tensor,
        training: bool = False,
    ) -> Tensor:
        observer = _OBSERVER.get()
        if observer is None or not training or not self.rate:
            return original(self, inputs, training=training)
        arguments = (inputs, self.rate, getattr(self, "noise_shape", None))
        return observer.draw(name, functools.partial(original, self), arguments, {})

    return call


# Layers of Keras that make their mask of uniform or normal numbers.
_OWN_DRAWS = (
    (keras.layers.AlphaDropout, "alpha_dropout"),
    (keras.layers.GaussianDropout, "gaussian_dropout"),
)
