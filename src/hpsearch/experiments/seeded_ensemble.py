"""Train one arm from several fresh seeds and keep the models, for an ensemble of one recipe."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras

from hpsearch.data.split import SearchData
from hpsearch.experiments.arms import Arm, Trained, Workbench
from hpsearch.seeds import derive
from hpsearch.training.settings import use_precision


@dataclass(frozen=True)
class TrainedAnew:
    """What the trainings of an arm from fresh seeds have left.

    Attributes:
        models: The trained models, in the order of the seeds.
        diverged: The message of each training that diverged; its model is not kept.
        seconds: How long all trainings took.
    """

    models: Sequence[keras.Model]
    diverged: Sequence[str]
    seconds: float


def train_anew(data: SearchData, arm: Arm, root_seed: int, n_seeds: int) -> TrainedAnew:
    """Train an arm from fresh seeds. Equal arguments give equal models.

    Args:
        data: The data set.
        arm: The setting to train.
        root_seed: The seed from which those of the trainings are derived.
        n_seeds: The number of trainings.

    Raises:
        UserError: The models of the arm cannot be built or trained.
    """
    models = []

    def keep(bench: Workbench, trained: Trained) -> Mapping[str, float]:
        models.append(trained.model)
        return {}

    bench = Workbench(data, probes=(keep,))
    diverged = []
    before = keras.config.dtype_policy().name
    start = time.monotonic()
    use_precision(arm.training.precision)
    try:
        directed = bench.directed(arm)
        for place in range(n_seeds):
            measured = bench.train(directed, derive(root_seed, "ensemble", place), _not_listening)
            if measured.diverged:
                diverged.append(measured.diverged)
    finally:
        use_precision(before)
    return TrainedAnew(models, diverged, time.monotonic() - start)


def _not_listening(epoch: int, metrics: Mapping[str, float], is_last: bool) -> None:
    """Take an epoch's metrics, which nobody asks for."""
