"""Dropout that is always on and whose draws depend on (seed, pass, layer, row) alone.

`split` rebuilds a Keras model on the same layers and weights. Dropout layers become always-on ones that take their
randomness as an input; every other layer is the same object and runs in inference mode, so BatchNormalization is left
alone. The model is cut before its first active dropout: `prefix` needs one pass, `suffix` one for each sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from hpsearch.errors import ModelError

GOLDEN = 0x9E3779B9 - 2**32  # 2**32 / golden ratio, odd: spreads counters over all 32 bits
MIX_1, MIX_2 = 0x7FEB352D, 0x846CA68B - 2**32
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
SPATIAL = (keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D, keras.layers.SpatialDropout3D)
DROPOUTS = (keras.layers.Dropout, *SPATIAL, keras.layers.AlphaDropout, keras.layers.GaussianDropout)


@dataclass(frozen=True)
class Site:
    """One place where an active dropout layer is called.

    Attributes:
        layer: The original layer.
        rate: Its test-time rate, in (0, 1).
        position: Its place among all calls of dropout layers in the model, from 0: what its draws depend on.
    """

    layer: keras.layers.Layer
    rate: float
    position: int

    @property
    def name(self) -> str:
        """Name of the original layer."""
        return str(self.layer.name)


@dataclass(frozen=True)
class Split:
    """A model cut in two before its first active dropout.

    Attributes:
        prefix: Images to a list of features; deterministic.
        suffix: `[*features, keys (B or 1, 2), rates (L,)]` to the model's output (B, C); stochastic.
        sites: The active dropout layers, in the order in which the model calls them.
        rates: The rate of each of the L calls of a dropout layer, active or not.
        left_off: Names of dropout layers inside of other layers (attention, recurrent, wrapped), which stay off.
    """

    prefix: keras.Model
    suffix: keras.Model
    sites: tuple[Site, ...]
    rates: tuple[float, ...]
    left_off: tuple[str, ...]


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

    A counter-based generator (Salmon et al., 2011) on a two-round multiplicative hash: stateless, so any row of any
    pass can be drawn alone, and element-wise, so a compiler fuses it with the mask it makes.
    """
    of_layer = ((position + 1) * MIX_1 + 2**31) % 2**32 - 2**31  # wraps as int32 does
    keys = _mix(keys + of_layer)
    counter = ops.arange(n_words, dtype="int32") * GOLDEN
    return _mix(keys[:, :1] + counter[None, :], keys[:, 1:])


def _mix(words: Any, key: Any = 0) -> Any:
    """Hash 32-bit words one by one; for each `key` a bijection."""
    words = ops.bitwise_xor(words, _shift_right(words, 16)) * MIX_1
    words = ops.bitwise_xor(words, key)
    words = ops.bitwise_xor(words, _shift_right(words, 15)) * MIX_2
    return ops.bitwise_xor(words, _shift_right(words, 16))


def _shift_right(words: Any, n: int) -> Any:
    return ops.bitwise_and(ops.bitwise_right_shift(words, n), 2 ** (32 - n) - 1)  # int32 shifts copy the sign


class AlwaysOn(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """A dropout layer that draws from given keys; subclasses say what a draw does to the input."""

    def __init__(self, site: Site) -> None:
        super().__init__(name=f"always_on_{site.position}", dtype=site.layer.dtype_policy, autocast=False)
        self.site = site

    def call(self, inputs: Any, keys: Any, rates: Any) -> Any:
        """Return the input (B, ...) with noise: `keys` (B or 1, 2), `rates` (L,)."""
        shared = _shared_axes(self.site.layer, len(inputs.shape))
        shape = [1 if axis in shared else size for axis, size in enumerate(ops.shape(inputs))][1:]
        words = random_bits(keys, self.site.position, math.prod(shape))
        uniform = ops.bitwise_and(ops.reshape(words, (-1, *shape)), 2**24 - 1)
        inputs = ops.cast(inputs, self.compute_dtype)
        return self.noisy(inputs, uniform, rates[self.site.position])

    def noisy(self, inputs: Any, uniform: Any, rate: Any) -> Any:
        """Return the input with noise from `uniform`: whole numbers in [0, 2**24), which broadcast to the input."""
        raise NotImplementedError

    def compute_output_spec(self, inputs: Any, keys: Any, rates: Any) -> Any:
        """Return shape and dtype of the output: those of the input."""
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)


