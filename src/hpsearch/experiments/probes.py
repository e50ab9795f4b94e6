"""Probes: further measurements of a trained model, for the experiments that ask for them.

A probe is called with the workbench and the trained model, and returns numbers by name. The files
in conf/ablation name the probes of an ablation.
"""

from __future__ import annotations

import lzma
import statistics
import tempfile
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from hpsearch import metrics
from hpsearch.data.split import Examples
from hpsearch.errors import ModelError
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.experiments.arms import Trained, Workbench
from hpsearch.experiments.learning_rate_test import RangeTest
from hpsearch.mc_dropout.passes import Sampler
from hpsearch.mc_dropout.plain import PlainModel
from hpsearch.mc_dropout.prediction import McDropout


@dataclass(frozen=True)
class Latency:
    """Measures the milliseconds for each image, of a plain prediction and of MC Dropout.

    Attributes:
        n_images: The number of images in one measurement.
        n_samples: The numbers S of passes of MC Dropout that are measured.
        n_repeats: The number of measurements; their median is the result.
        uncertainty: The settings of MC Dropout.
    """

    n_images: int
    n_samples: Sequence[int]
    n_repeats: int
    uncertainty: McDropout

    def __call__(self, bench: Workbench, trained: Trained) -> dict[str, float]:
        """Return the latencies; a model without active dropout has none of MC Dropout."""
        images = bench.data.val.inputs[: self.n_images]
        # `predict` costs more than a small net does.
        settings = replace(self.uncertainty, batch_size=len(images))
        plain = PlainModel(trained.model, settings)
        per_image = 1000 / len(images)
        predict = partial(plain.predict, images)
        found = {"latency/plain_ms": self._median_s(predict) * per_image}
        try:
            sampler = Sampler(trained.model, settings, images.shape[1:], str(images.dtype))
        except ModelError:
            return found
        for n in self.n_samples:
            sample = partial(sampler.predict, images, n_samples=n)
            found[f"latency/mc_{n}_ms"] = self._median_s(sample) * per_image
        return found

    def _median_s(self, call: Callable[[], object]) -> float:
        """Return the median seconds of a call, after a first call that may compile."""
        times = timeit.repeat(call, repeat=self.n_repeats + 1, number=1)
        return statistics.median(times[1:])


@dataclass(frozen=True)
class OnTest:
    """Measures the size of the model and its quality on the test set.

    The quality is that of plain predictions and, where the model has dropout, of MC Dropout.

    Attributes:
        test: Examples that no search has seen.
        uncertainty: The settings of MC Dropout.
    """

    test: Examples
    uncertainty: McDropout

    def __call__(self, bench: Workbench, trained: Trained) -> dict[str, float]:
        """Return the measures of size and quality."""
        found = size(bench, trained)
        val = bench.data.val
        evaluated = EvaluatedModel(trained.model, self.uncertainty, val, self.test)
        found.update(evaluated.evaluate().metrics())
        return found


def size(bench: Workbench, trained: Trained) -> dict[str, float]:
    """Return the number of parameters and the sizes of a trained model, in units of 10**6 bytes.

    The file is that of the model without the optimizer's state. The compressed weights are those
    after xz; weights that are zero cost almost nothing there.
    """
    model = trained.model
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path, include_optimizer=False)
        n_bytes = path.stat().st_size
    weights = [array.tobytes() for array in model.get_weights()]
    compressed = lzma.compress(b"".join(weights))
    return {
        "parameters": float(model.count_params()),
        "file_mb": n_bytes / 1e6,
        "compressed_mb": len(compressed) / 1e6,
    }


def on_validation(bench: Workbench, trained: Trained) -> dict[str, float]:
    """Return accuracy and NLL on the validation set of the model that is kept.

    That model is pruned, and its NLL is without the penalties that its loss had.
    """
    val = bench.data.val
    probs = trained.model.predict(val.inputs, verbose=0)
    return {
        "kept/val/accuracy": metrics.accuracy(probs, val.targets),
        "kept/val/nll": metrics.nll(probs, val.targets),
    }


@dataclass(frozen=True)
class StableRate:
    """Measures the largest stable learning rate of an arm by the learning rate test.

    The test starts from the seed of the training.

    Attributes:
        range_test: The settings of the test.
    """

    range_test: RangeTest

    def __call__(self, bench: Workbench, trained: Trained) -> dict[str, float]:
        """Return the rate; an arm whose loss explodes at once has none."""
        arm = trained.arm
        try:
            trainer = bench.trainer(arm)
            hypermodel, _ = bench.drawn(arm)
            values = arm.hyperparameters
            curve = self.range_test.curve(trainer, hypermodel, values, trained.seed)
        except ModelError:
            return {}
        return {"stable_learning_rate": curve.largest_stable}
