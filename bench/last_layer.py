"""Write the Laplace approximation of a net's last layer, to compare it with that of laplace-torch.

    python bench/last_layer.py FILE.npz
    OTHER/bin/python bench/last_layer_in_torch.py FILE.npz --json docs/results/last_layer.json

The second command runs in an environment with laplace-torch, as PyTorch is not needed here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

from hpsearch.alternatives.laplace import Full, Kronecker, prior_precision, probabilities
from hpsearch.alternatives.last_layer import LastLayer
from hpsearch.mc_dropout.prediction import McDropout

N_TRAIN = 1200
N_SHOWN = 200  # examples whose predictions are compared
N_DRAWS = 20_000  # of each example's logits


def main() -> None:
    """Train a small net on the digits, and write what its last layer has and gives."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file
    digits = load_digits()
    inputs = (digits.images / 16).astype(np.float32)[..., None]
    train = inputs[:N_TRAIN]
    model = trained(train, digits.target[:N_TRAIN])
    layer = LastLayer(model, McDropout(100, False, 0, 10_000, 1024, False), train)
    test = np.concatenate(list(layer.features(inputs[N_TRAIN : N_TRAIN + N_SHOWN])))
    found = {
        "train": np.concatenate(list(layer.features(train))),
        "labels": digits.target[:N_TRAIN],
        "test": test,
        "kernel": layer.kernel,
        "bias": layer.bias,
    }
    for structure, kind in {"full": Full, "kron": Kronecker}.items():
        curvature = kind.of(layer, train)
        precision = prior_precision(curvature.eigenvalues, layer.parameters)
        roots = np.linalg.cholesky(curvature.posterior(precision)(test))
        noise = np.random.default_rng(0).standard_normal((N_SHOWN, N_DRAWS, 10))
        drawn = layer.logits(test)[:, None] + noise @ roots.transpose(0, 2, 1)
        found[f"{structure}/precision"] = np.array(precision)
        found[f"{structure}/covariances"] = curvature.posterior(1.0)(test)
        found[f"{structure}/probs"] = probabilities(drawn).mean(axis=1)
    np.savez(file, **found)


def trained(inputs: np.ndarray, labels: np.ndarray) -> keras.Model:
    """Return a net with two hidden layers of 20 units."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(20, "selu"),
            layers.Dropout(0.1),
            layers.Dense(20, "selu"),
            layers.Dense(10, "softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(inputs, labels, epochs=15, verbose=0)
    return model


if __name__ == "__main__":
    main()
