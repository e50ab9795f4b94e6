"""Trains the models that people write by hpsearch and by Keras's own fit, from the same weights and
in one order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import keras_tuner
import numpy as np

import people
from hpsearch.data.split import Examples, SearchData
from hpsearch.models.loss_and_optimizer import labels_for
from hpsearch.seeds import derive
from hpsearch.training.programs.order import Batches, Order
from hpsearch.training.settings import VAL_BATCH_SIZE, Training, use_precision
from hpsearch.training.trainer import Trainer

SETTINGS = {
    "epochs": 3, "batch_size": 32, "patience_epochs": 9, "monitor": "val/loss",
    "averaging_epochs": None, "steps_per_call": 0, "precision": "float32", "jit_compile": None,
    "direction": "minimize",
}  # fmt: skip
SEED, WEIGHTS = 7, 5
FLOAT32_ALONE = {
    "random_preprocessing"
}  # Keras's RandomRotation computes in no other type on TensorFlow


def examples(n: int, seed: int) -> Examples:
    """Return images whose class is the row that is brightest, which a small net can learn."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, people.N_CLASSES, n)
    images = rng.integers(0, 100, (n, *people.SHAPE))
    images[np.arange(n), labels % 8] += 80 + 40 * (labels[:, None, None] // 8)
    return Examples(images.astype(np.uint8), labels.astype(np.int32))


def searched() -> SearchData:
    """Return the data that all models here train on."""
    return SearchData(
        "rows", examples(300, 0), examples(100, 1), tuple("0123456789"), "fingerprint"
    )


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Build models in another precision while the block runs."""
    use_precision(name)
    try:
        yield
    finally:
        use_precision("float32")


def hyperparameters() -> keras_tuner.HyperParameters:
    return keras_tuner.HyperParameters()


def trained(
    build: people.Build, data: SearchData, **changed: Any
) -> tuple[list[dict[str, float]], keras.Model, str]:
    """Train a model as a search does; return its epochs, it, and the way that was taken."""
    trainer = Trainer(Training(**{**SETTINGS, **changed}), data)
    keras.utils.set_random_seed(WEIGHTS)
    model, said = build(), []
    fitted = trainer.fit(
        people.Given(build),
        hyperparameters(),
        model,
        SEED,
        lambda *_: None,
        told=said.append,
    )
    assert len(said) == 1
    return fitted.history, model, said[0]


def by_keras(
    build: people.Build, data: SearchData, jit: bool | None = None
) -> dict[str, list[float]]:
    """Train the same model by Keras's own fit, on the same batches; return its history."""
    keras.utils.set_random_seed(WEIGHTS)
    model = build()
    if jit is not None:
        model.jit_compile = jit
    form = labels_for(model)
    (x, y), (val_x, val_y) = (labelled(part, form) for part in (data.train, data.val))
    order = Order(len(x), SETTINGS["batch_size"], 0, lambda epoch: derive(SEED, "order", epoch))
    turn = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: setattr(order, "epoch", epoch)
    )
    found = model.fit(
        Batches(order, x, y), epochs=SETTINGS["epochs"], shuffle=False, verbose=0, callbacks=[turn],
        validation_data=(val_x, val_y), validation_batch_size=VAL_BATCH_SIZE,
    )  # fmt: skip
    return found.history


def labelled(part: Examples, form: str) -> tuple[np.ndarray, np.ndarray]:
    labels = (
        keras.utils.to_categorical(part.targets, people.N_CLASSES)
        if form == "onehot"
        else part.targets
    )
    return part.inputs, labels
