"""Random words that depend on (seed, pass, layer, row) alone: the same numbers at any batch size,
on every backend.

What dropout does to its input, given whole numbers in [0, 2**24) that broadcast to it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

GOLDEN = 0x9E3779B9 - 2**32  # 2**32 / golden ratio, odd: spreads counters over all 32 bits
MIX_1, MIX_2 = 0x7FEB352D, 0x846CA68B - 2**32


def row_keys(seeds: Any, number: Any, rows: Any) -> Any:
    """Return one 64-bit key for each row of pass `number`, (B, 2) int32.

    Args:
        seeds: Two words, (2,) int32.
        number: Number of the pass, an int32 scalar.
        rows: Numbers of the rows in the data set, (B,) int32.
    """
    seeds, number, rows = (ops.convert_to_tensor(part, "int32") for part in (seeds, number, rows))
    of_pass = _mix(seeds + (number + 1) * GOLDEN)
    return _mix(of_pass[None, :] + (rows[:, None] + 1) * GOLDEN)


def random_bits(keys: Any, position: int, n_words: Any) -> Any:
    """Return random words, (B, n_words) int32, from a key a row and the position of a layer.

    A counter-based generator (Salmon et al., 2011) on a two-round multiplicative hash: stateless,
    so any row of any pass can be drawn alone, and element-wise, so a compiler fuses it with the
    mask it makes.
    """
    of_layer = ((position + 1) * MIX_1 + 2**31) % 2**32 - 2**31  # wraps as int32 does
    keys = _mix(keys + of_layer)
    counter = ops.arange(n_words, dtype="int32") * GOLDEN
    return _mix(keys[:, :1] + counter[None, :], keys[:, 1:])


def uniform_of(words: Any) -> Any:
    """Return whole numbers in [0, 2**24), as many as there are words."""
    return ops.bitwise_and(words, 2**24 - 1)


def uniform_like(inputs: Any, state: Any) -> Any:
    """Return whole numbers in [0, 2**24) of the shape of `inputs` (B, ...).

    Args:
        inputs: Whose shape counts.
        state: Of a `keras.random.SeedGenerator`: a seed and how often it was drawn from, (2,)
            integers.
    """
    n_rows, *shape = ops.shape(inputs)
    state = ops.cast(state, "int32")
    keys = row_keys(
        ops.bitwise_xor(state[0], np.array([0, MIX_1], np.int32)),
        state[1],
        ops.arange(n_rows, dtype="int32"),
    )
    return uniform_of(ops.reshape(random_bits(keys, 0, math.prod(shape)), (n_rows, *shape)))


def _mix(words: Any, key: Any = 0) -> Any:
    """Hash 32-bit words one by one; for each `key` a bijection."""
    words = ops.bitwise_xor(words, _shift_right(words, 16)) * MIX_1
    words = ops.bitwise_xor(words, key)
    words = ops.bitwise_xor(words, _shift_right(words, 15)) * MIX_2
    return ops.bitwise_xor(words, _shift_right(words, 16))


def _shift_right(words: Any, n: int) -> Any:
    return ops.bitwise_and(
        ops.bitwise_right_shift(words, n), 2 ** (32 - n) - 1
    )  # int32 shifts copy the sign


SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def dropped(inputs: Any, uniform: Any, rate: Any) -> Any:
    """Return the input where kept, over 1 - rate, and 0 elsewhere: inverted dropout (Srivastava et
    al., 2014).
    """
    scale = ops.cast(1.0 / (1.0 - rate), inputs.dtype)
    return ops.where(_kept(uniform, rate), inputs * scale, ops.zeros((), inputs.dtype))


def alpha_dropped(inputs: Any, uniform: Any, rate: Any) -> Any:
    """Return a * (the input where kept, -alpha * scale elsewhere) + b, of mean 0 and variance 1 if
    the input is.

    Dropout to SELU's negative saturation (Klambauer et al., 2017).
    """
    saturated = -SELU_ALPHA * SELU_SCALE
    a = ops.rsqrt((1.0 - rate) * (1.0 + rate * saturated**2))
    b = -a * saturated * rate
    a, b = ops.cast(a, inputs.dtype), ops.cast(b, inputs.dtype)
    return ops.where(_kept(uniform, rate), a * inputs + b, a * saturated + b)


def _kept(uniform: Any, rate: Any) -> Any:
    return uniform >= ops.cast(rate * 2.0**24, "int32")
