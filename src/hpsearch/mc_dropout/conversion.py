"""A model cut in two, so that only what is stochastic runs again and again.

`split` rebuilds a Keras model on the same layers and weights. Dropout layers become always-on ones
that take their randomness as an input; every other layer is the same object and runs in inference
mode, so BatchNormalization is left alone. The model is cut before its first active dropout:
`prefix` needs one pass, `suffix` one for each sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from hpsearch.errors import ModelError
from hpsearch.mc_dropout.mc_layers import DROPOUTS, Site, always_on


@dataclass(frozen=True)
class Split:
    """A model cut in two before its first active dropout.

    Attributes:
        prefix: Images to a list of features; deterministic.
        suffix: `[*features, keys (B or 1, 2), rates (L,)]` to the model's output (B, C);
            stochastic.
        sites: The active dropout layers, in the order in which the model calls them.
        rates: The rate of each of the L calls of a dropout layer, active or not.
        left_off: Names of dropout layers inside of other layers (attention, recurrent, wrapped),
            which stay off.
    """

    prefix: keras.Model
    suffix: keras.Model
    sites: tuple[Site, ...]
    rates: tuple[float, ...]
    left_off: tuple[str, ...]


def split(model: keras.Model, rates: Sequence[float] | None = None) -> Split:
    """Cut a model before its first active dropout.

    Args:
        model: A built Sequential or Functional model with one input and one output.
        rates: A test-time rate for each call of a dropout layer, in order; its own rate by default.
            0 is off.

    Raises:
        ModelError: The model is neither, or has no active dropout.
    """
    functional = _functional(model)
    rewrite = _Rewrite(rates)
    inputs = keras.Input(batch_shape=functional.inputs[0].shape, dtype=functional.inputs[0].dtype)
    output = rewrite.replay(functional, [inputs])
    if rates is not None and len(rates) != len(rewrite.rates):
        raise ValueError(
            f"Expected {len(rewrite.rates)} rates, one a dropout call. Received: "
            f"rates={list(rates)}."
        )
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
            f"Expected a built Sequential or Functional model for MC Dropout, received "
            f"{model.name!r} of type "
            f"{type(model).__name__}: build it, or rebuild it as a Functional model and load its "
            f"weights."
        )
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(
            f"Expected a model with one input and one output for MC Dropout, received "
            f"{model.name!r} with "
            f"{len(inputs)} and {len(outputs)}: make a keras.Model of the pair that is to be "
            f"evaluated."
        )
    return functional


def _no_dropout(rewrite: _Rewrite) -> str:
    found = (
        f"dropout layers whose rate is 0 ({len(rewrite.rates)})"
        if rewrite.rates
        else "no dropout layer"
    )
    inside = (
        f", and dropout inside of {', '.join(rewrite.left_off)}, which stays off"
        if rewrite.left_off
        else ""
    )
    return (
        f"Expected a model with active dropout for MC Dropout, received one with {found}{inside}: "
        "train it with a Dropout, AlphaDropout, SpatialDropout or GaussianDropout layer of a rate "
        "above 0."
    )


class _Rewrite:
    """One walk over the graph of a model that notes which tensors are stochastic, and where they
    begin.
    """

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
        outputs = functional._run_through_graph(
            inputs, operation_fn=lambda layer: layer, call_fn=self.call
        )
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
        rate = float(
            layer.rate
            if self.wanted is None or position >= len(self.wanted)
            else self.wanted[position]
        )
        self.rates.append(rate)
        if rate == 0:
            return inputs
        if not 0 < rate < 1:
            raise ModelError(
                f"Expected dropout rates of at least 0 and below 1, received {rate} for "
                f"{layer.name!r}."
            )
        if type(layer).call not in [kind.call for kind in DROPOUTS]:
            raise ModelError(
                f"Expected Keras's own dropout layers, received {layer.name!r} of type "
                f"{type(layer).__name__}, which "
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
