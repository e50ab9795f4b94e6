"""Write the keywords of `hpsearch.search` as the words of a command line.

A search from Python is composed from the same words as one from a shell. Therefore its mistakes
get the same sentences, and its study can be continued from a shell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path

from hpsearch.command_form import quoted
from hpsearch.errors import ConfigError, did_you_mean

# The key in the configuration of each keyword.
_KEYS = {
    "name": "data.name",
    "n_val": "data.n_val",
    "n_trials": "budget.n_trials",
    "timeout_s": "budget.timeout_s",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "monitor": "training.monitor",
    "direction": "training.direction",
    "study_name": "study.name",
    "experiment": "tracking.experiment",
    "tracking_uri": "tracking.uri",
    "seed": "seed",
    "optimizer": "optimizer",
    "sampler": "sampler",
    "pruner": "pruner",
    "schedule": "schedule",
    "trainer": "trainer",
    "storage": "storage",
}
_OTHERS = ("validation_data", "test_data", "class_names", "space", "config")
# Keywords of Keras and KerasTuner, with what to say instead.
_FOREIGN = {
    "max_trials": "give n_trials",
    "objective": "give monitor, such as monitor='val/accuracy'",
    "hypermodel": "give it as the first argument",
    "overwrite": "another study_name starts anew",
    "project_name": "give study_name",
    "directory": "give storage and tracking_uri",
    "executions_per_trial": "each trial is trained once",
    "validation_split": "give n_val, the number of examples that are split off",
    "sample_weight": "sample weights cannot be searched with yet",
    "class_weight": "class weights cannot be searched with yet",
    "callbacks": "a HyperModel may have a method companions() that returns them",
    "verbose": "give console, a rich.console.Console",
}


def words_of(keywords: Mapping[str, object], config: Mapping[str, object] | None) -> list[str]:
    """Return the words `KEY=VALUE` of a search.

    Args:
        keywords: The keywords of `hpsearch.search`; None stands for the configuration's default.
        config: Further settings by their dotted keys; None is a value here.

    Raises:
        ConfigError: A keyword is unknown, or a value has a type that no setting has.
    """
    given = dict(keywords)
    space = given.pop("space", None)
    words = []
    for name, value in given.items():
        if name not in _KEYS:
            raise ConfigError(_unknown(name))
        if value is not None:
            words.append(_word(_KEYS[name], value))
    for name, value in _mapping("space", space).items():
        words.append(_word(f"space.bounds.{name}", value))
    taken = {word.partition("=")[0] for word in words}
    for key, value in _mapping("config", config).items():
        name = str(key).lstrip("+")
        if name in taken:
            raise ConfigError(f"{name} is given twice, by a keyword and in config.")
        if name in ("data", "arch") or name.startswith(("data.path", "data.load", "arch._")):
            raise ConfigError(f"config must not have {name}: model and data are the arguments.")
        words.append(_word(str(key), value))
    return words


def _unknown(name: str) -> str:
    foreign = _FOREIGN.get(name)
    if foreign is not None:
        return f"hpsearch.search has no keyword {name}: {foreign}."
    hint = did_you_mean(name, [*_KEYS, *_OTHERS])
    return f"hpsearch.search has no keyword {name}.{hint}"


def _mapping(name: str, given: object) -> Mapping[str, object]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        kind = type(given).__name__
        raise ConfigError(f"Expected {name} to be a dictionary, received a {kind}.")
    return given


def _word(key: str, value: object) -> str:
    if not re.fullmatch(r"\+{0,2}[\w.@/]+", key, re.ASCII):
        raise ConfigError(f"Expected the dotted key of a setting, received {key!r}.")
    return f"{key}={written(value, key)}"


def written(value: object, key: str) -> str:
    """Return a value as Hydra reads it.

    Args:
        value: None, a boolean, a number, a text, a path, or a list or dictionary of these.
        key: The key of the setting, for messages.

    Raises:
        ConfigError: The value has another type.
    """
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return "{" + ",".join(_entries(value, key)) + "}"
    if isinstance(value, list | tuple):
        items = [written(item, key) for item in value]
        return "[" + ",".join(items) + "]"
    return _single(value, key)


def _single(value: object, key: str) -> str:
    if value is None:
        return "null"
    if isinstance(value, Enum):
        raise ConfigError(_no_setting(value, key))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return _quoted(str(value), key)
    raise ConfigError(_no_setting(value, key))


def _no_setting(value: object, key: str) -> str:
    kind = type(value).__name__
    return (
        f"Expected {key} to be a number, a text, true or false, None, or a list or dictionary of "
        f"these; received a {kind}."
    )


def _entries(mapping: Mapping[object, object], key: str) -> Iterator[str]:
    for name, value in mapping.items():
        if not re.fullmatch(r"\w+", str(name), re.ASCII):
            raise ConfigError(f"Expected plain names as keys of {key}, received {name!r}.")
        yield f"{name}:{written(value, key)}"


def _quoted(text: str, key: str) -> str:
    """Return a text that Hydra reads as this text."""
    if "${" in text:
        raise ConfigError(
            f"Expected a text without ${{ in {key}, which would refer to another setting; received "
            f"{text!r}."
        )
    if re.fullmatch(r"[A-Za-z_]\w*(/\w+)*", text, re.ASCII) and text.lower() not in (
        "null",
        "true",
        "false",
        "nan",
        "inf",
    ):
        return text
    return quoted(text)
