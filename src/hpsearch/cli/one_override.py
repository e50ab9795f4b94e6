"""Read one override of a command line, `KEY=VALUE`, and answer one that cannot be read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, Transformer
from hydra.errors import HydraException

from hpsearch.cli.config_files import ConfigFiles
from hpsearch.command_form import holds_text, quoted
from hpsearch.errors import ConfigError, did_you_mean, first_line

_EXAMPLES = {
    "search": "arch=selu",
    "evaluate": "registered_model=digits-selu",
    "report": "study=digits-selu",
    "ablate": "ablation=momentum",
    "compare": "archs=[elu,selu]",
}


def for_one_job(
    root: str,
    files: ConfigFiles,
    word: str,
    is_multirun: bool,
) -> str:
    """Return an override; of one that gives several values, the form of the first job.

    Raises:
        ConfigError: It gives several values, which needs `-m`.
    """
    override = _parsed(root, files, word)
    _refuse_list_of_choices(root, files, override)
    if not override.is_sweep_override():
        return word
    if isinstance(override.value(), Glob | IntervalSweep):
        key = override.get_key_element()
        raise ConfigError(
            f"{word} does not say which values are tried: write them out, -m {key}=VALUE,VALUE."
        )
    if is_multirun:
        return _first_choice(files, override)
    key, _, values = word.partition("=")
    advice = f"{key}=[{values}] for a list"
    if files.is_group(key):
        advice = f"{key}=NAME with one of them"
    elif holds_text(key):
        advice = f"{_in_shell(key, values)} for one text"
    if root == "search":
        raise ConfigError(
            f"{word} gives several values: add -m to run one search for each, or write {advice}."
        )
    raise ConfigError(f"{word} gives several values: write {advice}.")


def _in_shell(key: str, text: str) -> str:
    """Return an override that gives a text, as it is typed in a shell."""
    word = f"{key}={quoted(text)}"
    if set('"$`!\\') & set(word):
        return shlex.quote(word)
    return f'"{word}"'


def _refuse_list_of_choices(
    root: str,
    files: ConfigFiles,
    override: Override,
) -> None:
    """Raise ConfigError where a group gets a list, of which Hydra would take all or one."""
    key = override.get_key_element()
    if override.is_delete() or not files.is_group(key):
        return
    value = override.value()
    if not isinstance(value, list):
        return
    names = ",".join(str(name) for name in value)
    advice = f"write {key}=NAME"
    if root == "search" and names:
        advice = f"write -m {key}={names} to run one search for each"
    raise ConfigError(f"{key} takes one name, but is [{names}]: {advice}.")


def _parsed(
    root: str,
    files: ConfigFiles,
    word: str,
) -> Override:
    """Return what Hydra reads in an override."""
    has_form = word.find("=") > 0 or word.startswith("~")
    if not has_form or re.match(r"[^=]* =|[^=]*= ", word):
        example = _EXAMPLES[root]
        raise ConfigError(
            f"Expected KEY=VALUE without spaces, such as {example}; received {word!r}."
        )
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException as error:
        shown = _printable(word.lstrip("+"))
        key, _, value = shown.partition("=")
        if files.is_group(key):
            raise ConfigError(no_choice(key, value, files)) from error
        raise ConfigError(
            f"{shown} cannot be read ({_mistake(word, error)}); a text must be in quotes: "
            f"\"{key}='TEXT'\"."
        ) from error
    if override.is_delete():
        return override
    if override.get_value_string() in ("", "''"):
        key = override.get_key_element()
        if files.is_group(key):
            raise ConfigError(
                f"{key} has no value: write {key}=NAME.{did_you_mean('', files.choices(key))}"
            )
        raise ConfigError(f"{key} has no value: write {key}=VALUE, or {key}=null for none.")
    return override


def _printable(text: str) -> str:
    """Return a text in which line ends and the like are written as in Python."""
    return "".join(repr(sign)[1:-1] if not sign.isprintable() else sign for sign in text)


def _mistake(word: str, error: HydraException) -> str:
    """Return why Hydra cannot read an override, in words."""
    cause = error.__cause__
    if isinstance(cause, ValueError | TypeError):
        return first_line(cause)
    token = getattr(cause, "offendingToken", None)
    place = getattr(cause, "startIndex", getattr(token, "column", None))
    if place is None:
        extra = re.search(r"extraneous input '(.)", str(error))
        if extra is None:
            return "it ends too early"
        place = word.rindex(extra[1])
    while word[place : place + 1] == " ":
        place += 1
    if place >= len(word):
        return "it ends too early"
    sign = _printable(word[place])
    return f"{sign} cannot stand there as character {place + 1}"


def _first_choice(files: ConfigFiles, override: Override) -> str:
    """Return the first job's form of an override that sweeps: `arch=elu,selu` is `arch=elu`."""
    group = override.get_key_element()
    if files.has_group(group):
        known = files.choices(group)
        for value in swept(override):
            if value not in known:
                raise ConfigError(no_choice(group, value, files))
    first = next(swept(override))
    return f"{group}={first}"


def swept(override: Override) -> Iterator[str]:
    """Yield each value of an override that gives several."""
    for value in override.sweep_iterator(transformer=Transformer.encode):
        yield str(value)


def jobs_of(words: Sequence[str]) -> list[list[str]]:
    """Return the overrides of each job of a sweep, in the order in which Hydra numbers them."""
    overrides = OverridesParser.create().parse_overrides(list(words))
    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    return jobs


def no_choice(
    group: str,
    received: str,
    files: ConfigFiles,
) -> str:
    """Return the sentence that a group has no file of a name."""
    known = files.choices(group)
    return f"There is no {group}={received}.{did_you_mean(received, known)}"
