"""Find which layers of a model drop, by watching what the model does in training.

The model is traced with symbolic inputs, so nothing is computed and no variable changes. A layer
belongs to the dropout of a model if it draws dropout, or is a person's own layer that draws random
numbers in training. Layers of Keras that add noise or change images are no dropout.
"""

from __future__ import annotations

import inspect
import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import keras

from hpsearch.errors import ModelError
from hpsearch.mc_dropout.interception import DROPPING, intercepted, layers_of
from hpsearch.models.dropout_masks import Tensor
from hpsearch.models.own_error import described


@dataclass(frozen=True)
class Draw:
    """One random draw of a pass.

    Attributes:
        layer: Name of the layer that draws.
        name: Name of the random function, as `interception` gives it.
        rate: The dropout rate; 0 for a draw that is no dropout, or whose rate is computed.
        n_per_row: Length of the first axis for each row of the input; 0 for a draw that all rows
            share, such as one for the weights of a layer.
    """

    layer: str
    name: str
    rate: float
    n_per_row: int


@dataclass(frozen=True)
class Structure:
    """What the layers of a model draw, and in which mode they run.

    Attributes:
        layers: All layers, the model among them.
        on: Identities of the layers that run as in training: those that draw dropout, and those
            that contain them.
        inference: By identity, whether a layer runs as in training when the model predicts, which
            a person may have fixed. It holds for all layers that are not on.
        draws: The draws of a pass, in order.
        calls: By identity, the places of the first draws of the calls of a layer that is on.
        other_draws: Names of own layers whose random draws are on, although they are no dropout
            of Keras.
        left_off: Names of layers with random draws in training that Keras does not make. They run
            as when the model predicts.
        output_shape: Shape of the model's output, (N, ...).
        n_values: How many numbers all layers return for one row.
    """

    layers: tuple[keras.layers.Layer, ...]
    on: frozenset[int]
    inference: Mapping[int, bool]
    draws: tuple[Draw, ...]
    calls: Mapping[int, Sequence[int]]
    other_draws: tuple[str, ...]
    left_off: tuple[str, ...]
    output_shape: tuple[int | None, ...]
    n_values: int

    @classmethod
    def of(
        cls,
        model: keras.Model,
        shape: Sequence[int],
        dtype: str,
    ) -> Structure:
        """Watch a model.

        Args:
            model: A built model.
            shape: Shape of one input.
            dtype: Type of the inputs.

        Raises:
            ModelError: The model cannot be traced, or draws in a way that cannot be repeated.
        """
        layers = layers_of(model)
        predicting = _Watch.run(model, layers, (2, *shape), dtype, lambda _layer: None)
        inference = {place: any(modes) for place, modes in predicting.modes.items()}

        def asked(layer: keras.layers.Layer) -> bool | None:
            if layer is model:
                return True
            return None  # it may have been called with training=False, whatever the model does

        training = _Watch.run(model, layers, (2, *shape), dtype, asked)
        on = _with_cells(training.dropping(), layers)
        training.check_modes(on, layers)

        def mode(layer: keras.layers.Layer) -> bool:
            return id(layer) in on or inference.get(id(layer), False)

        first = _Watch.run(model, layers, (2, *shape), dtype, mode)
        first.check_seeds(layers)
        second = _Watch.run(model, layers, (3, *shape), dtype, mode)
        sizes = [int(size) for size in first.output_shape[1:]]
        return cls(
            layers,
            on,
            inference,
            _merged(first.draws, second.draws),
            first.calls,
            tuple(dict.fromkeys(first.other_draws())),
            training.foreign_draws(layers),
            (None, *sizes),
            first.n_values // 2,
        )


@dataclass(frozen=True)
class _Seen:
    """A draw that a watch has seen.

    Attributes:
        layers: The layers whose calls it was in, the innermost last.
        name: Name of the random function.
        rate: The dropout rate; 0 for other draws.
        length: Length of its first axis.
        is_repeated: Whether it stands in a loop or a branch of the traced program.
    """

    layers: tuple[keras.layers.Layer, ...]
    name: str
    rate: float
    length: int
    is_repeated: bool

    @property
    def is_dropout(self) -> bool:
        """Whether the draw counts as dropout: it is one, or a person's own layer makes it."""
        return self.name in DROPPING or (bool(self.layers) and not _is_of_keras(self.layers[-1]))


