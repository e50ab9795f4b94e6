"""Check a command line before the job starts, and answer each mistake with one sentence.

The command line is composed here first, without TensorFlow, so that a typo is answered at once.
The sentence says what would be right.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NoReturn

from hydra import compose
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from hpsearch.cli.building import unresolved
from hpsearch.cli.config_files import CONF, ConfigFiles
from hpsearch.cli.kinds import check_kind
from hpsearch.cli.no_secrets import refuse_secrets, refuse_secrets_in_words
from hpsearch.cli.one_override import for_one_job, jobs_of, no_choice, swept
from hpsearch.cli.unknown_keys import parent_of, unknown_key
from hpsearch.command_form import has_to_be_added, holds_text, installing, quoted
from hpsearch.errors import ConfigError, UserError, did_you_mean

MULTIRUN = ("-m", "--multirun")


def default_choice(root: str, group: str) -> str:
    """Return the file of a group that `conf/<root>.yaml` takes by default.

    Raises:
        ValueError: The configuration has no such group.
    """
    config = OmegaConf.load(CONF / f"{root}.yaml")
    for item in config.defaults:
        if isinstance(item, DictConfig) and group in item:
            return str(item[group])
    raise ValueError(f"Expected a group with a default. Received: group={group!r}")


def as_overrides(arguments: Sequence[str]) -> list[str]:
    """Return a command line in the form that Hydra reads.

    Settings that conf need not list are added: bounds become `++space.bounds.NAME=VALUE`, and so do
    the settings of an architecture of the person's own, whose constructor refuses a wrong one. A
    setting that holds text gets text, so that `study.name=12` is a name. The multirun option moves
    to the front, because Hydra accepts no option between its overrides.
    """
    words = []
    for argument in arguments:
        word = _with_text(argument)
        if has_to_be_added(word, arguments):
            words.append(f"++{word}")
        else:
            words.append(word)
    # The sort is stable, so that all other words stay in order.
    return sorted(words, key=lambda word: word not in MULTIRUN)


def _with_text(word: str) -> str:
    """Return a word in which a number, true or false has quotes where the setting holds text."""
    key, _, value = word.partition("=")
    is_other = re.fullmatch(r"[\d.+e_-]*\d[\d.+e_-]*|true|false", value, re.ASCII | re.IGNORECASE)
    if is_other is None or not holds_text(key):
        return word
    return f"{key}={quoted(value)}"


def check(root: str, words: Sequence[str]) -> None:
    """Compose `conf/<root>.yaml` with the overrides among `words`.

    Of a sweep that is what Hydra needs to start it; `check_values` looks at the values of its jobs.

    Raises:
        ConfigError: An override names an option, a key, a choice or a file that does not exist, or
            a value of the wrong kind; or a value that must be given is missing.
    """
    given = _arguments(words)
    refuse_secrets_in_words(given.overrides)
    if given.package is not None and given.cfg is None:
        raise ConfigError(f"-p {given.package} names a part for --cfg job; settings need no -p.")
    files = ConfigFiles.of(given.config_dir)
    plain: list[str] = []
    with _answering(root, plain, files):
        for word in given.overrides:
            plain.append(for_one_job(root, files, word, given.multirun))
        with files.composing(root):
            _refuse_unknown_choices(plain, files)
            config = compose(root, plain, return_hydra_config=True)
            refuse_secrets(config)
            for other in _other_choices(given.overrides, plain, files):
                refuse_secrets(compose(root, other, return_hydra_config=True))
            if not given.multirun:
                _refuse_wrong_kinds(root, plain, files)
        missing = next(_missing("", OmegaConf.to_container(_own(config))), None)
        if missing:
            raise ConfigError(f"{missing} must be given: {missing}=VALUE.")


def check_values(root: str, words: Sequence[str]) -> None:
    """Check the values of a command line that `check` has passed, before the job starts.

    The jobs of a sweep run though some of them are mistaken, so a sweep is refused only where all
    of them are, the first dozens if there are more.

    Raises:
        UserError: As for `early.check_parts`, or a value is of the wrong kind.
    """
    most_jobs = 24  # each takes a third of a second
    given = _arguments(words)
    files = ConfigFiles.of(given.config_dir)
    jobs = [list(given.overrides)]
    if given.multirun:
        jobs = jobs_of(given.overrides)[:most_jobs]
    first: UserError | None = None
    for job in jobs:
        try:
            _check_job(root, job, files, is_of_sweep=given.multirun)
        except UserError as error:
            first = first or error
        else:
            return
    if first is not None:
        raise first


def check_kinds_within(root: str, words: Sequence[str]) -> None:
    """Check the kinds of the values of a job of a sweep, which Hydra has begun.

    Raises:
        ConfigError: A value is of the wrong kind.
    """
    given = _arguments(words)
    _refuse_wrong_kinds(root, given.overrides, ConfigFiles.of(given.config_dir))


def _check_job(
    root: str,
    overrides: list[str],
    files: ConfigFiles,
    *,
    is_of_sweep: bool,
) -> None:
    """Check the values of one job."""
    # Importing this takes half a second, which a typo must not cost.
    from hpsearch.cli.early import check_parts  # noqa: PLC0415

    with _answering(root, overrides, files):
        with files.composing(root):
            config = compose(root, overrides, return_hydra_config=True)
            if is_of_sweep:  # `check` has looked at the kinds of a single job
                _refuse_wrong_kinds(root, overrides, files)
        with _resolving(config):
            check_parts(root, _own(config))


@contextmanager
def _answering(
    root: str,
    overrides: Sequence[str],
    files: ConfigFiles,
) -> Iterator[None]:
    """Raise ConfigError in place of an error of Hydra or of YAML in the block."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        sentence = _one_sentence(error, root, overrides, files)
        raise ConfigError(sentence) from error
    except (YAMLError, UnicodeError, OSError) as error:
        said = re.sub(r"\s+", " ", str(error))
        raise ConfigError(f"A file of the configuration is no YAML: {said}.") from error
    finally:
        GlobalHydra.instance().clear()


