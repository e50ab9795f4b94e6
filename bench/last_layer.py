"""Compare the Laplace approximation of a last layer with that of laplace-torch.

Two commands, since PyTorch need not be installed beside TensorFlow:

    python bench/last_layer.py ours FILE.npz
    OTHER/bin/python bench/last_layer.py theirs FILE.npz --json docs/results/laplace.json

The first trains small nets and writes the features, weights and results of their last layers. The
second, in an environment with laplace-torch, gives it the same features and weights.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

STRUCTURES = ("full", "kron")
N_SAMPLES = 20_000  # draws of each example's logits
N_SHOWN = 200  # examples whose predictions are compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("whose", choices=["ours", "theirs"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.whose == "ours":
        np.savez(args.file, **ours())
        return
    found = theirs(dict(np.load(args.file)))
    for name, value in found.items():
        print(f"{name}: {value}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def ours() -> dict[str, np.ndarray]:
    """Return features, weights and results of the last layer of a net on the digits."""
    import keras
    from sklearn.datasets import load_digits

    from hpsearch.alternatives.laplace import Full, Kronecker, prior_precision, probabilities
    from hpsearch.alternatives.last_layer import LastLayer
    from hpsearch.mc_dropout.prediction import McDropout

    keras.utils.set_random_seed(0)
    digits = load_digits()
    inputs = (digits.images / 16).astype(np.float32)[..., None]
    labels = digits.target
    layers = keras.layers
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
    model.fit(inputs[:1200], labels[:1200], epochs=15, verbose=0)
    settings = McDropout(100, False, 0, 10_000, 1024, False)
    layer = LastLayer(model, settings, inputs)
    train = np.concatenate(list(layer.features(inputs[:1200])))
    test = np.concatenate(list(layer.features(inputs[1200 : 1200 + N_SHOWN])))
    found = {
        "train": train,
        "labels": labels[:1200],
        "test": test,
        "kernel": layer.kernel,
        "bias": layer.bias,
    }
    rng = np.random.default_rng(0)
    for structure, kind in zip(STRUCTURES, (Full, Kronecker), strict=True):
        curvature = kind.of(layer, inputs[:1200])
        precision = prior_precision(curvature.eigenvalues, layer.parameters)
        covariances = curvature.covariances(test, 1.0)
        at_best = np.linalg.cholesky(curvature.covariances(test, precision))
        noise = rng.standard_normal((N_SHOWN, N_SAMPLES, 10))
        drawn = layer.logits(test)[:, None] + noise @ at_best.transpose(0, 2, 1)
        found[f"{structure}/precision"] = np.array(precision)
        found[f"{structure}/covariances"] = covariances
        found[f"{structure}/probs"] = probabilities(drawn).mean(axis=1)
    return found


def theirs(ours: dict[str, np.ndarray]) -> dict[str, object]:
    """Return how laplace-torch's results differ from ours."""
    import importlib.metadata

    import torch
    from laplace import Laplace
    from torch.utils.data import DataLoader, TensorDataset

    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    features = torch.tensor(ours["train"])
    test = torch.tensor(ours["test"])
    head = torch.nn.Linear(*ours["kernel"].shape)
    with torch.no_grad():
        head.weight.copy_(torch.tensor(ours["kernel"].T))
        head.bias.copy_(torch.tensor(ours["bias"]))
    # A last-layer Laplace approximation needs a layer before the last one.
    model = torch.nn.Sequential(torch.nn.Identity(), head)
    loader = DataLoader(TensorDataset(features, torch.tensor(ours["labels"])), batch_size=1200)
    found: dict[str, object] = {
        "laplace-torch": importlib.metadata.version("laplace-torch"),
        "torch": torch.__version__.partition("+")[0],
    }
    for structure in STRUCTURES:
        laplace = Laplace(
            model, "classification", subset_of_weights="last_layer", hessian_structure=structure
        )
        laplace.fit(loader)
        laplace.prior_precision = 1.0
        _, covariances = laplace._glm_predictive_distribution(test)
        mine = ours[f"{structure}/covariances"]
        found[f"{structure}: largest relative difference of covariances"] = _relative(
            mine, covariances.detach().numpy()
        )
        laplace.optimize_prior_precision(method="marglik", n_steps=3000, lr=0.02)
        precision = float(laplace.prior_precision.detach().squeeze())
        found[f"{structure}: precision of the prior, theirs"] = precision
        found[f"{structure}: precision of the prior, ours"] = float(ours[f"{structure}/precision"])
        laplace.prior_precision = torch.tensor([float(ours[f"{structure}/precision"])])
        probs = laplace(test, pred_type="glm", link_approx="mc", n_samples=N_SAMPLES)
        gaps = np.abs(probs.detach().numpy() - ours[f"{structure}/probs"])
        found[f"{structure}: largest difference of mean probabilities"] = float(gaps.max())
    return found


def _relative(mine: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(mine - other).max() / np.abs(other).max())


if __name__ == "__main__":
    main()
