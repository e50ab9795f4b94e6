"""Answer a key that the configuration does not have with the key that was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from hpsearch.errors import did_you_mean

# The classes of these groups may take more settings than conf lists.
_OPEN_GROUPS = ("arch", "data", "optimizer", "pruner", "sampler", "schedule")
_ALSO_CALLED = {
    "lr": "learning_rate",
    "dropout": "dropout_rate",
    "model": "arch",
    "architecture": "arch",
    "dataset": "data",
    "objective": "monitor",
    "timeout": "timeout_s",
    "project_name": "name",
}


def unknown_key(path: str, config: DictConfig) -> str:
    """Return a sentence on a key that a configuration does not have.

    Args:
        path: The dotted key.
        config: The configuration, with the choices of groups that were made.
    """
    node, last = parent_of(config, path)
    if not isinstance(node, DictConfig):
        return f"There is no key {path}; see --cfg job for all keys."
    keys = [key for key in map(str, node) if not key.startswith("_")]
    hint = did_you_mean(last, keys)
    meant = _elsewhere(path, config)
    if meant:
        hint = f" Did you mean {' or '.join(meant)}?"
    group = path.partition(".")[0]
    if group in _OPEN_GROUPS:
        hint += f" A setting that conf does not list is added with ++{path}=VALUE."
    return f"There is no key {path}.{hint}"


def parent_of(config: DictConfig, key: str) -> tuple[object, str]:
    """Return what holds a key in a configuration, and the last part of the key."""
    parent, _, last = key.rpartition(".")
    if not parent:
        return config, last
    return OmegaConf.select(config, parent), last


def _elsewhere(key: str, config: DictConfig) -> list[str]:
    """Return the keys of conf that a key without a group may stand for.

    `trials` stands for `budget.n_trials`, `data_path` for `data.path`, `model` for
    `registered_model`, and `lr` for the bounds of the learning rate.
    """
    found = []
    wanted = _ALSO_CALLED.get(key, key)
    bare = re.sub("^(n|num|max|number_of)_", "", wanted)
    for full in _all_keys("", OmegaConf.to_container(config)):
        group, _, name = full.rpartition(".")
        is_meant = bare in (name, name.removeprefix("n_")) or wanted == full.replace(".", "_")
        if not group:
            is_meant = name == wanted or name.endswith(f"_{key}")
        if is_meant:
            found.append(full)
    return found


def _all_keys(path: str, node: object) -> Iterator[str]:
    """Yield the dotted keys of a configuration as plain data, down to the bounds of a space."""
    if not isinstance(node, dict) or path.count(".") > 1:
        return
    for name, value in node.items():
        full = str(name)
        if path:
            full = f"{path}.{name}"
        yield full
        yield from _all_keys(full, value)
