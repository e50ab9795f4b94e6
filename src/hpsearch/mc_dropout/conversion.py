"""Conversion of a trained model for Monte Carlo Dropout.

`Split.of` rebuilds a Keras model on the same layers and weights, in two parts. Dropout layers
become always-on layers that take their randomness as an input. All other layers are the same
objects and run in inference mode, so BatchNormalization is left alone. The model is cut before its
first active dropout layer: `prefix` is deterministic and runs once, `suffix` runs once per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import keras

from hpsearch.errors import ModelError
from hpsearch.mc_dropout.mc_layers import DROPOUTS, Site
from hpsearch.models.dropout_masks import Tensor


@dataclass(frozen=True)
class Split:
    """A model cut in two before its first active dropout layer.

    Attributes:
        prefix: Deterministic part, from images to a list of features.
        suffix: Stochastic part, from `[*features, keys (B or 1, 2), rates (L,)]` to the model's
            output (B, C).
        sites: The active dropout layers, in the order in which the model calls them.
        rates: Rates of all L calls of dropout layers, active or not.
        left_off: Names of the layers that contain dropout which stays off, such as attention,
            recurrent and wrapper layers.
    """

    prefix: keras.Model
    suffix: keras.Model
    sites: tuple[Site, ...]
    rates: tuple[float, ...]
    left_off: tuple[str, ...]

    @classmethod
    def of(cls, model: keras.Model) -> Split:
        """Cut a model before its first active dropout layer.

        Args:
            model: A built Sequential or Functional model with one input and one output.

        Raises:
            ModelError: The model is of another kind, cannot be converted, or has no active dropout.
        """
        functional = _functional(model)
        rewrite = _Rewrite()
        old_input = functional.inputs[0]
        inputs = keras.Input(
            batch_shape=old_input.shape,
            dtype=old_input.dtype,
        )
        output = rewrite.replay(functional, inputs)
        if id(output) not in rewrite.stochastic:
            raise ModelError(_no_dropout(rewrite))
        features = list(rewrite.frontier.values())
        suffix_inputs = [*features, rewrite.keys, rewrite.rate_input]
        return cls(
            prefix=keras.Model(inputs, features),
            suffix=keras.Model(suffix_inputs, output),
            sites=tuple(rewrite.sites),
            rates=tuple(rewrite.rates),
            left_off=tuple(rewrite.left_off),
        )


def _functional(model: keras.Model) -> keras.Model:
    """Return a model as a Functional model with one input and one output, or raise ModelError."""
    functional = None
    with suppress(AttributeError, ValueError, TypeError):
        functional = keras.Model(model.inputs, model.outputs)
    if functional is None or not model.inputs:
        raise ModelError(
            "Expected a built Sequential or Functional model for MC Dropout, received "
            f"{model.name!r} of type {type(model).__name__}: build it, or rebuild it as a "
            "Functional model and load its weights."
        )
    n_inputs = len(model.inputs)
    n_outputs = len(model.outputs)
    if n_inputs != 1 or n_outputs != 1:
        raise ModelError(
            "Expected a model with one input and one output for MC Dropout, received "
            f"{model.name!r} with {n_inputs} and {n_outputs}: make a keras.Model of the input and "
            "the output to evaluate."
        )
    return functional


def _no_dropout(rewrite: _Rewrite) -> str:
    """Return the error message for a model without active dropout."""
    found = "no dropout layer"
    if rewrite.rates:
        found = f"dropout layers whose rate is 0 ({len(rewrite.rates)})"
    if rewrite.left_off:
        names = ", ".join(rewrite.left_off)
        found += f", and dropout inside of {names}, which stays off"
    return (
        f"Expected a model with active dropout for MC Dropout, received one with {found}: "
        "train it with a Dropout, AlphaDropout, SpatialDropout or GaussianDropout layer of a rate "
        "above 0."
    )


class _Rewrite:
    """A walk over the graph of a model, which calls all layers again on new symbolic tensors.

    Attributes:
        rates: Rate of each call of a dropout layer so far.
        sites: Active dropout layers so far.
        left_off: Names of layers that contain dropout which stays off.
        stochastic: Identities of the tensors that depend on a dropout mask.
        frontier: By identity, the deterministic tensors that stochastic layers take as inputs.
        keys: Input of the suffix for the random keys.
        rate_input: Input of the suffix for the dropout rates.
    """

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.sites: list[Site] = []
        self.left_off: list[str] = []
        self.stochastic: set[int] = set()
        self.frontier: dict[int, keras.KerasTensor] = {}
        self.keys = keras.Input((2,), dtype="int32", name="mc_keys")
        self.rate_input = keras.Input((), dtype="float32", name="mc_rates")

    def replay(self, functional: keras.Model, inputs: Tensor) -> Tensor:
        """Call all layers of a Functional model on a new input, in order, and return the output."""
        outputs = functional._run_through_graph(
            [inputs],
            operation_fn=lambda layer: layer,
            call_fn=self.call,
        )
        flat = keras.tree.flatten(outputs)
        return flat[0]

    def call(self, layer: keras.layers.Layer, *args: object, **kwargs: object) -> Tensor:
        """Call one layer of the graph, or its replacement, and return the outputs."""
        if isinstance(layer, DROPOUTS):
            return self._drop(layer, args[0])
        if _has_dropout(layer):
            if isinstance(layer, keras.Model) and len(args) == 1:
                functional = _functional(layer)
                return self.replay(functional, args[0])
            if layer.name not in self.left_off:
                self.left_off.append(layer.name)
        if kwargs.get("training"):
            kwargs["training"] = False
        outputs = layer(*args, **kwargs)
        inputs = keras.tree.flatten((args, kwargs))
        identities = [id(part) for part in inputs]
        if not self.stochastic.isdisjoint(identities):
            self._mark(inputs, outputs)
        return outputs

    def _drop(self, layer: keras.layers.Layer, inputs: Tensor) -> Tensor:
        """Call the always-on layer, or return the input unchanged where the rate is 0."""
        position = len(self.rates)
        rate = float(layer.rate)
        self.rates.append(rate)
        if rate == 0:
            return inputs
        if not 0 < rate < 1:
            raise ModelError(
                f"Expected dropout rates of at least 0 and below 1, received {rate} for "
                f"{layer.name!r}."
            )
        known_calls = [kind.call for kind in DROPOUTS]
        if type(layer).call not in known_calls:
            raise ModelError(
                f"Expected Keras's own dropout layers, received {layer.name!r} of type "
                f"{type(layer).__name__}, which overrides `call`: replace it by the Keras layer."
            )
        site = Site(layer, rate, position)
        self.sites.append(site)
        replacement = site.mc_layer()
        outputs = replacement(inputs, self.keys, self.rate_input)
        self._mark([inputs], outputs)
        return outputs

    def _mark(self, inputs: Sequence[object], outputs: Tensor) -> None:
        """Note the outputs of a layer as stochastic, and its deterministic inputs as features."""
        for part in inputs:
            is_tensor = isinstance(part, keras.KerasTensor)
            if is_tensor and id(part) not in self.stochastic:
                self.frontier[id(part)] = part
        for tensor in keras.tree.flatten(outputs):
            self.stochastic.add(id(tensor))


def _has_dropout(layer: object) -> bool:
    """Return whether a layer is, or contains, a dropout layer or an own dropout rate above 0."""
    if not isinstance(layer, keras.layers.Layer):
        return False
    for part in layer._flatten_layers():
        if isinstance(part, DROPOUTS):
            return True
        own_rate = getattr(part, "dropout", None)
        if own_rate:
            return True
    return False
