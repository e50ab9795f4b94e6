"""The arm of bench/training.py that trains in PyTorch, in a process of its own: beside TensorFlow
it crashes.

It is given the net as JSON, and then trains an epoch, and answers with its seconds, for each line
that it reads.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import nn

N_IN, N_CLASSES = 3072, 10


def make_net(given: dict[str, Any]) -> nn.Module:
    """Return the same net as the project's."""
    width, layers = N_IN, []
    dropout = nn.AlphaDropout if given["alpha_dropout"] else nn.Dropout
    for number in range(given["n_hidden"]):
        layers.append(nn.Linear(width, given["n_units"], bias=not given["batch_norm"]))
        layers += [nn.BatchNorm1d(given["n_units"])] if given["batch_norm"] else []
        layers.append({"elu": nn.ELU, "selu": nn.SELU}[given["activation"]]())
        if given["dropout_after"] == "all" or number == given["n_hidden"] - 1:
            layers.append(dropout(given["dropout_rate"]))
        width = given["n_units"]
    return nn.Sequential(*layers, nn.Linear(width, N_CLASSES))


def make_optimizer(given: dict[str, Any], net: nn.Module) -> torch.optim.Optimizer:
    """Return the same optimizer, in PyTorch's faster form."""
    if given["optimizer"] == "sgd":
        return torch.optim.SGD(
            net.parameters(), lr=given["learning_rate"], momentum=0.9, nesterov=True, foreach=True
        )
    return torch.optim.NAdam(net.parameters(), lr=given["learning_rate"], foreach=True)


def main() -> None:
    """Answer each line of the standard input with an epoch's seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net")
    given = json.loads(parser.parse_args().net)
    torch.manual_seed(0)
    n, size, rng = given["n_train"], given["batch_size"], np.random.default_rng(0)
    net = make_net(given)
    optimizer, loss_of = make_optimizer(given, net), nn.CrossEntropyLoss()
    images = torch.from_numpy(rng.standard_normal((n, N_IN), np.float32))
    labels = torch.from_numpy(rng.integers(0, N_CLASSES, n))

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return loss_of(net(x), y)

    forward = torch.compile(loss, dynamic=False) if given["compiled"] else loss
    for _ in sys.stdin:
        begin = time.perf_counter()
        for rows in torch.randperm(n).split(size):  # the smaller batch last, as in ours
            optimizer.zero_grad()
            forward(images[rows], labels[rows]).backward()
            optimizer.step()
        print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main()
