"""Draw random numbers for dropout masks, and apply such a mask to the inputs of a layer.

A number depends only on the seed, the pass, the layer and the row. It is therefore the same at
every batch size and on every Keras backend. `dropped` and `alpha_dropped` compare whole numbers in
[0, 2**24), which broadcast to the inputs, with the dropout rate.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

Tensor = Any  # a tensor of the Keras backend, or an array or number that Keras converts to one

_GOLDEN = 0x9E3779B9 - 2**32  # 2**32 / golden ratio, odd: spreads counters over all 32 bits
_FACTOR = 0x7FEB352D


def row_keys(seeds: Tensor, number: Tensor, rows: Tensor) -> Tensor:
    """Return one 64-bit key for each row in a pass, (B, 2) int32.

    Args:
        seeds: Two words, (2,) int32.
        number: The number of the pass, an int32 scalar.
        rows: The numbers of the rows in the data set, (B,) int32.
    """
    seeds = ops.convert_to_tensor(seeds, "int32")
    number = ops.convert_to_tensor(number, "int32")
    rows = ops.convert_to_tensor(rows, "int32")
    pass_counter = (number + 1) * _GOLDEN
    pass_key = _mix(seeds + pass_counter)
    column = rows[:, None]
    row_counters = (column + 1) * _GOLDEN
    return _mix(pass_key[None, :] + row_counters)


def random_bits(keys: Tensor, position: int, n_words: Tensor) -> Tensor:
    """Return random words for each row in one layer, (B, n_words) int32.

    This is a counter-based generator (Salmon et al., 2011) on a two-round multiplicative hash. It
    has no state, so any row of any pass can be drawn alone. It works element by element, so a
    compiler fuses it with the mask that it makes.

    Args:
        keys: One key for each row, (B, 2) int32, from `row_keys`.
        position: The position of the layer in the model.
        n_words: How many words to draw for each row.
    """
    layer_counter = (position + 1) * _FACTOR
    layer_word = (layer_counter + 2**31) % 2**32 - 2**31  # wraps as int32 does
    keys = _mix(keys + layer_word)
    low = keys[:, :1]
    high = keys[:, 1:]
    counter = ops.arange(n_words, dtype="int32") * _GOLDEN
    counters = counter[None, :]
    return _mix(low + counters, high)


def uniform_of(words: Tensor) -> Tensor:
    """Return a whole number in [0, 2**24) for each word."""
    return ops.bitwise_and(words, 2**24 - 1)


def normal_of(words: Tensor) -> Tensor:
    """Return a standard normal number for each word, float32, between -5.2 and 5.2.

    An odd whole number between -2**23 and 2**23, times 2**-23, is exact in float32 and never 1 or
    -1, where the inverse of the error function is infinite.
    """
    half = ops.bitwise_and(words, 2**23 - 1)
    odd = 2 * half + (1 - 2**23)
    centred = ops.cast(odd, "float32") * 2.0**-23
    return math.sqrt(2.0) * ops.erfinv(centred)


def uniform_like(inputs: Tensor, state: Tensor) -> Tensor:
    """Return whole numbers in [0, 2**24) of the shape of `inputs`.

    Args:
        inputs: A tensor (B, ...); only its shape is used.
        state: The state of a `keras.random.SeedGenerator`, (2,) integers: its seed and the number
            of earlier draws.
    """
    n_rows, *shape = ops.shape(inputs)
    state = ops.cast(state, "int32")
    seed = state[0]
    number = state[1]
    differences = np.array([0, _FACTOR], np.int32)
    seeds = ops.bitwise_xor(seed, differences)
    rows = ops.arange(n_rows, dtype="int32")
    keys = row_keys(seeds, number, rows)
    n_words = math.prod(shape)
    words = random_bits(keys, 0, n_words)
    words = ops.reshape(words, (n_rows, *shape))
    return uniform_of(words)


def _mix(words: Tensor, key: Tensor = 0) -> Tensor:
    """Hash 32-bit words one by one; the hash is a bijection for each `key`."""
    shifted = _shift_right(words, 16)
    words = ops.bitwise_xor(words, shifted)
    words = words * _FACTOR
    words = ops.bitwise_xor(words, key)
    shifted = _shift_right(words, 15)
    words = ops.bitwise_xor(words, shifted)
    words = words * (0x846CA68B - 2**32)
    shifted = _shift_right(words, 16)
    return ops.bitwise_xor(words, shifted)


def _shift_right(words: Tensor, n: int) -> Tensor:
    shifted = ops.bitwise_right_shift(words, n)
    moved_bits = 2 ** (32 - n) - 1
    return ops.bitwise_and(shifted, moved_bits)  # a shift of int32 copies the sign bit


def dropped(inputs: Tensor, uniform: Tensor, rate: Tensor) -> Tensor:
    """Return `inputs` / (1 - rate) where they are kept and 0 elsewhere.

    This is inverted dropout (Srivastava et al., 2014).

    Args:
        inputs: A tensor of floats.
        uniform: Whole numbers in [0, 2**24) that broadcast to `inputs`.
        rate: The share of inputs to drop, in [0, 1).
    """
    scale = 1.0 / (1.0 - rate)
    scale = ops.cast(scale, inputs.dtype)
    kept = inputs * scale
    zero = ops.zeros((), inputs.dtype)
    is_kept = _kept(uniform, rate)
    return ops.where(is_kept, kept, zero)


def alpha_dropped(inputs: Tensor, uniform: Tensor, rate: Tensor) -> Tensor:
    """Return `inputs` with dropped ones at SELU's negative saturation, rescaled.

    The result is a * x + b, where x is the input if it is kept and -alpha * scale otherwise. The
    factors a and b preserve mean 0 and variance 1 (Klambauer et al., 2017).

    Args:
        inputs: A tensor of floats.
        uniform: Whole numbers in [0, 2**24) that broadcast to `inputs`.
        rate: The share of inputs to drop, in [0, 1).
    """
    saturated = -1.6732632423543772 * 1.0507009873554805  # -alpha * scale of SELU
    kept_share = 1.0 - rate
    spread = 1.0 + rate * saturated**2
    a = ops.rsqrt(kept_share * spread)
    b = -a * saturated * rate
    a = ops.cast(a, inputs.dtype)
    b = ops.cast(b, inputs.dtype)
    kept = a * inputs + b
    dropped_value = a * saturated + b
    is_kept = _kept(uniform, rate)
    return ops.where(is_kept, kept, dropped_value)


def _kept(uniform: Tensor, rate: Tensor) -> Tensor:
    threshold = ops.cast(rate * 2.0**24, "int32")
    return uniform >= threshold
