"""The nets and the images that trials and steps are timed with, and the arithmetic of one training
step.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import keras_tuner
import numpy as np

from hpsearch.data.split import SearchData
from parts import composed, like_cifar

SMALL_NETS = {
    "elu": ("arch.n_hidden=2", "arch.n_units=20"),
    "cnn": ("arch.filters=[4]", "arch.n_units=8"),
}
N_TRAIN, N_VAL = 45_000, 5_000  # of 50,000 images, as CIFAR-10 is split
N_TRAIN_SMALL, N_VAL_SMALL = 250, 64  # the last batch is smaller there too
EPOCHS = 3  # of a timed fit


def configuration(arch: str, batch_size: int, small: bool) -> Any:
    """Return the configuration of a search for `arch`."""
    tiny = SMALL_NETS[arch] if small else ()
    return composed(
        f"arch={arch}", f"training.batch_size={batch_size}", f"training.epochs={EPOCHS}", *tiny
    )


def images(small: bool) -> SearchData:
    """Return random images of CIFAR-10's shape."""
    return like_cifar(*((N_TRAIN_SMALL, N_VAL_SMALL) if small else (N_TRAIN, N_VAL)), 0)


def hyperparameters(number: int) -> keras_tuner.HyperParameters:
    """Return the hyperparameters of trial `number`; no two trials have the same."""
    hp = keras_tuner.HyperParameters()
    hp.values.update(
        learning_rate=1e-5 * (1 + number), momentum=0.9, dropout_rate=0.1 + 0.001 * number
    )
    return hp


def product_flops(model: keras.Model, batch_size: int) -> float:
    """Return the floating-point operations of the matrix products and convolutions of one training
    step.

    A multiplication and an addition count as two. The backward pass costs as much as the forward
    pass for the gradient of the kernel, and once more for that of the input, which the first layer
    does not need.
    """
    total, is_first = 0.0, True
    for layer in model.layers:
        if not isinstance(layer, keras.layers.Dense | keras.layers.Conv2D):
            continue
        places = math.prod(layer.output.shape[1:-1])
        forward = 2.0 * batch_size * places * float(np.prod(layer.kernel.shape))
        total += forward * (2 if is_first else 3)
        is_first = False
    return total
