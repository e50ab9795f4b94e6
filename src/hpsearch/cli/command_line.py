"""A command line and its mistakes: composed here first, without TensorFlow, so that a typo is
answered at once.

Each mistake is one sentence that says what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

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
UNDOTTED = {
    f"--{key}"
    for key in (
        "study",
        "seed",
        "level",
        "registered_model",
        "arch",
        "data",
        "space",
        "sampler",
        "pruner",
        "storage",
    )
}
MULTIRUN = ("-m", "--multirun")
KINDS = {bool: "true or false", int: "a whole number", float: "a number"}


def as_overrides(arguments: Sequence[str]) -> list[str]:
    """Return Hydra's form of a command line.

    `mlflow run` writes `--a.b 1` for `-P a.b=1`; and a bound may be set whether or not conf has one
    of its name.
    """
    overrides: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        if waiting and (re.fullmatch(r"--\+{0,2}[a-z_]+(\.[\w@/]+)+", word) or word in UNDOTTED):
            word = f"{word[2:]}={waiting.pop(0)}"
        overrides.append(f"++{word}" if word.startswith("space.bounds.") else word)
    return sorted(
        overrides, key=lambda word: word not in MULTIRUN
    )  # Hydra wants its overrides in one piece


def check(root: str, words: Sequence[str]) -> None:
    """Compose `conf/<root>.yaml` with the overrides among `words`.

    Raises:
        ConfigError: They name an option, a key, a choice or a file that is not there, or a value of
            the wrong kind.
    """
    parser: Any = get_args_parser()
    parser.error = _refuse
    given = parser.parse_args(list(words))
    try:
        plain = [
            _first_choice(word) if given.multirun else _single(word) for word in given.overrides
        ]
        with initialize_config_dir(str(CONF), version_base="1.3", job_name=root):
            config = compose(
                root, plain, return_hydra_config=any(word.startswith("hydra") for word in plain)
            )
            _refuse_wrong_kinds(root, plain)
        missing = list(
            _missing("", OmegaConf.to_container(OmegaConf.masked_copy(config, _own_keys(config))))
        )
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_one_sentence(error, root)) from error
    finally:
        GlobalHydra.instance().clear()
    _refuse_passwords(given.overrides)
    if missing:
        raise ConfigError(f"{missing[0]} must be given: {missing[0]}=VALUE.")


def _own_keys(config: DictConfig) -> list[str]:
    return [str(key) for key in config if key != "hydra"]


def _refuse(message: str) -> NoReturn:
    """Take the place of argparse's own ending, which prints a page."""
    unknown = re.search(r"unrecognized arguments: (\S+)", message)
    if unknown is None:
        raise ConfigError(f"{message[0].upper()}{message[1:]}.")
    if unknown[1].startswith("-"):
        raise ConfigError(
            f"There is no option {unknown[1]}: settings are KEY=VALUE without dashes, see --help."
        )
    raise ConfigError(
        f"{unknown[1]} stands behind an option: give all KEY=VALUE first, then the options."
    )


def _parsed(word: str) -> Override:
    if ("=" not in word and not word.startswith("~")) or re.match(r"[^=]* =|[^=]*= ", word):
        raise ConfigError(
            f"Expected KEY=VALUE without spaces, such as arch=selu; received {word!r}."
        )
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException as error:
        word = word.lstrip("+")
        key, cause = word.partition("=")[0], str(error.__cause__ or error).splitlines()[0]
        raise ConfigError(
            f"{word} cannot be read ({cause}); a text stands between quotes: \"{key}='TEXT'\"."
        ) from error
    key = override.get_key_element()
    if not override.is_delete() and override.get_value_string() in ("", "''"):
        raise ConfigError(f"{key} has no value: write {key}=VALUE, or {key}=null for none.")
    return override


def _single(word: str) -> str:
    """Return an override that is no sweep: several values at once need `-m`."""
    override = _parsed(word)
    if override.is_sweep_override():
        raise ConfigError(
            f"{word} gives several values: add -m to run one search for each, or [...] for a list."
        )
    return word


