"""Checks of a request to a served model: what it sends, its parameters and how much it asks for.

MLflow's server casts what a request sends to the type of the signature without a word: 0.5 becomes
the pixel 0, and "7" and true become numbers. `INPUTS` is a type that nothing is cast to, so that
`Inputs` sees what was sent.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Integral
from reprlib import repr as shortened
from typing import Any, ClassVar

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec
from numpy.typing import ArrayLike, NDArray

from hpsearch.errors import ModelError, did_you_mean
from hpsearch.mc_dropout.prediction import McDropout

# MLflow passes any input on to this type, which has no name, or a dictionary would be passed on.
INPUTS = Schema([TensorSpec(np.dtype(object), (-1,))])


class RequestError(MlflowException):
    """A request that is refused: one sentence, with the HTTP status 400.

    MLflow's server puts the inputs of a request before the message of an error. This error answers
    with its own sentence alone.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, INVALID_PARAMETER_VALUE)
        self.sentence = sentence

    def serialize_as_json(self) -> str:
        """Return the body of the answer."""
        self.message = self.sentence
        body: str = super().serialize_as_json()  # type: ignore[no-untyped-call]
        return body


@dataclass(frozen=True)
class Inputs:
    """The inputs that a model takes.

    Attributes:
        shape: Shape of one input, such as height, width and channels.
        dtype: Type of the training data, "uint8" or "float32".
        range: The lowest and the highest value of the training data, or None.
        are_pixels: Whether these are black and white, beyond which there is no value.
        WHITE: The highest value of a pixel of 8 bits.
    """

    WHITE: ClassVar[int] = 255

    shape: tuple[int, ...]
    dtype: str
    range: list[float] | None = None
    are_pixels: bool = False

    def checked(self, given: ArrayLike) -> NDArray[np.number]:
        """Return what a request sends as an array of the model's own type, (N, *shape).

        Args:
            given: An array of any type. One of objects holds the values of a request's JSON.

        Raises:
            ModelError: The shape, a type or a value is none that the model was trained on.
        """
        array = given
        if not isinstance(array, np.ndarray):
            array = np.array(given, dtype=object)
        self._check_shape(array)
        self._check_types(array)
        with np.errstate(over="ignore"):
            try:
                numbers = array.astype(np.float64)
            except OverflowError:  # an integer of more than 308 digits
                numbers = np.array(np.inf)
            in_float32 = numbers.astype(np.float32)
        if not np.isfinite(in_float32).all():
            raise ModelError(
                f"Expected finite numbers as {self._values}, received NaN or infinity."
            )
        self._check_scale(array, numbers)
        if self.dtype == "uint8":
            self._check_whole(numbers)
        else:
            self._check_range(numbers)
        return numbers.astype(self.dtype)

    def described(self) -> dict[str, Any]:
        """Return shape, type and range for the metadata of a model, since its signature has none.

        The values are those of JSON and YAML.
        """
        return {"shape": list(self.shape), "dtype": self.dtype, "range": self.range}

    @property
    def _are_images(self) -> bool:
        return len(self.shape) == 3

    @property
    def _values(self) -> str:
        """What the numbers of an input are called."""
        if self._are_images:
            return "pixels"
        return "inputs"

    @property
    def _pixels(self) -> str:
        """The end of a sentence on values that are whole numbers from 0 to 255."""
        if self.dtype == "uint8":
            return f"whole numbers from 0 to {self.WHITE}"
        return f"numbers from 0 to {self.WHITE}"

    def _check_shape(self, array: NDArray[Any]) -> None:
        if len(array.shape) > 1 and len(array) > 0 and array.shape[1:] == self.shape:
            return
        kind = "inputs"
        if self._are_images:
            kind = "images"
        axes = ", ".join(map(str, self.shape))
        if len(self.shape) == 1:
            axes += ","
        received = f"shape {array.shape}"
        if array.ndim > 8:
            received = f"{array.ndim} axes"
        is_ragged = False
        if array.dtype == object:
            is_ragged = any(isinstance(value, list) for value in array.flat)
        if is_ragged:
            received = "lists of different lengths"
        raise ModelError(f"Expected {kind} (N, {axes}) with N of at least 1, received {received}.")

    def _check_types(self, array: NDArray[Any]) -> None:
        """Raise ModelError for booleans, texts, null and other values that are no numbers."""
        odd: object = None
        if array.dtype == object:
            kinds = {type(value) for value in array.flat}
            odd_kinds = {kind for kind in kinds if not _is_number(kind)}
            if not odd_kinds:
                return
            odd = next(value for value in array.flat if type(value) in odd_kinds)
        elif array.dtype.kind in "iuf":
            return
        else:
            odd = array.flat[0].item()
        names = {bool: "a boolean", str: "a text", type(None): "null"}
        name = names.get(type(odd), "a value of another kind")
        received = f"{name}, {shortened(odd)}"
        if odd is None:
            received = name
        raise ModelError(f"Expected numbers as {self._values}, received {received}.")

    def _check_scale(self, array: NDArray[Any], numbers: NDArray[np.float64]) -> None:
        """Raise ModelError for pixels from 0 to 1 where the model takes those from 0 to 255.

        A black image is the same in both, and integers up to 1 are pixels from 0 to 255.
        """
        low, high = self.range or [0.0, 0.0]
        is_8_bit = self.are_pixels and [low, high] == [0, self.WHITE]
        are_floats = array.dtype.kind == "f"
        if array.dtype == object:
            are_floats = any(isinstance(value, float) for value in array.flat)
        is_scaled = numbers.min() >= 0 and 0 < numbers.max() <= 1
        if is_8_bit and are_floats and is_scaled:
            raise ModelError(
                f"Expected {self._values} as {self._pixels}, received numbers from 0 to 1: "
                f"send them as they were before a division by {self.WHITE}."
            )

    def _check_whole(self, numbers: NDArray[np.float64]) -> None:
        is_wrong = (numbers != np.round(numbers)) | (numbers < 0) | (numbers > self.WHITE)
        if is_wrong.any():
            received = numbers[is_wrong][0]
            raise ModelError(f"Expected {self._values} as {self._pixels}, received {received:.6g}.")

    def _check_range(self, numbers: NDArray[np.float64]) -> None:
        """Raise ModelError for a value that lies far from the training data.

        Far is more than the width of the range beyond it. Pixels lie within it, but for rounding.
        """
        if self.range is None:
            return
        low, high = self.range
        margin = high - low
        expected = f"{self._values} like those of the training data, from {low:.6g} to {high:.6g}"
        if self.are_pixels:
            margin *= 1e-3
            expected = f"{self._values} from {low:.6g} to {high:.6g}"
        is_far = (numbers < low - margin) | (numbers > high + margin)
        if is_far.any():
            received = numbers[is_far][0]
            raise ModelError(
                f"Expected {expected}, received {received:.6g}: scale them as the training data."
            )