@contextmanager
def _resolving(config: DictConfig) -> Iterator[None]:
    """Let Hydra's own settings be referred to within the block, as `${hydra:KEY}`."""
    known = HydraConfig.instance()
    before = known.cfg
    known.set_config(config)
    try:
        yield
    finally:
        known.cfg = before


def defaults_of(
    root: str,
    overrides: Sequence[str],
    files: ConfigFiles,
) -> DictConfig:
    """Return `conf/<root>.yaml` with the choices of groups among `overrides`, to know its values.

    It is empty where a choice does not exist, which `check` answers. Of several choices, as a sweep
    has them, the first one counts.
    """
    choices = [word for word in overrides if files.is_group(word.partition("=")[0])]
    first = [choice.partition(",")[0] for choice in choices]
    try:
        with files.composing(root):
            return compose(root, first)
    except (HydraException, OmegaConfBaseException, ValueError, YAMLError):
        return OmegaConf.create()


def _arguments(words: Sequence[str]) -> Namespace:
    """Return the options and the overrides of a command line, as Hydra reads them."""
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    return parser.parse_args(words)


def _own(config: DictConfig) -> DictConfig:
    """Return a configuration without Hydra's own settings."""
    keys = [key for key in map(str, config) if key != "hydra"]
    return OmegaConf.masked_copy(config, keys)


def _refuse(message: str) -> NoReturn:
    """Raise ConfigError in place of argparse's own ending, which prints a page."""
    option = re.match(r"argument (--[\w-]+)\S*: (.*)", message)
    if option is not None:
        raise ConfigError(of_option(option[1], option[2]))
    unknown = re.search(r"(?:unrecognized arguments|ambiguous option): (\S+)", message)
    if unknown is None:
        raise ConfigError(f"{message[0].upper()}{message[1:]}.")
    word = unknown[1]
    if word.startswith("-"):
        raise ConfigError(
            f"There is no option {word}: settings are KEY=VALUE without dashes, see --help."
        )
    raise ConfigError(f"{word} comes after an option: give all KEY=VALUE first, then the options.")


def _other_choices(
    words: Sequence[str],
    plain: Sequence[str],
    files: ConfigFiles,
) -> Iterator[list[str]]:
    """Yield the overrides with each further choice of a sweep that a person's own folder has."""
    for place, word in enumerate(words):
        group = word.partition("=")[0]
        if files.own is not None and files.is_group(group) and plain[place] != word:
            choices = list(swept(OverridesParser.create().parse_override(word)))
            for choice in choices[1:]:
                yield [*plain[:place], f"{group}={choice}", *plain[place + 1 :]]


