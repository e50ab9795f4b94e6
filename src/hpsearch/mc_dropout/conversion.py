"""Cut a trained model before its first dropout, so that what comes before runs once.

`Split.of` calls the same layers, with the same weights, on new symbolic inputs. `prefix` is
deterministic and runs once; `suffix` holds all dropout and runs once for each sample. A model whose
graph Keras does not know, such as a subclassed one, is all suffix, and so is one with a mask of
padding at the cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras.src.backend import get_keras_mask  # Keras exports it under no public name

from hpsearch.errors import ModelError
from hpsearch.mc_dropout.interception import DROPPING, intercepted
from hpsearch.mc_dropout.stochastic import Deterministic, Stochastic
from hpsearch.mc_dropout.structure import Structure
from hpsearch.models.dropout_masks import Tensor
from hpsearch.models.outputs import built_shape

_FUNCTIONAL = type(keras.Model(*2 * [keras.Input((1,))]))


@dataclass(frozen=True)
class Split:
    """A model cut in two before its first dropout.

    Attributes:
        model: The model.
        structure: What its layers draw.
    """

    model: keras.Model
    structure: Structure
    _prefix: Callable[..., Tensor]
    _suffix: Callable[..., Tensor]

    @classmethod
    def of(
        cls,
        model: keras.Model,
        shape: Sequence[int] | None = None,
        dtype: str = "float32",
    ) -> Split:
        """Cut a model before its first dropout.

        Args:
            model: A built model with one input and one output.
            shape: The shape of an input; None takes it from the model.
            dtype: The type of the inputs, where the model does not say it.

        Raises:
            ModelError: The model has no active dropout, or cannot be repeated pass by pass.
        """
        shape, dtype = input_of(model, shape, dtype)
        structure = Structure.of(model, shape, dtype)
        if not structure.on:
            raise ModelError(_no_dropout(structure))
        if not _has_graph(model):
            return cls(model, structure, _unchanged, model)
        rewrite = _Rewrite(structure)
        old_input = model.inputs[0]
        inputs = keras.Input(batch_shape=old_input.shape, dtype=old_input.dtype)
        output = rewrite.replay(model, inputs)
        features = list(rewrite.frontier.values())
        if any(get_keras_mask(feature) is not None for feature in features):
            # A mask of padding hangs on a tensor and would stay behind in the prefix.
            return cls(model, structure, _unchanged, model)
        prefix = keras.Model(inputs, features)
        return cls(model, structure, prefix, keras.Model(features, output))

    @property
    def rates(self) -> tuple[float, ...]:
        """The rate of each of the L draws of a pass; 0 for draws whose rate cannot be changed."""
        return tuple(draw.rate for draw in self.structure.draws)

    @property
    def can_be_off(self) -> bool:
        """Whether rates of 0 turn all draws off."""
        return all(draw.name in DROPPING and draw.rate for draw in self.structure.draws)

    def features(self, inputs: Tensor) -> list[Tensor]:
        """Return what `outputs` takes for inputs (B, ...)."""
        with keras.StatelessScope(), intercepted(self.structure.layers, Deterministic()):
            found: list[Tensor] = keras.tree.flatten(self._prefix(inputs, training=False))
        return found

    def outputs(
        self,
        features: list[Tensor],
        keys: Tensor,
        shared_key: Tensor,
        rates: Tensor,
    ) -> Tensor:
        """Return the outputs of one pass, (B, ...).

        Args:
            features: What `features` returns.
            keys: Two integers for each row, (B, 2), or (1, 2) where all rows share their masks.
            shared_key: Two integers for what all rows share in any case, (1, 2).
            rates: The rates of the draws, (L,).

        Raises:
            ModelError: The model draws otherwise than when it was watched.
        """
        drawn = Stochastic(self.structure, keys, shared_key, rates)
        given: Any = features
        if len(features) == 1:
            given = features[0]
        with keras.StatelessScope(), intercepted(self.structure.layers, drawn):
            outputs = self._suffix(given, training=True)
        n_expected = len(self.structure.draws)
        if drawn.n_draws != n_expected:
            raise ModelError(
                f"Expected {n_expected} draws in a pass of the model, received {drawn.n_draws}."
            )
        return keras.tree.flatten(outputs)[0]


def input_of(
    model: keras.Model,
    shape: Sequence[int | None] | None,
    dtype: str,
) -> tuple[Sequence[int], str]:
    """Return shape and type of one input of a model.

    Raises:
        ModelError: The model has several inputs, or its input shape is unknown.
    """
    inputs = getattr(model, "inputs", None)
    if inputs:
        if len(inputs) != 1 or len(model.outputs) != 1:
            raise ModelError(
                "Expected a model with one input and one output for MC Dropout, received "
                f"{model.name!r} with {len(inputs)} and {len(model.outputs)}: make a keras.Model "
                "of the input and the output to evaluate."
            )
        dtype = inputs[0].dtype
        if shape is None:
            shape = inputs[0].shape[1:]
    elif shape is None:
        built = built_shape(model)
        if built is not None:
            shape = built[1:]
    sizes = [size for size in shape or () if size is not None]
    if shape is None or len(sizes) < len(shape):
        raise ModelError(
            f"Expected a built model with one input for MC Dropout, received {model.name!r} of "
            f"type {type(model).__name__}, whose input shape is unknown: call it on an example."
        )
    return tuple(sizes), dtype


def _unchanged(inputs: Tensor, training: bool) -> Tensor:
    """Return inputs as they are."""
    return inputs


def _has_graph(model: object) -> bool:
    """Return whether a layer is a model whose graph of layers says what it computes."""
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        return False
    own_call = type(model).call
    return own_call in (_FUNCTIONAL.call, keras.Sequential.call)


def _no_dropout(structure: Structure) -> str:
    """Return the error message for a model without active dropout."""
    found = "no dropout layer"
    layers = [layer for layer in structure.layers if getattr(layer, "rate", None) == 0]
    if layers:
        found = f"dropout layers whose rate is 0 ({len(layers)})"
    return (
        f"Expected a model with active dropout for MC Dropout, received one with {found}: "
        "train it with a Dropout, AlphaDropout, SpatialDropout or GaussianDropout layer of a rate "
        "above 0."
    )


class _Rewrite:
    """A walk over the graph of a model, which calls all layers again on new symbolic tensors.

    Args:
        structure: What the model draws.

    Attributes:
        stochastic: Identities of the tensors that depend on a dropout mask.
        frontier: By identity, the deterministic tensors that stochastic layers take as inputs.
    """

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.stochastic: set[int] = set()
        self.frontier: dict[int, keras.KerasTensor] = {}

    def replay(self, functional: keras.Model, inputs: Tensor) -> Tensor:
        """Call all layers of a Functional model on a new input, in order, and return the output."""
        graph = keras.Model(functional.inputs, functional.outputs)
        outputs = graph._run_through_graph(
            [inputs],
            operation_fn=lambda layer: layer,
            call_fn=self.call,
        )
        flat = keras.tree.flatten(outputs)
        return flat[0]

    def call(self, layer: keras.layers.Layer, *args: object, **kwargs: object) -> Tensor:
        """Call one layer of the graph and return the outputs."""
        is_on = self._is_on(layer)
        if is_on and _has_graph(layer) and len(args) == 1 and len(layer.inputs) == 1:
            return self.replay(layer, args[0])
        if kwargs.get("training"):
            kwargs["training"] = False
        outputs = layer(*args, **kwargs)
        inputs = keras.tree.flatten((args, kwargs))
        identities = [id(part) for part in inputs]
        if is_on or not self.stochastic.isdisjoint(identities):
            self._mark(inputs, outputs)
        return outputs

    def _is_on(self, layer: object) -> bool:
        """Return whether a layer drops, or contains one that does."""
        if not isinstance(layer, keras.layers.Layer):
            return False
        return any(id(part) in self.structure.on for part in layer._flatten_layers())

    def _mark(self, inputs: Sequence[object], outputs: Tensor) -> None:
        """Note the outputs of a layer as stochastic, and its deterministic inputs as features."""
        for part in inputs:
            is_tensor = isinstance(part, keras.KerasTensor)
            if is_tensor and id(part) not in self.stochastic:
                self.frontier[id(part)] = part
        for tensor in keras.tree.flatten(outputs):
            self.stochastic.add(id(tensor))
