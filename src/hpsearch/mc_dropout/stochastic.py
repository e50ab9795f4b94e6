"""Run a model with its dropout on, drawn from given keys, and with it off.

`Stochastic` and `Deterministic` are observers of `interception`. Both leave each layer in the mode
in which it predicts, except that `Stochastic` runs the layers that drop as in training. Each row
has its own random numbers, which depend on its key and on the place of the draw alone.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from hpsearch.errors import ModelError
from hpsearch.mc_dropout.interception import DROPPING
from hpsearch.mc_dropout.structure import (
    Structure,
    noise_shape_of,
    takes_training,
    with_training,
)
from hpsearch.models.dropout_masks import (
    Tensor,
    alpha_dropped,
    dropped,
    normal_of,
    random_bits,
    uniform_of,
)


class Deterministic:
    """An observer that drops nothing; layers run as when the model predicts.

    Dropout that a person has fixed to be on is off, too.
    """

    def call(
        self,
        layer: keras.layers.Layer,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Return the output of a layer."""
        return original(*args, **kwargs)

    def draw(
        self,
        name: str,
        original: Callable[..., Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        """Return inputs as they are in place of dropout; other draws are left alone."""
        if name in DROPPING:
            return args[0]
        return original(*args, **kwargs)


class Stochastic:
    """An observer that draws the dropout of one pass.

    Args:
        structure: What the model draws.
        keys: Two integers for each row, (B, 2), or (1, 2) where all rows share their masks.
        shared_key: Two integers for what all rows share in any case, (1, 2).
        rates: Rate of each draw, (L,), in place of the model's own.
    """

    def __init__(
        self,
        structure: Structure,
        keys: Tensor,
        shared_key: Tensor,
        rates: Tensor,
    ) -> None:
        self.structure = structure
        self.keys = keys
        self.shared_key = shared_key
        self.rates = rates
        self.n_draws = 0
        self._place = 0
        self._n_calls: Counter[int] = Counter()

    def call(
        self,
        layer: keras.layers.Layer,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Return the output of a layer, which runs as in training where it drops."""
        structure = self.structure
        is_on = id(layer) in structure.on
        if is_on:
            number = self._n_calls[id(layer)]
            self._n_calls[id(layer)] += 1
            first = structure.calls[id(layer)]
            if number < len(first):
                self._place = first[number]
        if takes_training(layer):
            in_training = is_on or structure.inference.get(id(layer), False)
            args, kwargs = with_training(original, args, kwargs, in_training)
        return original(*args, **kwargs)

    def draw(
        self,
        name: str,
        original: Callable[..., Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        """Return the result of a draw, made of the keys.

        Raises:
            ModelError: The model draws otherwise than when it was watched.
        """
        place = self._place
        draws = self.structure.draws
        if place >= len(draws) or draws[place].name != name:
            raise ModelError(
                f"Expected a model that draws the same in each pass, received another {name}."
            )
        self._place += 1
        self.n_draws += 1
        if name not in DROPPING:
            return self._other(place, name, original, args, kwargs)
        inputs, rate, shape = args
        if draws[place].rate:  # otherwise the model computes it
            rate = self.rates[place]
        words = self._words(place, noise_shape_of(inputs, shape))
        if name == "dropout":
            return dropped(inputs, uniform_of(words), rate)
        if name == "alpha_dropout":
            return alpha_dropped(inputs, uniform_of(words), rate)
        return _gaussian_dropped(inputs, normal_of(words), rate)

    def _other(
        self,
        place: int,
        name: str,
        original: Callable[..., Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        """Return the numbers of a random function that is no dropout.

        Uniform and normal numbers depend on the row alone. Others are Keras's own, with a seed that
        depends on the pass.

        Raises:
            ModelError: All rows are to share numbers that only Keras can draw.
        """
        if name in ("uniform", "normal"):
            given = inspect.signature(original).bind(*args, **kwargs)
            given.apply_defaults()
            return self._numbers(place, name, given.arguments)
        if self.structure.draws[place].n_per_row and self._is_shared:
            layer = self.structure.draws[place].layer
            raise ModelError(
                f"Expected a model whose draws all examples can share, received {layer!r}, which "
                f"draws with keras.random.{name}: give uncertainty.shared_masks=false."
            )
        seed = random_bits(self.shared_key, place, 2)[0]
        kwargs = {**kwargs, "seed": _GivenSeed(seed)}
        return original(*args, **kwargs)

    def _numbers(
        self,
        place: int,
        name: str,
        given: Mapping[str, Any],
    ) -> Tensor:
        """Return uniform numbers in [minval, maxval), or normal numbers, of the shape given."""
        shape = tuple(given["shape"])
        dtype = given["dtype"] or keras.config.floatx()
        words = self._words(place, shape)
        if name == "normal":
            values = given["mean"] + given["stddev"] * normal_of(words)
        else:
            n_bits = {"float16": 11, "bfloat16": 8}.get(str(dtype), 24)
            whole = ops.right_shift(uniform_of(words), 24 - n_bits)
            unit = ops.cast(whole, "float32") * 2.0**-n_bits  # below 1 in this type, too
            values = given["minval"] + (given["maxval"] - given["minval"]) * unit
        return ops.broadcast_to(ops.cast(values, dtype), shape)

    @property
    def _is_shared(self) -> bool:
        """Whether all rows share their masks."""
        return bool(self.keys.shape[0] == 1)

    def _words(self, place: int, shape: tuple[int, ...]) -> Tensor:
        """Return random words that broadcast to a shape.

        Args:
            place: The place of the draw.
            shape: The shape of the mask.
        """
        length, *others = shape
        n_others = math.prod(others)
        n_per_row = self.structure.draws[place].n_per_row
        if not n_per_row:
            words = random_bits(self.shared_key, place, length * n_others)
            return ops.reshape(words, (length, *others))
        words = random_bits(self.keys, place, n_per_row * n_others)
        if self._is_shared and n_per_row > 1:
            words = ops.tile(words, (length // n_per_row, 1))
        return ops.reshape(words, (-1, *others))


def _gaussian_dropped(
    inputs: Tensor,
    normal: Tensor,
    rate: Tensor,
) -> Tensor:
    """Return inputs times noise of mean 1 and variance rate / (1 - rate).

    Reference: Srivastava et al., "Dropout", 2014, section 10.
    """
    spread = ops.sqrt(rate / (1.0 - rate))
    noise = 1.0 + spread * normal
    return inputs * ops.cast(noise, inputs.dtype)


class _GivenSeed(keras.random.SeedGenerator):  # type: ignore[misc]  # Keras has no types
    """A seed generator that returns one given seed, and keeps no state."""

    def __init__(self, seed: Tensor) -> None:
        self._seed = seed

    def next(self, ordered: bool = True) -> Tensor:
        """Return the seed."""
        return ops.cast(self._seed, keras.src.backend.random_seed_dtype())
