"""The project's own parts as its configuration makes them, for benchmarks: an architecture, data,
settings.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from hpsearch.cli.entry import CONF
from hpsearch.data.split import Examples, SearchData
from hpsearch.data.statistics import measure
from hpsearch.models.architecture import build_hypermodel

CIFAR_SHAPE, CIFAR_CLASSES = (32, 32, 3), 10


def composed(*overrides: str) -> DictConfig:
    """Return the configuration of a search with `overrides`."""
    with initialize_config_dir(str(CONF), version_base="1.3", job_name="bench"):
        return compose("search", [*overrides, "study.name=bench"])


def part(config: Any, **more: Any) -> Any:
    """Return what a part of the configuration stands for."""
    made = instantiate(config, _convert_="all")
    return made(**more) if more else made


def like_cifar(n_train: int, n_val: int, seed: int) -> SearchData:
    """Return images of CIFAR-10's shape with noise for pixels, which take as long as real ones."""
    rng = np.random.default_rng(seed)

    def examples(n: int) -> Examples:
        labels = rng.integers(0, CIFAR_CLASSES, n).astype(np.int32)
        return Examples(rng.integers(0, 256, (n, *CIFAR_SHAPE)).astype(np.uint8), labels)

    return SearchData("noise", examples(n_train), examples(n_val), tuple("0123456789"), "noise")


def hypermodel(config: DictConfig, data: SearchData) -> Any:
    """Return the architecture of a configuration, completed for `data`."""
    return build_hypermodel(
        part(config.arch), measure(data.train.inputs, data.n_classes), part(config.optimizer)
    )