def composed(root: str, overrides: Sequence[str]) -> DictConfig:
    """Return `conf/<root>.yaml` with `overrides`, checked and resolved.

    Callers that Hydra has not started use this function: `Search` and the doctor. Among the
    overrides there may be `--config-dir=DIR`.

    Raises:
        ConfigError: As for `check`.
    """
    check(root, overrides)
    given = _arguments(overrides)
    with ConfigFiles.of(given.config_dir).composing(root):
        config = compose(root, given.overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    own = _own(config)
    try:
        OmegaConf.resolve(own)
    except OmegaConfBaseException as error:
        raise unresolved(error) from error
    return own


def of_option(option: str, message: str) -> str:
    """Return the sentence on a value that an option of Hydra does not take.

    Args:
        option: The option.
        message: What argparse says of its value.
    """
    choice = re.match(r"invalid choice: '(.*)' \(choose from (.*)\)", message)
    if choice is not None:
        valid = choice[2].replace("'", "").split(", ")
        return f"There is no {option}={choice[1]}.{did_you_mean(choice[1], valid)}"
    value = re.match(r"ignored explicit argument '=?(.*)'", message)
    if value is not None:
        return (
            f"The option {option} takes no value, but received {value[1]!r}: settings are "
            "KEY=VALUE without dashes, see --help."
        )
    return f"The option {option} needs a value: {option}=VALUE."


def _refuse_unknown_choices(plain: Sequence[str], files: ConfigFiles) -> None:
    """Raise ConfigError for a choice of a group that has no such file.

    Hydra leaves out a missing choice of an optional group, and takes no number for a choice. A
    folder of `hydra.searchpath` can hold further choices, so nothing is refused then.
    """
    if any(word.startswith("hydra.searchpath") for word in plain):
        return
    for word in plain:
        override = OverridesParser.create().parse_override(word)
        group = override.get_key_element().lstrip("+~")
        if override.is_delete() or not files.has_group(group) or group.startswith("hydra"):
            continue
        text = override.get_value_string()
        if str(override.value()) not in files.choices(group):
            raise ConfigError(no_choice(group, text, files))


def _refuse_wrong_kinds(root: str, plain: Sequence[str], files: ConfigFiles) -> None:
    """Raise ConfigError where a number or a switch of conf gets another kind of value."""
    choices = []
    suspects = []
    for word in plain:
        override = OverridesParser.create().parse_override(word)
        key = override.get_key_element().lstrip("+~")
        group = key.partition("@")[0]
        if files.has_group(group):
            choices.append(word)
        elif not override.is_delete():
            suspects.append(override)
    if not suspects:
        return
    defaults = compose(root, choices)
    for override in suspects:
        key = override.get_key_element().lstrip("+")
        _refuse_wrong_kind(key, override, default_value(defaults, key))


def _refuse_wrong_kind(
    key: str,
    override: Override,
    default: object,
) -> None:
    value = override.value()
    text = override.get_value_string()
    _refuse_in_place_of_several(key, override, default)
    is_interpolation = "${" in str(value)
    # Whether a part takes null, its class says.
    may_be_null = value is None and "." in key
    if not is_interpolation and not may_be_null and isinstance(default, bool | int | float):
        check_kind(key, type(default), value, text)


def _refuse_in_place_of_several(
    key: str,
    override: Override,
    default: object,
) -> None:
    """Raise ConfigError for one value in place of a list, or of a mapping with several settings."""
    text = override.get_value_string()
    if override.value() is None or isinstance(override.value(), dict):
        return
    is_bound = key.startswith("space.bounds.")  # a plain value fixes a hyperparameter
    if isinstance(default, DictConfig) and not is_bound:
        names = [name for name in map(str, default) if not name.startswith("_")]
        first = (names or ["NAME"])[0]
        raise ConfigError(f"{key} holds settings, such as {key}.{first}=VALUE, but is {text}.")
    if isinstance(default, ListConfig) and not isinstance(override.value(), list):
        raise ConfigError(f"{key} must be a list, such as [{text}], but is {text}.")


def default_value(config: DictConfig, key: str) -> object:
    """Return the value of a key in conf; None where it follows from another key."""
    node, last = parent_of(config, key)
    if not isinstance(node, DictConfig) or last not in node:
        return None
    if OmegaConf.is_missing(node, last):
        return None
    if OmegaConf.is_interpolation(node, last):
        return None
    return node[last]


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


def _one_sentence(
    error: Exception,
    root: str,
    overrides: Sequence[str],
    files: ConfigFiles,
) -> str:
    """Return the part of an error of Hydra that a person needs."""
    text = str(error)
    if isinstance(error.__cause__, OmegaConfBaseException):
        text = str(error.__cause__)
    if "'hydra/launcher/submitit_" in text and find_spec("submitit") is None:
        return (
            "hydra/launcher=slurm needs hydra-submitit-launcher, which is not installed: "
            f"{installing('cluster')}."
        )
    absent = re.search(r"Could not find '((?:hydra/)?\w+)/([^']*)'", text)
    if absent:
        return no_choice(absent[1], absent[2], files)
    key = re.search(r"Key '([^']+)' is not in struct\s*full_key: (\S+)", text)
    if key:
        return _unknown_key(key[2], root, overrides, files)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return _unknown_key(unknown[1], root, overrides, files)
    required = re.search(r"You must specify '(\w+)'", text)
    if required:
        name = required[1]
        hint = did_you_mean("", files.choices(name))
        return f"{name} must be given: {name}=NAME.{hint}"
    of_hydra = re.search(r"full_key: (hydra\.\S+)", text)
    if of_hydra:
        said = text.partition("full_key:")[0].strip()
        text = f"{of_hydra[1]} cannot be set so: {said}."
    without_link = text.split("See https://")[0]
    without_hint = without_link.split("Set the environment")[0]
    return re.sub(r"\s+", " ", without_hint).strip()


def _unknown_key(
    path: str,
    root: str,
    overrides: Sequence[str],
    files: ConfigFiles,
) -> str:
    if path == "experiment":  # the only group for which conf/ has no files
        return (
            "There is no folder experiment: write experiment/NAME.yaml in a folder of your own, "
            "and give this folder as --config-dir=DIR."
        )
    return unknown_key(path, defaults_of(root, overrides, files))
