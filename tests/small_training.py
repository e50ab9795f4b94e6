"""A small data set, a small net and settings with which tests train."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np

from hpsearch.data.split import Examples, SearchData
from hpsearch.training.checkpoints import CheckpointFile, Checkpoints
from hpsearch.training.epochs import Fitted
from hpsearch.training.settings import Training
from hpsearch.training.trainer import Trainer

SETTINGS: dict[str, Any] = {
    "epochs": 5,
    "batch_size": 16,
    "patience_epochs": 5,
    "monitor": "val/loss",
    "averaging_epochs": 1.0,
    "steps_per_call": 4,
    "precision": "float32",
    "jit_compile": None,
}


def examples(n: int, seed: int) -> Examples:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n).astype(np.int32)
    images = rng.random((n, 4, 4, 1)).astype(np.float32) + labels[:, None, None, None] / 3
    return Examples(images.astype(np.float32), labels)


def search_data() -> SearchData:
    return SearchData("made", examples(96, 0), examples(48, 1), ("a", "b", "c"), "made up")


class Net(keras_tuner.HyperModel):
    """A small net that has all that a checkpoint must hold."""

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        layers = keras.layers
        model = keras.Sequential(
            [
                keras.Input((4, 4, 1)),
                layers.Flatten(),
                layers.Dense(
                    8, use_bias=False
                ),  # before BatchNormalization its gradient is noise, which Nadam blows up
                layers.BatchNormalization(),
                layers.Activation("elu"),
                layers.Dropout(hp.Float("dropout_rate", 0, 0.9, default=0.3)),
                layers.Dense(8, "elu"),
                layers.GaussianDropout(0.1),
                layers.Dense(3, "softmax"),
            ]
        )
        rate = hp.Float("learning_rate", 1e-4, 3e38, default=0.01)
        model.compile(
            keras.optimizers.Nadam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        return model


@functools.cache
def trainer(**changed: Any) -> Trainer:
    """Return a trainer, whose program all tests with these settings share: compiling is what takes
    the time here.
    """
    return Trainer(Training(**SETTINGS | changed), search_data())


class StoppedError(Exception):
    """Stands for whatever ends a trial."""


def fit(
    trainer: Trainer,
    file: CheckpointFile | None = None,
    stop_after: int = 0,
    seed: int = 7,
    **values: float,
) -> tuple[keras.Model, Fitted, list[Mapping[str, float]]]:
    """Fit as a trial does; return the model, the fit, and what was told of each epoch."""
    told: list[Mapping[str, float]] = []
    lasts: list[bool] = []

    def listen(epoch: int, metrics: Mapping[str, float], is_last: bool) -> None:
        told.append(metrics)
        lasts.append(is_last)
        if epoch == stop_after:
            raise StoppedError

    keras.utils.set_random_seed(seed)
    hp = keras_tuner.HyperParameters()
    hp.values.update(values)
    model = Net().build(hp)
    try:
        fitted = trainer.fit(Net(), hp, model, seed, listen, checkpoint_file=file)
    except StoppedError:
        return model, Fitted(), told
    assert lasts == [False] * (fitted.n_epochs - 1) + [True]
    return model, fitted, told


def timeless(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [
        {key: value for key, value in metrics.items() if not key.startswith("time/")}
        for metrics in history
    ]


def file_in(folder: Path, every_s: float = 1e9) -> CheckpointFile:
    return Checkpoints(str(folder), every_s).of("made-net", 7)


class OwnFit(Net):
    """A HyperModel that fits in its own way, with a hyperparameter of its own."""

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        size = hp.Int("batch_size", 8, 32, default=24)
        self.seen = {"batch_size": size, **{key: kwargs[key] for key in ("epochs", "verbose")}}
        return model.fit(*args, batch_size=size, **kwargs)