def _is_number(kind: type) -> bool:
    is_real = issubclass(kind, (int, float, np.integer, np.floating))
    return is_real and not issubclass(kind, bool)


@dataclass(frozen=True)
class Params:
    """The parameters of a request.

    Attributes:
        method: "mc" or "plain".
        n_samples: Number of passes.
        seed: Root of all draws.
        return_samples: Whether the probabilities of each pass are returned.
        shared_masks: Whether all inputs of a pass share one mask.
        MOST_SAMPLES: The largest number of passes of an input.
        MOST_PASSES: The largest number of inputs times passes in a request.
        MOST_NUMBERS: The largest number of probabilities that `return_samples` returns.
    """

    MOST_SAMPLES: ClassVar[int] = 10_000
    MOST_PASSES: ClassVar[int] = 1_000_000
    MOST_NUMBERS: ClassVar[int] = 1_000_000

    method: str
    n_samples: int
    seed: int
    return_samples: bool
    shared_masks: bool

    @staticmethod
    def schema(settings: McDropout, method: str) -> ParamSchema:
        """Return the parameters with their types and defaults, for the signature of a model."""
        return ParamSchema(
            [
                ParamSpec("method", "string", method),
                ParamSpec("n_samples", "long", settings.n_samples),
                ParamSpec("seed", "long", settings.seed),
                ParamSpec("return_samples", "boolean", False),
                ParamSpec("shared_masks", "boolean", settings.shared_masks),
            ]
        )

    @classmethod
    def of(
        cls,
        given: Mapping[str, Any],
        settings: McDropout,
        methods: tuple[str, ...],
    ) -> Params:
        """Return the parameters of a request, or raise ModelError.

        Args:
            given: Parameters by name. Those that are missing have the default of the model.
            settings: Settings of MC Dropout, which hold the defaults.
            methods: The methods of the model; the first one is the default.
        """
        unknown = sorted(set(given) - set(_names()))
        if unknown:
            raise ModelError(_unknown(unknown[0]))
        method = given.get("method", methods[0])
        if method == "mc" and "mc" not in methods:
            raise ModelError(
                "Expected method to be plain: this model has no dropout that can be sampled."
            )
        if not isinstance(method, str) or method not in methods:
            hint = did_you_mean(str(method)[:20], methods)
            raise ModelError(f"There is no method {shortened(method)}.{hint}")
        most = cls.MOST_SAMPLES
        n_samples = _whole("n_samples", given.get("n_samples", settings.n_samples), 1, most)
        seed = _whole("seed", given.get("seed", settings.seed), 0, 2**31 - 1)
        return_samples = _flag("return_samples", given.get("return_samples", False))
        shared_masks = _flag("shared_masks", given.get("shared_masks", settings.shared_masks))
        if return_samples and method != "mc":
            raise ModelError("Expected return_samples with method mc: a plain answer has none.")
        return cls(method, n_samples, seed, return_samples, shared_masks)

    def check_size(self, n_inputs: int, n_classes: int) -> None:
        """Raise ModelError if the request asks for more than one request may.

        Args:
            n_inputs: Number of inputs, N.
            n_classes: Number of classes, C.
        """
        n_samples = 1
        if self.method == "mc":
            n_samples = self.n_samples
        n_passes = n_inputs * n_samples
        received = f"received {n_inputs:,} times {n_samples:,}"
        if n_passes > self.MOST_PASSES:
            raise ModelError(
                f"Expected at most {self.MOST_PASSES:,} passes in a request, which is the number "
                f"of inputs times n_samples, {received}: send several requests."
            )
        if self.return_samples and n_passes * n_classes > self.MOST_NUMBERS:
            raise ModelError(
                f"Expected return_samples of at most {self.MOST_NUMBERS:,} numbers, inputs times "
                f"n_samples times classes, {received} times {n_classes:,}: send several requests."
            )


