"""Further measurements of a trained model, for the ablations that ask for them."""

from __future__ import annotations

import lzma
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np
from keras import ops

from hpsearch import metrics
from hpsearch.data.split import Examples
from hpsearch.errors import ModelError
from hpsearch.evaluation.evaluated_model import Subject, evaluate
from hpsearch.experiments.arms import Trained, Workbench
from hpsearch.experiments.learning_rate_test import RangeTest
from hpsearch.mc_dropout.passes import Sampler, compiled
from hpsearch.mc_dropout.prediction import McDropout


@dataclass(frozen=True)
class Latency:
    """Milliseconds an image, plain and with S passes of MC Dropout.

    Attributes:
        n_images: Images in one measurement.
        n_samples: Values of S.
        n_repeats: Measurements, of which the median counts.
        uncertainty: Settings of MC Dropout.
    """

    n_images: int
    n_samples: Sequence[int]
    n_repeats: int
    uncertainty: McDropout

    def __call__(self, bench: Workbench, trained: Trained) -> dict[str, float]:
        """Measure; a model without active dropout has no MC Dropout."""
        images = bench.data.val.images[: self.n_images]
        per_image = 1000 / len(images)
        model = compiled(
            lambda batch: trained.model(batch, training=False)
        )  # `predict` costs more than small nets do
        plain = median_s(
            lambda: ops.convert_to_numpy(model(ops.convert_to_tensor(images))), self.n_repeats
        )
        found = {"latency/plain_ms": plain * per_image}
        try:
            sampler = Sampler(trained.model, replace(self.uncertainty, batch_size=len(images)))
        except ModelError:
            return found
        for n in self.n_samples:
            mc = median_s(lambda n=n: sampler.predict(images, n_samples=n), self.n_repeats)  # type: ignore[misc]
            found[f"latency/mc_{n}_ms"] = mc * per_image
        return found


def median_s(call: Callable[[], object], n_repeats: int) -> float:
    """Return the median seconds of a call, after one that may compile."""
    call()
    times = []
    for _ in range(n_repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


@dataclass(frozen=True)
class OnTest:
    """The measures of the test set, plain and with MC Dropout where the model has dropout; size of
    the model.

    Attributes:
        test: Examples that no search has seen.
        uncertainty: Settings of MC Dropout.
    """

    test: Examples
    uncertainty: McDropout

    def __call__(self, bench: Workbench, trained: Trained) -> dict[str, float]:
        """Evaluate."""
        found = size(bench, trained)
        subject = Subject(trained.model, self.uncertainty, bench.data.val, self.test)
        try:
            return found | evaluate(subject).metrics()
        except ModelError:
            probs = subject.plain(self.test.images)
            return found | {
                f"test/plain/{k}": v for k, v in metrics.summary(probs, self.test.labels).items()
            }


def file_mb(model: keras.Model) -> float:
    """Return the size of the saved model, without the optimizer's state, in megabytes (10**6
    bytes).
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path, include_optimizer=False)
        return path.stat().st_size / 1e6


def compressed_mb(model: keras.Model) -> float:
    """Return the size of the saved weights alone after xz, in megabytes: zeros cost next to nothing
    there.
    """
    weights = b"".join(np.ascontiguousarray(w).tobytes() for w in model.get_weights())
    return len(lzma.compress(weights)) / 1e6


def size(bench: Workbench, trained: Trained) -> dict[str, float]:
    """Return parameters and sizes of a trained model."""
    model = trained.model
    return {
        "parameters": float(model.count_params()),
        "file_mb": file_mb(model),
        "compressed_mb": compressed_mb(model),
    }


def on_validation(bench: Workbench, trained: Trained) -> dict[str, float]:
    """Return accuracy and NLL of the model that is kept: pruned, and without the penalties that its
    loss had.
    """
    probs = trained.model.predict(bench.data.val.images, verbose=0)
    labels = bench.data.val.labels
    return {
        "kept/val/accuracy": metrics.accuracy(probs, labels),
        "kept/val/nll": metrics.nll(probs, labels),
    }


@dataclass(frozen=True)
class StableRate:
    """The largest stable learning rate of an arm, by the learning rate test from the same seed.

    Attributes:
        range_test: Its settings.
    """

    range_test: RangeTest

    def __call__(self, bench: Workbench, trained: Trained) -> dict[str, float]:
        """Test; an arm that explodes at once has no stable rate."""
        arm = trained.arm
        try:
            curve = self.range_test.curve(
                bench.trainer(arm), bench.hypermodel(arm), arm.hyperparameters, trained.seed
            )
        except ModelError:
            return {}
        return {"stable_learning_rate": curve.largest_stable}
