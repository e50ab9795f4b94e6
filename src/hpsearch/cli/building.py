"""Build the parts that a configuration describes, and answer what they refuse with one sentence."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, NoReturn, cast

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hpsearch.errors import ConfigError, HpsearchError, first_line
from hpsearch.jobs.composed import Plain


def built(config: Plain | DictConfig) -> Any:
    """Return the job or the parts that a configuration, or a part of it as plain data, describes.

    Raises:
        ConfigError: A part does not take a key, or refuses a value. The message is one sentence.
    """
    try:
        return hydra.utils.instantiate(config, _convert_="all")
    except OmegaConfBaseException as error:
        raise unresolved(error) from error
    except InstantiationException as error:
        _raise_in_one_sentence(error)


def unresolved(error: OmegaConfBaseException) -> ConfigError:
    """Return the error that tells a person of a setting that refers to one that is not there."""
    return ConfigError(f"The configuration cannot be resolved: {first_line(error)}.")


def as_plain(part: DictConfig) -> Plain:
    """Return a configuration, or a part of it, as plain data, with its interpolations resolved.

    Raises:
        ConfigError: A setting refers to one that is not there.
    """
    try:
        return cast("Plain", OmegaConf.to_container(part, resolve=True))
    except OmegaConfBaseException as error:
        raise unresolved(error) from error


def check_partials(parts: Mapping[str, object]) -> None:
    """Raise ConfigError where a part has an argument that it will refuse when the job completes it.

    Arguments that a part takes as **keywords are not checked.

    Args:
        parts: The parts of a job by their keys.
    """
    for name, part in parts.items():
        if isinstance(part, partial):
            try:
                signature = inspect.signature(part.func)
                signature.bind_partial(*part.args, **part.keywords)
            except TypeError as error:
                raise ConfigError(f"{name} cannot be built: {error}.") from error


def _raise_in_one_sentence(error: InstantiationException) -> NoReturn:
    """Raise our own error that lies behind an error of Hydra, or else a ConfigError."""
    cause = _first_cause(error)
    if isinstance(cause, HpsearchError):
        raise cause from None
    place = _place_of(error)
    if isinstance(cause, ImportError | AttributeError):
        raise ConfigError(
            f"{place}._target_ cannot be imported: {cause}; a module of your own must lie in "
            "the current folder or in one that PYTHONPATH names."
        ) from error
    pattern = r"missing \d+ required (?:positional|keyword-only) arguments?: (.+)"
    lacking = re.search(pattern, str(cause))
    if lacking:
        raise ConfigError(f"{place} needs {lacking[1]}, which nothing sets.") from error
    said = re.sub(r"^\w+\.__init__\(\) ", "", str(cause or error)).rstrip(".")
    raise ConfigError(f"{place} cannot be built: {said}.") from error


def _place_of(error: InstantiationException) -> str:
    """Return the key of the part that could not be built."""
    key = re.search(r"full_key: (\S+)", str(error))
    if key is None:
        return "The configuration"
    return key[1]


def _first_cause(error: InstantiationException) -> BaseException | None:
    """Return our own error behind an error of Hydra, or else the innermost cause."""
    cause = error.__cause__
    while cause is not None and cause.__cause__ is not None:
        if isinstance(cause, HpsearchError):
            break
        cause = cause.__cause__
    return cause
