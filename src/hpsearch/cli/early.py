"""Check the parts of a composed configuration before Keras and MLflow are imported.

One rule decides what is built here: the module of a part imports neither Keras nor MLflow. The
settings of a part whose own module does may stand in `settings.py` of its room, in a class of the
same name from which the part inherits; this class is built then. Nothing is called that a job
completes, so nothing is made. Of all other parts the code is read and not run
(`cli.written_code`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from importlib import import_module
from importlib.util import find_spec

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from hpsearch.cli.building import as_plain, built, check_partials
from hpsearch.cli.kinds import check_kinds
from hpsearch.cli.written_code import check_code, check_settings
from hpsearch.data.split import Data
from hpsearch.jobs.settings import check_job

_SLOW = frozenset({"jax", "keras", "keras_tuner", "mlflow", "tensorflow", "torch"})
# Importing these runs no code of a person's own.
_KNOWN = frozenset({"hpsearch", "optuna"})


class _NeedsSlowLibrary(BaseException):
    """A module imports a library of `_SLOW`; no `except ImportError` may swallow it."""


class _Refusal:
    """A finder of modules that refuses the libraries of `_SLOW`."""

    def find_spec(self, name: str, *_: object) -> None:
        """Raise an exception for a slow library, and leave all others to the other finders."""
        if name.partition(".")[0] in _SLOW:
            raise _NeedsSlowLibrary(name)


def check_parts(root: str, config: DictConfig) -> None:
    """Raise an error for the first mistake in a setting that needs neither a model nor data.

    Args:
        root: The name of the job.
        config: Its composed configuration without Hydra's own settings, which can be resolved.

    Raises:
        UserError: A part does not take a key, or refuses a value, its code cannot be found, or its
            files are not there.
    """
    check_job(root, as_plain(config))
    checked = deepcopy(config)
    if "_target_" in config:
        check_settings("The configuration", as_plain(config))
    for name, part in _parts(checked, ""):
        check_code(name, as_plain(part))
        _use_settings(part)
        with _without_slow_libraries():
            _check_kinds(name, part)
            found = built(part)
            check_partials({name: found})
            if isinstance(found, Data):
                found.check_files()


def _parts(node: DictConfig, path: str) -> Iterator[tuple[str, DictConfig]]:
    """Yield each outermost part below the job itself, with its key."""
    for key in map(str, node):
        if OmegaConf.is_interpolation(node, key):
            continue
        value = node[key]
        name = f"{path}{key}"
        if not isinstance(value, DictConfig):
            continue
        if "_target_" in value:
            yield name, value
        else:
            yield from _parts(value, f"{name}.")


def _check_kinds(key: str, part: DictConfig) -> None:
    """Raise ConfigError where a setting of a part, or of a part within it, is of a wrong kind."""
    target = str(part["_target_"])
    if target.partition(".")[0] not in _KNOWN:
        return
    made = get_object(target)
    check_kinds(key, made, as_plain(part))
    for name, inner in _parts(part, f"{key}."):
        _check_kinds(name, inner)


def _use_settings(part: DictConfig) -> None:
    """Let a part be built as the class of its settings, where its room has one of its name."""
    target = str(part["_target_"])
    room, _, name = target.rpartition(".")
    room = ".".join(room.split(".")[:2])
    if _has_settings(room, name):
        part["_target_"] = f"{room}.settings.{name}"


@cache
def _has_settings(room: str, name: str) -> bool:
    """Return whether `settings.py` of a room can be imported at once and has a class."""
    if not room.startswith("hpsearch.") or find_spec(f"{room}.settings") is None:
        return False
    with _without_slow_libraries():
        return hasattr(import_module(f"{room}.settings"), name)
    return False


@contextmanager
def _without_slow_libraries() -> Iterator[None]:
    """Leave the block where a module in it imports a slow library, without an error."""
    refusal = _Refusal()
    sys.meta_path.insert(0, refusal)
    try:
        yield
    except _NeedsSlowLibrary:
        pass
    finally:
        sys.meta_path.remove(refusal)
