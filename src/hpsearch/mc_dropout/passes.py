"""Monte Carlo Dropout: many stochastic passes of one trained model (Gal & Ghahramani, 2016).

A `Sampler` runs a model S times with dropout switched on and returns sums over the passes. The
loop over the passes is compiled, and its memory is bounded, however large S is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike, NDArray

from hpsearch.errors import HpsearchError, ModelError
from hpsearch.mc_dropout.conversion import Split
from hpsearch.mc_dropout.prediction import McDropout, McPrediction
from hpsearch.metrics import Floats
from hpsearch.models.dropout_masks import Tensor, row_keys
from hpsearch.models.outputs import check_outputs, distributions, n_classes_of, rounding_of
from hpsearch.models.own_error import described
from hpsearch.seeds import derive


class _Plan(NamedTuple):
    """Values that all batches of one prediction share.

    They are tensors, so that other values need no other compilation.
    """

    n_samples: Tensor
    group_size: Tensor
    seeds: Tensor
    rates: Tensor


class _Sums(NamedTuple):
    """Sums over the passes for a batch of B rows."""

    mean: Tensor  # (B, C)
    squares: Tensor  # (B, C), squared deviations from the mean
    entropy: Tensor  # (B,)
    votes: Tensor  # (B, C)
    grouped: Tensor  # (B, N_GROUPS), probabilities of the label

    def prediction(self, n_samples: int) -> McPrediction:
        """Return the prediction that these sums of `n_samples` passes give."""
        group_size = _group_size(n_samples)
        n_groups = math.ceil(n_samples / group_size)
        sizes = np.full(n_groups, group_size)
        in_full_groups = group_size * (n_groups - 1)
        sizes[-1] = n_samples - in_full_groups
        totals = self.mean.sum(axis=1, keepdims=True)
        squares = np.maximum(self.squares, 0.0)
        label_probs = self.grouped[:, :n_groups] / sizes
        return McPrediction(
            probs=self.mean / totals,
            expected_entropy=self.entropy / n_samples,
            variance=squares / n_samples,
            votes=self.votes / n_samples,
            label_probs=label_probs.T,
            group_size=group_size,
            n_samples=n_samples,
        )


class Sampler:
    """Draw stochastic passes of one model.

    The sampler compiles the passes on its first call, and again for each new batch size.

    Args:
        model: A built model. The sampler shares its layers and weights and never changes them.
        settings: The number of passes, and how to draw them.
        shape: The shape of an input; None takes it from the model.
        dtype: The type of the inputs, where the model does not say it.
        split: The converted model, where another sampler of the model has made it.

    Attributes:
        split: The converted model.
        N_GROUPS: The largest number of groups of passes in a prediction, whatever S is.

    Raises:
        ModelError: The model cannot be converted, or it has no active dropout.
    """

    N_GROUPS: ClassVar[int] = 128

    def __init__(
        self,
        model: keras.Model,
        settings: McDropout,
        shape: Sequence[int] | None = None,
        dtype: str = "float32",
        *,
        split: Split | None = None,
    ) -> None:
        self.model = model
        self.settings = settings
        self.split = split or Split.of(model, shape, dtype)
        self.n_classes = n_classes_of(self.split.structure.output_shape)
        self._prefix = compiled(self._features)
        self._passes = compiled(self._sum_passes)
        self._one = compiled(self._pass)

    def predict(
        self,
        images: np.ndarray,
        labels: ArrayLike | None = None,
        *,
        n_samples: int | None = None,
        seed: int | None = None,
        rates: Sequence[float] | None = None,
    ) -> McPrediction:
        """Run the passes and return their sums.

        The draws of a row depend on the seed, the pass, the layer and the row alone. Batches of
        any size therefore give the same numbers.

        Args:
            images: Model input, (N, ...).
            labels: Class of each image, (N,), for `label_probs`. Without labels, `label_probs`
                holds the probabilities of class 0.
            n_samples: S; by default that of the settings.
            seed: Root of all draws; by default that of the settings.
            rates: Rates of all L calls of dropout layers, for this call alone. They need no other
                compilation. A layer whose rate was 0 in the conversion stays off.

        Raises:
            ModelError: The outputs are not class probabilities, or one image exceeds the memory
                limit.
        """
        if not n_samples:
            n_samples = self.settings.n_samples
        if seed is None:
            seed = self.settings.seed
        if labels is None:
            labels = np.zeros(len(images))
        labels = np.asarray(labels, np.int32)
        if rates is None:
            rates = self.split.rates
        plan = self._plan(n_samples, seed, rates)
        sums = self._sums(images, labels, plan)
        rounding = rounding_of(self.model)
        check_outputs(sums.mean, from_logits=False, rounding=rounding)
        return sums.prediction(n_samples)

    def samples(
        self,
        images: np.ndarray,
        *,
        n_samples: int,
        seed: int,
    ) -> Floats:
        """Return the distributions of each single pass, (S, N, C).

        These are the values that `predict` sums. Their size grows with S.

        Args:
            images: Model input, (N, ...).
            n_samples: S.
            seed: Root of all draws, as for `predict`.
        """
        plan = self._plan(n_samples, seed, self.split.rates)
        n_images = len(images)
        samples = np.empty((n_samples, n_images, self.n_classes))
        for features, rows in self._batches(images):
            row_numbers = _int32(rows)
            n_left = n_images - rows[0]
            real_rows = rows[:n_left]
            for i in range(n_samples):
                number = _int32(i)
                probs = self._one(number, features, row_numbers, plan)
                array = ops.convert_to_numpy(probs)
                samples[i, real_rows] = array[:n_left]
        return samples

    def rows_per_call(self, n_rows: int) -> int:
        """Return how many of `n_rows` rows a compiled call takes under the memory limit.

        Raises:
            ModelError: One row alone exceeds the limit.
        """
        n_values = 4 * self.n_classes + self.N_GROUPS
        n_values += self.split.structure.n_values
        n_bytes = 4 * n_values  # of float32
        available = self.settings.memory_mb * 2**20
        limit = int(available // n_bytes)
        if not limit:
            raise ModelError(
                f"One image needs {n_bytes / 2**20:.1f} MB in a pass of this model, more than "
                f"uncertainty.memory_mb={self.settings.memory_mb}: increase the limit."
            )
        return min(n_rows, limit, self.settings.batch_size)

    def _seed_words(self, seed: int) -> list[int]:
        """Return the two integers from which all draws of a seed are derived."""
        first = derive(seed, "mc_dropout", 0)
        second = derive(seed, "mc_dropout", 1)
        return [first, second]

    def _plan(
        self,
        n_samples: int,
        seed: int,
        rates: Sequence[float],
    ) -> _Plan:
        return _Plan(
            n_samples=_int32(n_samples),
            group_size=_int32(_group_size(n_samples)),
            seeds=_int32(self._seed_words(seed)),
            rates=ops.convert_to_tensor(rates, "float32"),
        )

    def _sums(
        self,
        images: np.ndarray,
        labels: NDArray[np.int32],
        plan: _Plan,
    ) -> _Sums:
        """Return the sums of all N rows as float64 arrays."""
        last_row = len(images) - 1
        parts = []
        for features, rows in self._batches(images):
            row_numbers = _int32(rows)
            real_rows = np.minimum(rows, last_row)
            batch_labels = _int32(labels[real_rows])
            sums = self._passes(features, row_numbers, batch_labels, plan)
            part = [ops.convert_to_numpy(value) for value in sums]
            parts.append(part)
        whole = []
        for column in zip(*parts, strict=True):
            array = np.concatenate(column)
            real = array[: len(images)]
            whole.append(real.astype(np.float64))
        return _Sums(*whole)

    def _batches(self, images: np.ndarray) -> Iterator[tuple[list[Tensor], NDArray[np.int64]]]:
        """Yield the features and the row numbers of each batch, as `batches` numbers them."""
        size = self.rows_per_call(len(images))
        for batch, rows in batches(images, size):
            yield self._prefix(ops.convert_to_tensor(batch)), rows

    def _features(self, images: Tensor) -> list[Tensor]:
        """Return the outputs of the deterministic first part of the model."""
        return self.split.features(images)

    def _pass(
        self,
        i: Tensor,
        features: list[Tensor],
        rows: Tensor,
        plan: _Plan,
    ) -> Tensor:
        """Return the distributions of pass i, (B, C)."""
        no_row = ops.zeros((1,), "int32") - 1
        shared_key = row_keys(plan.seeds, i, no_row)
        keys = shared_key
        if not self.settings.shared_masks:
            keys = row_keys(plan.seeds, i, rows)
        outputs = self.split.outputs(features, keys, shared_key, plan.rates)
        return distributions(outputs, from_logits=bool(self.settings.from_logits))

    def _sum_passes(
        self,
        features: list[Tensor],
        rows: Tensor,
        labels: Tensor,
        plan: _Plan,
    ) -> _Sums:
        """Run all passes of a batch and return their sums.

        This is traced once for each batch size; the passes are a loop in the compiled program.
        """
        n_rows = rows.shape[0]
        n_classes = self.n_classes
        chosen = ops.one_hot(labels, n_classes, dtype="float32")
        groups = ops.arange(self.N_GROUPS, dtype="int32")
        groups = groups[None, :]

        def one_pass(i: Tensor, sums: _Sums) -> _Sums:
            probs = self._pass(i, features, rows, plan)
            # Welford (1962): exact where a difference of sums of squares would cancel.
            step = probs - sums.mean
            n_passes = ops.cast(i + 1, "float32")
            mean = sums.mean + step / n_passes
            of_label = ops.sum(probs * chosen, axis=1, keepdims=True)
            squares = sums.squares + step * (probs - mean)
            positive = ops.maximum(probs, 1e-30)
            logs = ops.log(positive)
            plogp = ops.sum(probs * logs, axis=1)
            predicted = ops.argmax(probs, axis=1)
            vote = ops.one_hot(predicted, n_classes, dtype="float32")
            group = i // plan.group_size
            in_group = ops.cast(groups == group, "float32")
            return _Sums(
                mean=mean,
                squares=squares,
                entropy=sums.entropy - plogp,
                votes=sums.votes + vote,
                grouped=sums.grouped + of_label * in_group,
            )

        zeros = ops.zeros((n_rows, n_classes), "float32")
        start = _Sums(
            mean=zeros,
            squares=zeros,
            entropy=zeros[:, 0],
            votes=zeros,
            grouped=ops.zeros((n_rows, self.N_GROUPS), "float32"),
        )
        sums: _Sums = ops.fori_loop(0, plan.n_samples, one_pass, start)
        return sums


def batches(
    inputs: np.ndarray,
    size: int,
) -> Iterator[tuple[np.ndarray, NDArray[np.int64]]]:
    """Yield inputs in batches of `size` rows, and the numbers of the rows.

    The last batch repeats the last row, so that all batches have one shape. Its row numbers go
    beyond N - 1 there.

    Args:
        inputs: Model input, (N, ...).
        size: The number of rows of each batch.
    """
    last_row = len(inputs) - 1
    for start in range(0, len(inputs), size):
        rows = np.arange(start, start + size)
        yield inputs[np.minimum(rows, last_row)], rows


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function compiled with XLA where the backend of Keras can do so.

    TensorFlow runs operations that XLA does not know, such as Python functions, without XLA.
    The function raises ModelError where a model cannot be compiled or run.
    """
    made = _compiled(function)

    @functools.wraps(made, assigned=(), updated=())
    def told(*args: Any) -> Any:
        try:
            return made(*args)
        except HpsearchError:
            raise
        except Exception as error:  # a person's layer may raise anything
            raise ModelError(
                f"Expected a model that can be compiled and run, received {described(error)}."
            ) from error

    return told


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    if keras.backend.backend() == "tensorflow":
        return _InTensorFlow(function)
    if keras.backend.backend() == "jax":
        import jax  # noqa: PLC0415  # other backends work without it

        return jax.jit(function)  # type: ignore[no-any-return]
    return function


class _InTensorFlow:
    """A function compiled by TensorFlow, with XLA if its first call shows that it can be.

    Attributes:
        chosen: The compiled function, once the first call has been made.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.chosen: Callable[..., Any] | None = None

    def __call__(self, *args: Any) -> Any:
        """Return what the function returns."""
        if self.chosen is not None:
            return self.chosen(*args)
        import tensorflow as tf  # noqa: PLC0415  # other backends work without it

        with_xla = tf.function(self._function, jit_compile=True, autograph=False)
        unknown_to_xla = (
            tf.errors.InvalidArgumentError,
            tf.errors.NotFoundError,
            tf.errors.UnimplementedError,
        )
        try:
            outputs = with_xla(*args)
            self.chosen = with_xla
        except unknown_to_xla:
            without_xla = tf.function(self._function, autograph=False)
            outputs = without_xla(*args)
            self.chosen = without_xla
        return outputs


def _group_size(n_samples: int) -> int:
    """Return how many passes make a group: n_samples / N_GROUPS, rounded up."""
    return math.ceil(n_samples / Sampler.N_GROUPS)


def _int32(values: ArrayLike) -> Tensor:
    array = np.asarray(values, np.int32)
    return ops.convert_to_tensor(array)
