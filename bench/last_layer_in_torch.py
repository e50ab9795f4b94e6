"""Compare what bench/last_layer.py has written with laplace-torch, on the same weights.

pip install laplace-torch
python bench/last_layer_in_torch.py FILE.npz --json docs/results/last_layer.json
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from pathlib import Path

import numpy as np
import torch
from laplace import Laplace
from torch.utils.data import DataLoader, TensorDataset

N_DRAWS = 20_000  # of each example's logits


def main() -> None:
    """Print the differences, and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    ours = dict(np.load(args.file))
    found: dict[str, object] = {
        "laplace-torch": importlib.metadata.version("laplace-torch"),
        "torch": torch.__version__.partition("+")[0],
    }
    for structure in ("full", "kron"):
        for name, value in compared(ours, structure).items():
            found[f"{structure}: {name}"] = value
    for name, value in found.items():
        print(f"{name}: {value}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def compared(ours: dict[str, np.ndarray], structure: str) -> dict[str, float]:
    """Return how the results of one structure of the posterior differ."""
    head = torch.nn.Linear(*ours["kernel"].shape)
    with torch.no_grad():
        head.weight.copy_(torch.tensor(ours["kernel"].T))
        head.bias.copy_(torch.tensor(ours["bias"]))
    # laplace-torch looks for the last layer of several.
    model = torch.nn.Sequential(torch.nn.Identity(), head)
    examples = TensorDataset(torch.tensor(ours["train"]), torch.tensor(ours["labels"]))
    laplace = Laplace(
        model, "classification", subset_of_weights="last_layer", hessian_structure=structure
    )
    laplace.fit(DataLoader(examples, batch_size=len(examples)))
    test = torch.tensor(ours["test"])
    laplace.prior_precision = 1.0
    _, theirs = laplace._glm_predictive_distribution(test)
    covariances = theirs.detach().numpy()
    gaps = np.abs(ours[f"{structure}/covariances"] - covariances)
    laplace.optimize_prior_precision(method="marglik", n_steps=3000, lr=0.02)
    precision = float(laplace.prior_precision.detach().squeeze())
    laplace.prior_precision = torch.tensor([float(ours[f"{structure}/precision"])])
    probs = laplace(test, pred_type="glm", link_approx="mc", n_samples=N_DRAWS)
    of_probs = np.abs(probs.detach().numpy() - ours[f"{structure}/probs"])
    return {
        "largest difference of covariances, of their largest": float(
            gaps.max() / covariances.max()
        ),
        "precision of the prior, theirs": precision,
        "precision of the prior, ours": float(ours[f"{structure}/precision"]),
        "largest difference of mean probabilities": float(of_probs.max()),
    }


if __name__ == "__main__":
    main()