def composed(root: str, overrides: Sequence[str]) -> DictConfig:
    """Return `conf/<root>.yaml` with `overrides`, whole, checked and resolved, for who is not
    started by Hydra.
    """
    check(root, overrides)
    with initialize_config_dir(str(CONF), version_base="1.3", job_name=root):
        config = compose(root, list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    own = OmegaConf.masked_copy(config, _own_keys(config))
    OmegaConf.resolve(own)
    return own


def _first_choice(word: str) -> str:
    """Return the first job's form of an override that sweeps: `arch=elu,selu` is `arch=elu`."""
    override = _parsed(word)
    if not override.is_sweep_override():
        return word
    group = override.get_key_element()
    for value in (
        override.sweep_iterator(transformer=Transformer.encode) if (CONF / group).is_dir() else ()
    ):
        if not (CONF / group / f"{value}.yaml").is_file():
            raise ConfigError(_no_choice(group, str(value)))
    return f"{override.get_key_element()}={next(override.sweep_iterator(transformer=Transformer.encode))}"


def _refuse_wrong_kinds(root: str, plain: Sequence[str]) -> None:
    """Raise ConfigError where a number or a switch of conf is given another kind of value, such as
    `ten`.
    """
    overrides = [OverridesParser.create().parse_override(word) for word in plain]
    is_group = [
        (CONF / o.get_key_element().lstrip("+~").partition("@")[0]).is_dir() for o in overrides
    ]
    values = [
        o for o, group in zip(overrides, is_group, strict=True) if not group and not o.is_delete()
    ]
    suspects = [
        o for o in values if not isinstance(o.value(), (int, dict)) or isinstance(o.value(), bool)
    ]
    if not suspects:
        return
    defaults = compose(root, [word for word, group in zip(plain, is_group, strict=True) if group])
    for override in suspects:
        key, value = override.get_key_element().lstrip("+"), override.value()
        default = _default(defaults, key)
        if isinstance(default, ListConfig) and not isinstance(value, list):
            text = override.get_value_string()
            raise ConfigError(f"{key} must be a list, such as [{text}], but is {text}.")
        if type(default) in KINDS and not _is_a(type(default), value) and "${" not in str(value):
            raise ConfigError(
                f"{key} must be {KINDS[type(default)]}, but is "
                f"{override.get_value_string() or 'empty'}."
            )


def _default(config: DictConfig, key: str) -> Any:
    """Return what conf sets a key to; None where that follows from another key."""
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    if not isinstance(node, DictConfig) or last not in node or OmegaConf.is_missing(node, last):
        return None
    return None if OmegaConf.is_interpolation(node, last) else node[last]


def _is_a(kind: type, value: Any) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is type(value)
    return isinstance(value, float) and (kind is float or value.is_integer())


def _refuse_passwords(overrides: Sequence[str]) -> None:
    """A command line is seen in process lists, and Hydra writes it into files."""
    for override in overrides:
        if re.search(r"://[^:/@\s]*:[^@\s]+@", override):
            key = override.partition("=")[0]
            raise ConfigError(
                f"{key} must not hold a password, which everybody on this machine could see; put "
                f"it into PGPASSWORD or "
                "~/.pgpass for PostgreSQL, into MLFLOW_TRACKING_PASSWORD for MLflow."
            )


def _missing(path: str, node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _missing(f"{path}.{key}" if path else str(key), value)
    elif node == "???":
        yield path


def _one_sentence(error: Exception, root: str) -> str:
    """Return what a person needs of an error of Hydra's."""
    text = (
        str(error.__cause__ or error)
        if isinstance(error.__cause__, OmegaConfBaseException)
        else str(error)
    )
    group = re.search(r"Could not find '((?:hydra/)?\w+)/([^']*)'", text)
    if group and (CONF / group[1]).is_dir():
        return _no_choice(group[1], group[2])
    key = re.search(r"Key '([^']+)' is not in struct\s*full_key: (\S+)", text)
    if key:
        return _unknown_key(key[2], root)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return _unknown_key(unknown[1], root)
    without = re.search(r"You must specify '(\w+)'", text)
    if without:
        return f"{without[1]} must be given: {without[1]}=NAME.{did_you_mean('', _choices(without[1]))}"
    return re.sub(
        r"\s+", " ", text.split("See https://")[0].split("Set the environment")[0]
    ).strip()


def _choices(group: str) -> list[str]:
    return [path.stem for path in (CONF / group).glob("*.yaml")]


def _no_choice(group: str, received: str) -> str:
    return f"There is no {group}={received}.{did_you_mean(received, _choices(group))}"


def _unknown_key(path: str, root: str) -> str:
    parent, _, last = path.rpartition(".")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(root)
    node = OmegaConf.select(config, parent) if parent else config
    if isinstance(node, DictConfig):
        near = did_you_mean(last, [str(k) for k in node if not str(k).startswith("_")])
        return f"There is no key {path}.{near} A setting that conf does not list is added with ++{path}=VALUE."
    return f"There is no key {path}; see --cfg job for all keys."