def _whole(name: str, value: object, low: int, high: int) -> int:
    """Return a whole number within bounds, or raise ModelError."""
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or not low <= int(value) <= high:  # type: ignore[call-overload]
        raise ModelError(
            f"Expected {name} to be a whole number from {low} to {high:,}, received "
            f"{shortened(value)}."
        )
    return int(value)  # type: ignore[call-overload,no-any-return]


def _flag(name: str, value: object) -> bool:
    """Return a boolean, or raise ModelError."""
    if not isinstance(value, (bool, np.bool_)):
        raise ModelError(f"Expected {name} to be true or false, received {shortened(value)}.")
    return bool(value)


def _names() -> list[str]:
    """Return the names of all parameters."""
    return [part.name for part in fields(Params)]


def _unknown(name: str) -> str:
    hint = did_you_mean(name[:20], _names())
    return f"There is no param {shortened(name)}.{hint}"


class _UnknownParams(logging.Filter):
    """Turns MLflow's warning that it drops a parameter into an error.

    MLflow drops the parameters that a signature does not have before the model sees them, and tells
    only the log of the server, so a mistyped parameter would be answered with the default.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Raise RequestError for the warning on a model with the parameters of this one."""
        told = re.match(r"Unrecognized params \['?(.*?)'?[],].*are: {(.*?)}", record.getMessage())
        if told is None:
            return True
        known = set(re.findall(r"'(\w+)'", told[2]))
        if known == set(_names()):
            raise RequestError(_unknown(told[1]))
        return True


_UNKNOWN_PARAMS = _UnknownParams()


def refuse_unknown_params() -> None:
    """Let requests to models with these parameters fail where they have an unknown one."""
    logging.getLogger("mlflow.models.utils").addFilter(_UNKNOWN_PARAMS)
