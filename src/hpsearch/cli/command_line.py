"""Check a command line before the job starts, and answer each mistake with one sentence.

The command line is composed here first, without TensorFlow, so that a typo is answered at once.
The sentence says what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Transformer
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hpsearch.errors import ConfigError, did_you_mean

CONF = Path(__file__).resolve().parents[3] / "conf"
MULTIRUN = ("-m", "--multirun")


def choices(group: str) -> list[str]:
    """Return the names of the files of a group."""
    files = (CONF / group).glob("*.yaml")
    return sorted(path.stem for path in files)


def default_choice(root: str, group: str) -> str:
    """Return the file of a group that `conf/<root>.yaml` takes by default."""
    config = OmegaConf.load(CONF / f"{root}.yaml")
    for item in config.defaults:
        if isinstance(item, DictConfig) and group in item:
            return str(item[group])
    raise ValueError(f"Expected a group with a default. Received: group={group!r}")


def as_overrides(arguments: Sequence[str]) -> list[str]:
    """Return a command line in the form that Hydra reads.

    `mlflow run` writes `--a.b 1` for `-P a.b=1`, which becomes `a.b=1`. Bounds become
    `++space.bounds.NAME=VALUE`, so that a bound may be set that conf does not list. The multirun
    option moves to the front, because Hydra accepts no option between its overrides.
    """
    words = []
    remaining = list(arguments)
    while remaining:
        word = remaining.pop(0)
        if remaining and _is_key_of_mlflow_run(word):
            value = remaining.pop(0)
            word = f"{word[2:]}={value}"
        if word.startswith("space.bounds."):
            word = f"++{word}"
        words.append(word)
    # The sort is stable, so that all other words stay in order.
    return sorted(words, key=lambda word: word not in MULTIRUN)


def _is_key_of_mlflow_run(word: str) -> bool:
    """Return whether a word is the `--KEY` of a setting, and no option of Hydra's."""
    without_dot = {
        "--study",
        "--seed",
        "--level",
        "--registered_model",
        "--arch",
        "--data",
        "--space",
        "--sampler",
        "--pruner",
        "--storage",
    }
    if word in without_dot:
        return True
    return re.fullmatch(r"--\+{0,2}[a-z_]+(\.[\w@/]+)+", word) is not None


def check(root: str, words: Sequence[str]) -> None:
    """Compose `conf/<root>.yaml` with the overrides among `words`.

    Raises:
        ConfigError: An override names an option, a key, a choice or a file that does not exist, or
            a value of the wrong kind; or a value that must be given is missing.
    """
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    given = parser.parse_args(words)
    try:
        read = _single
        if given.multirun:
            read = _first_choice
        plain = [read(word) for word in given.overrides]
        has_hydra_keys = any(word.startswith("hydra") for word in plain)
        with initialize_config_dir(str(CONF), version_base="1.3", job_name=root):
            config = compose(root, plain, return_hydra_config=has_hydra_keys)
            _refuse_wrong_kinds(root, plain)
        plain_config = OmegaConf.to_container(_own(config))
        missing = next(_missing("", plain_config), None)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_one_sentence(error, root)) from error
    finally:
        GlobalHydra.instance().clear()
    _refuse_passwords(given.overrides)
    if missing:
        raise ConfigError(f"{missing} must be given: {missing}=VALUE.")


def _own(config: DictConfig) -> DictConfig:
    """Return a configuration without Hydra's own settings."""
    keys = [key for key in map(str, config) if key != "hydra"]
    return OmegaConf.masked_copy(config, keys)


def _refuse(message: str) -> NoReturn:
    """Raise ConfigError in place of argparse's own ending, which prints a page."""
    unknown = re.search(r"unrecognized arguments: (\S+)", message)
    if unknown is None:
        raise ConfigError(f"{message[0].upper()}{message[1:]}.")
    word = unknown[1]
    if word.startswith("-"):
        raise ConfigError(
            f"There is no option {word}: settings are KEY=VALUE without dashes, see --help."
        )
    raise ConfigError(f"{word} comes after an option: give all KEY=VALUE first, then the options.")


def _parsed(word: str) -> Override:
    """Return what Hydra reads in an override."""
    has_form = "=" in word or word.startswith("~")
    if not has_form or re.match(r"[^=]* =|[^=]*= ", word):
        raise ConfigError(
            f"Expected KEY=VALUE without spaces, such as arch=selu; received {word!r}."
        )
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException as error:
        shown = word.lstrip("+")
        key = shown.partition("=")[0]
        cause = error.__cause__ or error
        said = str(cause).splitlines()[0]
        raise ConfigError(
            f"{shown} cannot be read ({said}); a text must be in quotes: \"{key}='TEXT'\"."
        ) from error
    if override.is_delete():
        return override
    if override.get_value_string() in ("", "''"):
        key = override.get_key_element()
        raise ConfigError(f"{key} has no value: write {key}=VALUE, or {key}=null for none.")
    return override


def _single(word: str) -> str:
    """Return an override; raise ConfigError where it gives several values, which needs `-m`."""
    if _parsed(word).is_sweep_override():
        raise ConfigError(
            f"{word} gives several values: add -m to run one search for each, or [...] for a list."
        )
    return word


