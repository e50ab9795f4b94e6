"""Many stochastic passes of one trained model, fast and in bounded memory (Gal & Ghahramani, 2016)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from hpsearch.errors import ModelError
from hpsearch.mc_dropout.conversion import Split, split
from hpsearch.mc_dropout.prediction import McDropout, McPrediction
from hpsearch.metrics import SUM_TOLERANCE, Floats
from hpsearch.models.dropout_masks import row_keys
from hpsearch.seeds import derive

N_GROUPS = 128  # passes are told apart in at most this many groups, whatever S is


class _Plan(NamedTuple):
    """What all batches of one prediction share, as tensors: new values need no compilation."""

    n_samples: Any
    group_size: Any
    seeds: Any
    rates: Any


class _Sums(NamedTuple):
    """What a batch of B rows carries from pass to pass."""

    mean: Any  # (B, C)
    squares: Any  # (B, C), squared deviations from the mean
    entropy: Any  # (B,)
    votes: Any  # (B, C)
    grouped: Any  # (B, N_GROUPS), probabilities of the label


class Sampler:
    """Draws stochastic passes of one model; compiles on the first call, and again for each new
    batch size.

    Args:
        model: A built Sequential or Functional model; its layers and weights are shared, never
            changed.
        settings: How many passes, and how.
        rates: A test-time rate for each call of a dropout layer, in order; its own rate by default.

    Raises:
        ModelError: The model cannot be converted, or has no active dropout.
    """

    def __init__(
        self, model: keras.Model, settings: McDropout, rates: Sequence[float] | None = None
    ) -> None:
        self.split: Split = split(model, rates)
        self.settings = settings
        self.n_classes = _n_classes(model)
        self._prefix = compiled(
            lambda images: keras.tree.flatten(self.split.prefix(images, training=False))
        )
        self._passes = compiled(self._sum_passes)
        self._one = compiled(self._pass)

    def predict(
        self,
        images: NDArray[Any],
        labels: NDArray[Any] | None = None,
        *,
        n_samples: int | None = None,
        seed: int | None = None,
        rates: Sequence[float] | None = None,
    ) -> McPrediction:
        """Run the passes and return their sums.

        The draws of a row depend on (seed, pass, layer, row) alone: batches of any size give the
        same numbers.

        Args:
            images: Model input, (N, ...).
            labels: Class of each image, (N,); fills `label_probs`, which is class 0's probability
                without.
            n_samples: S, instead of the setting.
            seed: Instead of the setting.
            rates: Rates of all L dropout calls for this call alone: no compilation. A layer that
                was off stays off.
        """
        n_samples = n_samples or self.settings.n_samples
        group_size = -(-n_samples // N_GROUPS)
        truth = np.zeros(len(images), np.int32) if labels is None else np.asarray(labels, np.int32)
        plan = self._plan(n_samples, self.settings.seed if seed is None else seed, rates)
        parts = []
        for features, rows in self._batches(images):
            sums = self._passes(
                features, _int32(rows), _int32(truth[np.minimum(rows, len(images) - 1)]), plan
            )
            parts.append([ops.convert_to_numpy(part)[: len(images) - rows[0]] for part in sums])
        sums = _Sums(
            *(np.concatenate(part).astype(np.float64) for part in zip(*parts, strict=True))
        )
        check_distributions(sums.mean, self.settings.from_logits)
        n_groups = -(-n_samples // group_size)
        sizes = np.full(n_groups, group_size)
        sizes[-1] = n_samples - group_size * (n_groups - 1)
        return McPrediction(
            probs=sums.mean / sums.mean.sum(axis=1, keepdims=True),
            expected_entropy=sums.entropy / n_samples,
            variance=np.maximum(sums.squares, 0.0) / n_samples,
            votes=sums.votes / n_samples,
            label_probs=(sums.grouped[:, :n_groups] / sizes).T,
            group_size=group_size,
            n_samples=n_samples,
        )

    def samples(self, images: NDArray[Any], *, n_samples: int, seed: int) -> Floats:
        """Return each pass's own distributions, (S, N, C): what `predict` sums, at the price of
        memory.

        Args:
            images: Model input, (N, ...).
            n_samples: S.
            seed: As for `predict`.
        """
        plan = self._plan(n_samples, seed, None)
        parts = []
        for features, rows in self._batches(images):
            passes = [
                ops.convert_to_numpy(self._one(_int32(i), features, _int32(rows), plan))
                for i in range(n_samples)
            ]
            parts.append(np.stack(passes)[:, : len(images) - rows[0]])
        return np.concatenate(parts, axis=1).astype(np.float64)

    def _plan(self, n_samples: int, seed: int, rates: Sequence[float] | None) -> _Plan:
        return _Plan(
            n_samples=_int32(n_samples),
            group_size=_int32(-(-n_samples // N_GROUPS)),
            seeds=_int32(self.seed_words(seed)),
            rates=ops.convert_to_tensor(
                np.asarray(self.split.rates if rates is None else rates, np.float32)
            ),
        )

    def _batches(self, images: NDArray[Any]) -> Iterator[tuple[list[Any], NDArray[np.int64]]]:
        """Yield features and numbers of rows; the last batch repeats its last row to keep its
        shape.
        """
        size = self.rows_per_call(len(images))
        for start in range(0, len(images), size):
            rows = np.arange(start, start + size)
            yield (
                self._prefix(ops.convert_to_tensor(images[np.minimum(rows, len(images) - 1)])),
                rows,
            )

    def rows_per_call(self, n_rows: int) -> int:
        """Return how many rows go into a compiled call under the memory limit.

        Raises:
            ModelError: Not even one row fits.
        """
        values = (
            _values_per_row(self.split.prefix)
            + _values_per_row(self.split.suffix)
            + 4 * self.n_classes
            + N_GROUPS
        )
        limit = int(self.settings.memory_mb * 2**20 // (4 * values))
        if not limit:
            raise ModelError(
                f"One image needs {4 * values / 2**20:.1f} MB in a pass of this model, more than "
                f"memory_mb={self.settings.memory_mb}: allow more."
            )
        return min(n_rows, limit, self.settings.batch_size)

    def seed_words(self, seed: int) -> list[int]:
        """Return the two words from which all draws of a seed grow."""
        return [derive(seed, "mc_dropout", word) for word in range(2)]

    def _pass(self, i: Any, features: list[Any], rows: Any, plan: _Plan) -> Any:
        """Return the distributions of pass i, (B, C)."""
        key_rows = rows if self.settings.mask == "example" else ops.zeros((1,), "int32") - 1
        keys = row_keys(plan.seeds, i, key_rows)
        probs = ops.cast(
            self.split.suffix([*features, keys, plan.rates], training=False), "float32"
        )
        return ops.softmax(probs) if self.settings.from_logits else probs

    def _sum_passes(self, features: list[Any], rows: Any, labels: Any, plan: _Plan) -> _Sums:
        """Traced once for a batch size: loop over passes, keep sums alone."""
        n_rows, n_classes = rows.shape[0], self.n_classes
        chosen = ops.one_hot(labels, n_classes, dtype="float32")
        groups = ops.arange(N_GROUPS, dtype="int32")[None, :]

        def one_pass(i: Any, sums: _Sums) -> _Sums:
            probs = self._pass(i, features, rows, plan)
            step = probs - sums.mean  # Welford (1962): exact where sums of squares cancel
            mean = sums.mean + step / ops.cast(i + 1, "float32")
            of_label = ops.sum(probs * chosen, axis=1, keepdims=True)
            return _Sums(
                mean=mean,
                squares=sums.squares + step * (probs - mean),
                entropy=sums.entropy - ops.sum(probs * ops.log(ops.maximum(probs, 1e-30)), axis=1),
                votes=sums.votes
                + ops.one_hot(ops.argmax(probs, axis=1), n_classes, dtype="float32"),
                grouped=sums.grouped
                + of_label * ops.cast(groups == i // plan.group_size, "float32"),
            )

        zeros = ops.zeros((n_rows, n_classes), "float32")
        start = _Sums(zeros, zeros, zeros[:, 0], zeros, ops.zeros((n_rows, N_GROUPS), "float32"))
        sums: _Sums = ops.fori_loop(0, plan.n_samples, one_pass, start)
        return sums


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function compiled with XLA where the backend can; the only lines that know a
    backend.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # noqa: PLC0415  # other backends work without it

        return tf.function(function, jit_compile=True, autograph=False)  # type: ignore[no-any-return]
    if keras.backend.backend() == "jax":
        import jax  # noqa: PLC0415

        return jax.jit(function)  # type: ignore[no-any-return]
    return function


def _int32(values: Any) -> Any:
    return ops.convert_to_tensor(np.asarray(values, np.int32))


def _values_per_row(model: keras.Model) -> int:
    """Return how many numbers one row has over all tensors of a model: an upper bound, for they are
    never all alive.
    """
    shapes = [
        output.shape[1:] for layer in model.layers for output in keras.tree.flatten(layer.output)
    ]
    return int(sum(np.prod([size or 1 for size in shape]) for shape in shapes))


def _n_classes(model: keras.Model) -> int:
    shape = model.outputs[0].shape
    if len(shape) != 2 or (shape[1] or 0) < 2:
        raise ModelError(
            f"Expected a model that gives one probability a class, (N, C) with C of at least 2, "
            f"received {shape}."
        )
    return int(shape[1])


def check_distributions(probs: Floats, from_logits: bool) -> None:
    """Raise ModelError where answers (N, C) are no class probabilities, with what to do."""
    if not np.isfinite(probs).all():
        raise ModelError(
            "Expected class probabilities, received NaN or infinite ones: the model has diverged."
        )
    if (probs < 0).any() or (np.abs(probs.sum(axis=1) - 1) > SUM_TOLERANCE).any():
        raise ModelError(
            f"Expected class probabilities that sum to one, received values from {probs.min():.4g} "
            f"to "
            f"{probs.max():.4g} with from_logits={str(from_logits).lower()}: a model that gives "
            f"logits wants "
            "uncertainty.from_logits=true."
        )