class _Traced(keras.layers.Layer):  # type: ignore[misc]  # Keras has no types
    """A layer that calls a function; with a symbolic input Keras traces it and computes nothing."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(autocast=False)
        self._function = function

    def call(self, inputs: Tensor) -> Tensor:
        """Return what the function returns."""
        return self._function(inputs)


class _Watch:
    """An observer that notes the draws and modes of all layers.

    Args:
        mode: Returns whether a layer runs as in training; None lets the model decide.
    """

    def __init__(self, mode: Callable[[keras.layers.Layer], bool | None]) -> None:
        self.mode = mode
        self._stack: list[keras.layers.Layer] = []
        self._forget()

    def _forget(self) -> None:
        """Begin anew, since Keras may trace a function more than once."""
        self.modes: defaultdict[int, list[bool]] = defaultdict(list)
        self.calls: defaultdict[int, list[int]] = defaultdict(list)
        self.draws: list[_Seen] = []
        self.n_values = 0
        self.output_shape: tuple[int, ...] = ()
        self.random_operations: list[str] = []
        self._trace = current_trace()

    @classmethod
    def run(
        cls,
        model: keras.Model,
        layers: Sequence[keras.layers.Layer],
        shape: tuple[int, ...],
        dtype: str,
        mode: Callable[[keras.layers.Layer], bool | None],
    ) -> _Watch:
        """Trace a model with inputs of a shape, and return what was seen."""
        watch = cls(mode)
        is_training = mode(model)
        errors: list[Exception] = []

        def traced(inputs: Tensor) -> Tensor:
            watch._forget()
            try:
                outputs = model(inputs, training=bool(is_training))
            except Exception as error:
                errors.append(error)
                raise
            flat = keras.tree.flatten(outputs)
            if len(flat) != 1:
                raise ModelError(
                    "Expected a model with one output for MC Dropout, received "
                    f"{model.name!r} with {len(flat)}: make a keras.Model of the input and the "
                    "output to evaluate."
                )
            watch.output_shape = tuple(flat[0].shape)
            watch.random_operations = _random_operations()
            return flat[0]

        try:
            with intercepted(layers, watch):
                _Traced(traced)(keras.KerasTensor(shape, dtype))
        except ModelError:
            raise
        except Exception as error:  # a person's layer may raise anything
            first = [*errors, error][0]
            raise ModelError(
                f"Expected a model that can be traced as in training, received {described(first)}."
            ) from error
        return watch

    def call(
        self,
        layer: keras.layers.Layer,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Note a call of a layer, and run it in its mode."""
        if takes_training(layer):
            args, kwargs = with_training(original, args, kwargs, self.mode(layer))
        self.modes[id(layer)].append(bool(kwargs.get("training")))
        self.calls[id(layer)].append(len(self.draws))
        self._stack.append(layer)
        try:
            outputs = original(*args, **kwargs)
        finally:
            self._stack.pop()
        for output in keras.tree.flatten(outputs):
            self.n_values += math.prod(size or 1 for size in getattr(output, "shape", ()))
        return outputs

    def draw(
        self,
        name: str,
        original: Callable[..., Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        """Note a draw, and return what it returns; inputs of dropout are returned as they are."""
        rate = 0.0
        if name in DROPPING:
            outputs, given_rate, given_shape = args
            if isinstance(given_rate, Real):  # not a tensor of the traced program
                rate = float(given_rate)
            shape = noise_shape_of(outputs, given_shape)
        else:
            outputs = original(*args, **kwargs)
            shape = tuple(outputs.shape)
        if None in shape:
            raise ModelError(
                "Expected a model in which all shapes are known, received dropout on "
                f"{tuple(outputs.shape)} in {self._stack[-1].name!r}: let the layer before it say "
                "its shape, such as with tf.ensure_shape."
            )
        length = shape[0] if shape else 0
        is_repeated = current_trace() is not self._trace
        self.draws.append(_Seen(tuple(self._stack), name, rate, length, is_repeated))
        return outputs

    def dropping(self) -> set[int]:
        """Return the identities of layers that drop, and of those that contain them."""
        found: set[int] = set()
        for seen in self.draws:
            if seen.is_dropout:
                found.update(id(layer) for layer in seen.layers)
        return found

    def check_modes(self, on: frozenset[int], layers: Sequence[keras.layers.Layer]) -> None:
        """Raise ModelError for a layer that drops and runs in two modes in one pass."""
        for layer in layers:
            is_mixed = len(set(self.modes[id(layer)])) > 1
            if id(layer) in on and takes_training(layer) and is_mixed:
                raise ModelError(
                    f"Expected each layer with dropout to run in one mode, received {layer.name!r},"
                    " which a pass calls with training=True and with training=False: use two "
                    "layers."
                )

    def check_seeds(self, layers: Sequence[keras.layers.Layer]) -> None:
        """Raise ModelError where a layer draws what no seed repeats."""
        found = self.foreign_draws(layers)
        if found:
            raise ModelError(
                "Expected a model whose passes a seed repeats, received one in which "
                f"{found[0]!r} draws with a random function of TensorFlow: use keras.random."
            )

    def other_draws(self) -> list[str]:
        """Return the names of layers whose draws are none of Keras's dropout."""
        return [seen.layers[-1].name for seen in self.draws if seen.name not in DROPPING]

    def foreign_draws(self, layers: Sequence[keras.layers.Layer]) -> tuple[str, ...]:
        """Return the names of the layers whose draws Keras does not make, each once."""
        known = {layer.name for layer in layers}
        found = []
        for operation in self.random_operations:
            names = [re.sub(r"_\d+$", "", scope) for scope in operation.split("/")]
            scopes = [*operation.split("/"), *names]  # TensorFlow numbers scopes of one name
            layer = [scope for scope in scopes if scope in known]
            found.append(layer[-1] if layer else operation)
        return tuple(dict.fromkeys(found))


def _random_operations() -> list[str]:
    """Return the names of the operations of the traced program that keep a random state.

    Keras's own random functions keep none; their seeds are variables. JAX has no such operations.
    """
    trace = current_trace()
    if trace is None:
        return []
    operations = trace.get_operations()
    return [operation.name for operation in operations if operation.type.startswith("Random")]


def _with_cells(
    dropping: set[int],
    layers: Sequence[keras.layers.Layer],
) -> frozenset[int]:
    """Return the layers that drop, with the cells of recurrent ones.

    A recurrent layer draws the masks before its loop, and its cell applies them.
    """
    found = set(dropping)
    for layer in layers:
        if id(layer) in dropping and isinstance(layer, keras.layers.RNN):
            for cell in layer.cell._flatten_layers():
                if getattr(cell, "dropout", 0) or getattr(cell, "recurrent_dropout", 0):
                    found.add(id(cell))
    return frozenset(found)


def takes_training(layer: keras.layers.Layer) -> bool:
    """Return whether the `call` of a layer has the argument `training`."""
    return bool(getattr(layer, "_call_has_training_arg", False))


def with_training(
    original: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    training: bool | None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a layer's `call` with `training` among the keywords.

    Args:
        original: The `call` of the layer.
        args: Its positional arguments, which hold `training` where a person writes it there.
        kwargs: Its other arguments.
        training: The value to give; None leaves the one that is there.
    """
    known = inspect.signature(original).parameters
    names = list(known)
    if "training" in known and known["training"].kind == inspect.Parameter.POSITIONAL_OR_KEYWORD:
        place = names.index("training")
        kwargs = {**kwargs, **dict(zip(names[place:], args[place:], strict=False))}
        args = args[:place]
    if training is not None:
        kwargs = {**kwargs, "training": training}
    return args, kwargs


def current_trace() -> Any:
    """Return what stands for the program that is traced now; None where the backend has no such.

    Loops and branches of TensorFlow are programs of their own. JAX traces them in place.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # noqa: PLC0415  # other backends work without it

        return tf.compat.v1.get_default_graph()
    return None


def _merged(first: Sequence[_Seen], second: Sequence[_Seen]) -> tuple[Draw, ...]:
    """Return the draws that were seen with 2 and with 3 rows, in order.

    Raises:
        ModelError: They are not the same, or one stands in a loop.
    """
    names = [seen.name for seen in first]
    if names != [seen.name for seen in second]:
        raise ModelError(
            "Expected a model that draws the same random numbers for any number of examples, "
            f"received {names} for 2 examples and {[seen.name for seen in second]} for 3."
        )
    return tuple(_draw(*pair) for pair in zip(first, second, strict=True))


def _draw(of_two: _Seen, of_three: _Seen) -> Draw:
    """Return one draw, which was seen with 2 and with 3 rows."""
    layer = of_two.layers[-1].name
    if of_two.is_repeated:
        raise ModelError(
            f"Expected a model that draws each dropout mask once in a pass, received {layer!r}, "
            "which draws in a loop over steps or in a branch: draw the mask before the loop."
        )
    if not 0 <= of_two.rate < 1:
        raise ModelError(
            f"Expected dropout rates of at least 0 and below 1, received {of_two.rate} for "
            f"{layer!r}."
        )
    n_per_row = 0
    if of_two.length != of_three.length:
        n_per_row = of_three.length - of_two.length
        if n_per_row * 2 != of_two.length:
            raise ModelError(
                f"Expected dropout masks with a fixed size for each example, received {layer!r}, "
                f"whose mask has {of_two.length} rows for 2 examples and {of_three.length} for 3."
            )
    return Draw(layer, of_two.name, of_two.rate, n_per_row)


def noise_shape_of(inputs: Tensor, given: Sequence[int | None] | None) -> tuple[int, ...]:
    """Return the shape of a mask.

    Args:
        inputs: What is dropped, of any shape.
        given: The shape that a layer gives, in which None stands for the size of the inputs; None
            where it gives none.
    """
    if given is None:
        return tuple(inputs.shape)
    sizes = zip(given, inputs.shape, strict=True)
    return tuple(size if wanted is None else int(wanted) for wanted, size in sizes)


def _is_of_keras(layer: keras.layers.Layer) -> bool:
    """Return whether Keras defines what a layer computes."""
    for kind in type(layer).__mro__:
        if "call" in vars(kind):
            return str(kind.__module__).partition(".")[0] == "keras"
    return True