class AlwaysOnDropout(AlwaysOn):
    """Inverted dropout (Srivastava et al., 2014)."""

    def noisy(self, inputs: Any, uniform: Any, rate: Any) -> Any:
        """Return the input where kept, over 1 - rate, and 0 elsewhere."""
        scale = ops.cast(1.0 / (1.0 - rate), inputs.dtype)
        return ops.where(_kept(uniform, rate), inputs * scale, ops.zeros((), inputs.dtype))


class AlwaysOnAlphaDropout(AlwaysOn):
    """Dropout to SELU's negative saturation that keeps mean 0 and variance 1 (Klambauer et al., 2017)."""

    def noisy(self, inputs: Any, uniform: Any, rate: Any) -> Any:
        """Return a * (the input where kept, -alpha * scale elsewhere) + b."""
        saturated = -SELU_ALPHA * SELU_SCALE
        a = ops.rsqrt((1.0 - rate) * (1.0 + rate * saturated**2))
        b = -a * saturated * rate
        a, b = ops.cast(a, inputs.dtype), ops.cast(b, inputs.dtype)
        return ops.where(_kept(uniform, rate), a * inputs + b, a * saturated + b)


class AlwaysOnGaussianDropout(AlwaysOn):
    """Multiplicative noise of mean 1 and variance rate / (1 - rate) (Srivastava et al., 2014)."""

    def noisy(self, inputs: Any, uniform: Any, rate: Any) -> Any:
        """Return the input times 1 + sqrt(rate / (1 - rate)) * normal."""
        centred = (ops.cast(uniform, "float32") + 0.5) * 2.0**-23 - 1.0
        noise = 1.0 + ops.sqrt(2.0 * rate / (1.0 - rate)) * ops.erfinv(centred)
        return inputs * ops.cast(noise, inputs.dtype)


def _kept(uniform: Any, rate: Any) -> Any:
    return uniform >= ops.cast(rate * 2.0**24, "int32")


def _shared_axes(layer: keras.layers.Layer, n_axes: int) -> Sequence[int]:
    """Return the axes along which one draw holds for all, the batch axis apart."""
    if isinstance(layer, SPATIAL):
        first = getattr(layer, "data_format", "channels_last") == "channels_first"
        return range(2, n_axes) if first else range(1, n_axes - 1)
    noise_shape = getattr(layer, "noise_shape", None) or ()
    return [axis for axis, size in enumerate(noise_shape) if axis and size == 1]


def always_on(site: Site) -> AlwaysOn:
    """Return the always-on layer that stands in for a dropout layer."""
    if isinstance(site.layer, keras.layers.AlphaDropout):
        return AlwaysOnAlphaDropout(site)
    if isinstance(site.layer, keras.layers.GaussianDropout):
        return AlwaysOnGaussianDropout(site)
    return AlwaysOnDropout(site)


def split(model: keras.Model, rates: Sequence[float] | None = None) -> Split:
    """Cut a model before its first active dropout.

    Args:
        model: A built Sequential or Functional model with one input and one output.
        rates: A test-time rate for each call of a dropout layer, in order; its own rate by default. 0 is off.

    Raises:
        ModelError: The model is neither, or has no active dropout.
    """
    functional = _functional(model)
    rewrite = _Rewrite(rates)
    inputs = keras.Input(batch_shape=functional.inputs[0].shape, dtype=functional.inputs[0].dtype)
    output = rewrite.replay(functional, [inputs])
    if rates is not None and len(rates) != len(rewrite.rates):
        raise ValueError(f"Expected {len(rewrite.rates)} rates, one a dropout call. Received: rates={list(rates)}.")
    if id(output) not in rewrite.stochastic:
        raise ModelError(_no_dropout(rewrite))
    features = list(rewrite.frontier.values())
    return Split(
        prefix=keras.Model(inputs, features),
        suffix=keras.Model([*features, rewrite.keys, rewrite.rate_input], output),
        sites=tuple(rewrite.sites),
        rates=tuple(rewrite.rates),
        left_off=tuple(rewrite.left_off),
    )