def composed(root: str, overrides: Sequence[str]) -> DictConfig:
    """Return `conf/<root>.yaml` with `overrides`, checked and resolved.

    Callers that Hydra has not started use this function: `Search` and the doctor.

    Raises:
        ConfigError: As for `check`.
    """
    check(root, overrides)
    with initialize_config_dir(str(CONF), version_base="1.3", job_name=root):
        config = compose(root, list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    own = _own(config)
    OmegaConf.resolve(own)
    return own


def _first_choice(word: str) -> str:
    """Return the first job's form of an override that sweeps: `arch=elu,selu` is `arch=elu`."""
    override = _parsed(word)
    if not override.is_sweep_override():
        return word
    group = override.get_key_element()
    if (CONF / group).is_dir():
        for value in _swept(override):
            if not (CONF / group / f"{value}.yaml").is_file():
                raise ConfigError(_no_choice(group, value))
    first = next(_swept(override))
    return f"{group}={first}"


def _swept(override: Override) -> Iterator[str]:
    for value in override.sweep_iterator(transformer=Transformer.encode):
        yield str(value)


def _refuse_wrong_kinds(root: str, plain: Sequence[str]) -> None:
    """Raise ConfigError where a number or a switch of conf gets another kind of value."""
    choices = []
    suspects = []
    for word in plain:
        override = OverridesParser.create().parse_override(word)
        key = override.get_key_element().lstrip("+~")
        group = key.partition("@")[0]
        if (CONF / group).is_dir():
            choices.append(word)
        elif not override.is_delete() and _may_be_wrong(override.value()):
            suspects.append(override)
    if not suspects:
        return
    defaults = compose(root, choices)
    for override in suspects:
        key = override.get_key_element().lstrip("+")
        _refuse_wrong_kind(key, override, _default(defaults, key))


def _may_be_wrong(value: object) -> bool:
    """Return False for integers and mappings, which are never of the wrong kind."""
    if isinstance(value, bool):
        return True
    return not isinstance(value, (int, dict))


def _refuse_wrong_kind(
    key: str,
    override: Override,
    default: object,
) -> None:
    value = override.value()
    text = override.get_value_string()
    if isinstance(default, ListConfig) and not isinstance(value, list):
        raise ConfigError(f"{key} must be a list, such as [{text}], but is {text}.")
    kinds = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
    }
    kind = type(default)
    is_interpolation = "${" in str(value)
    if kind not in kinds or is_interpolation or _is_a(kind, value):
        return
    raise ConfigError(f"{key} must be {kinds[kind]}, but is {text or 'empty'}.")


def _parent_of(config: DictConfig, key: str) -> tuple[object, str]:
    """Return what holds a key in a configuration, and the last part of the key."""
    parent, _, last = key.rpartition(".")
    if not parent:
        return config, last
    return OmegaConf.select(config, parent), last


def _default(config: DictConfig, key: str) -> object:
    """Return the value of a key in conf; None where it follows from another key."""
    node, last = _parent_of(config, key)
    if not isinstance(node, DictConfig) or last not in node:
        return None
    if OmegaConf.is_missing(node, last):
        return None
    if OmegaConf.is_interpolation(node, last):
        return None
    return node[last]


def _is_a(kind: type, value: object) -> bool:
    """Return whether a value that is not an integer is of a kind."""
    if kind is bool or isinstance(value, bool):
        return kind is type(value)
    if not isinstance(value, float):
        return False
    return kind is float or value.is_integer()


def _refuse_passwords(overrides: Sequence[str]) -> None:
    """Raise ConfigError where an override holds a password.

    A command line is shown in process lists, and Hydra writes it into files.
    """
    for override in overrides:
        if re.search(r"://[^:/@\s]*:[^@\s]+@|://.*[?&]password=", override):
            key = override.partition("=")[0]
            raise ConfigError(
                f"{key} must not hold a password, which everybody on this machine could see; put "
                "it into PGPASSWORD or ~/.pgpass for PostgreSQL, into MLFLOW_TRACKING_PASSWORD for "
                "MLflow."
            )


def _missing(path: str, node: object) -> Iterator[str]:
    """Yield the path of each value that must be given and is not."""
    if isinstance(node, dict):
        for key, value in node.items():
            below = str(key)
            if path:
                below = f"{path}.{key}"
            yield from _missing(below, value)
    elif node == "???":
        yield path


def _one_sentence(error: Exception, root: str) -> str:
    """Return the part of an error of Hydra that a person needs."""
    text = str(error)
    if isinstance(error.__cause__, OmegaConfBaseException):
        text = str(error.__cause__)
    group = re.search(r"Could not find '((?:hydra/)?\w+)/([^']*)'", text)
    if group and (CONF / group[1]).is_dir():
        return _no_choice(group[1], group[2])
    key = re.search(r"Key '([^']+)' is not in struct\s*full_key: (\S+)", text)
    if key:
        return _unknown_key(key[2], root)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return _unknown_key(unknown[1], root)
    required = re.search(r"You must specify '(\w+)'", text)
    if required:
        name = required[1]
        hint = did_you_mean("", choices(name))
        return f"{name} must be given: {name}=NAME.{hint}"
    without_link = text.split("See https://")[0]
    without_hint = without_link.split("Set the environment")[0]
    return re.sub(r"\s+", " ", without_hint).strip()


def _no_choice(group: str, received: str) -> str:
    hint = did_you_mean(received, choices(group))
    return f"There is no {group}={received}.{hint}"


def _unknown_key(path: str, root: str) -> str:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(root)
    node, last = _parent_of(config, path)
    if not isinstance(node, DictConfig):
        return f"There is no key {path}; see --cfg job for all keys."
    keys = [key for key in map(str, node) if not key.startswith("_")]
    hint = did_you_mean(last, keys)
    return (
        f"There is no key {path}.{hint} "
        f"A setting that conf does not list is added with ++{path}=VALUE."
    )