def _functional(model: keras.Model) -> keras.Model:
    try:
        inputs, outputs = model.inputs, model.outputs
        functional = keras.Model(inputs, outputs)
    except (AttributeError, ValueError, TypeError):
        inputs = None
    if not inputs:
        raise ModelError(
            f"Expected a built Sequential or Functional model for MC Dropout, received {model.name!r} of type "
            f"{type(model).__name__}: build it, or rebuild it as a Functional model and load its weights."
        )
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(
            f"Expected a model with one input and one output for MC Dropout, received {model.name!r} with "
            f"{len(inputs)} and {len(outputs)}: make a keras.Model of the pair that is to be evaluated."
        )
    return functional


def _no_dropout(rewrite: _Rewrite) -> str:
    found = f"dropout layers whose rate is 0 ({len(rewrite.rates)})" if rewrite.rates else "no dropout layer"
    inside = f", and dropout inside of {', '.join(rewrite.left_off)}, which stays off" if rewrite.left_off else ""
    return (
        f"Expected a model with active dropout for MC Dropout, received one with {found}{inside}: "
        "train it with a Dropout, AlphaDropout, SpatialDropout or GaussianDropout layer of a rate above 0."
    )


class _Rewrite:
    """One walk over the graph of a model that notes which tensors are stochastic, and where they begin."""

    def __init__(self, wanted: Sequence[float] | None) -> None:
        self.wanted = wanted
        self.rates: list[float] = []
        self.sites: list[Site] = []
        self.left_off: list[str] = []
        self.stochastic: set[int] = set()
        self.frontier: dict[int, Any] = {}
        self.keys = keras.Input(batch_shape=(None, 2), dtype="int32", name="mc_keys")
        self.rate_input = keras.Input(batch_shape=(None,), dtype="float32", name="mc_rates")

    def replay(self, functional: keras.Model, inputs: list[Any]) -> Any:
        """Call every layer of the graph again on new inputs, in order; return the output."""
        outputs = functional._run_through_graph(inputs, operation_fn=lambda layer: layer, call_fn=self.call)
        return keras.tree.flatten(outputs)[0]

    def call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """Call one layer, or what stands in for it."""
        if isinstance(layer, DROPOUTS):
            return self.drop(layer, args[0])
        if isinstance(layer, keras.Model) and len(args) == 1 and _has_dropout(layer):
            return self.replay(_functional(layer), [args[0]])
        if _has_dropout(layer) and layer.name not in self.left_off:
            self.left_off.append(layer.name)
        if kwargs.get("training"):
            kwargs["training"] = False
        outputs = layer(*args, **kwargs)
        inputs = [x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
        if any(id(x) in self.stochastic for x in inputs):
            self.frontier.update({id(x): x for x in inputs if id(x) not in self.stochastic})
            self.mark(outputs)
        return outputs

    def drop(self, layer: Any, inputs: Any) -> Any:
        """Call the always-on layer, or pass the input on where the rate is 0."""
        position = len(self.rates)
        rate = float(layer.rate if self.wanted is None or position >= len(self.wanted) else self.wanted[position])
        self.rates.append(rate)
        if rate == 0:
            return inputs
        if not 0 < rate < 1:
            raise ModelError(f"Expected dropout rates of at least 0 and below 1, received {rate} for {layer.name!r}.")
        if type(layer).call not in [kind.call for kind in DROPOUTS]:
            raise ModelError(
                f"Expected Keras's own dropout layers, received {layer.name!r} of type {type(layer).__name__}, which "
                "does something else than its base class: put the Keras layer in its place."
            )
        self.sites.append(Site(layer, rate, position))
        if id(inputs) not in self.stochastic:
            self.frontier[id(inputs)] = inputs
        outputs = always_on(self.sites[-1])(inputs, self.keys, self.rate_input)
        self.mark(outputs)
        return outputs

    def mark(self, outputs: Any) -> None:
        """Note tensors as stochastic."""
        self.stochastic.update(id(x) for x in keras.tree.flatten(outputs))


def _has_dropout(layer: Any) -> bool:
    """Return whether a layer holds dropout of a rate above 0 somewhere inside."""
    if not isinstance(layer, keras.layers.Layer):
        return False
    parts = layer._flatten_layers()
    return any(isinstance(part, DROPOUTS) or getattr(part, "dropout", 0) for part in parts)
