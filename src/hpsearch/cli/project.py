"""Run what `mlflow run` asks for: `python -m hpsearch.cli.project ENTRY_POINT --KEY VALUE ...`.

MLproject starts this module. `mlflow run` passes each `-P KEY=VALUE` as `--KEY VALUE`, where VALUE
may be any text. The module writes these pairs as a command line of hpsearch, with texts in quotes,
and replaces its process by that command, in the folder in which the person has typed `mlflow run`.

The parameter `overrides` holds words of the hpsearch command that no other parameter can hold, such
as `++trainer.KEY=VALUE`, `~sampler` and `--config-dir=DIR`.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import psutil
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig

from hpsearch.cli.command_line import default_choice, default_value, defaults_of
from hpsearch.cli.config_files import ConfigFiles
from hpsearch.cli.refused import refuse
from hpsearch.cli.terminal import Terminal
from hpsearch.command_form import (
    OVERRIDES,
    Parameter,
    Project,
    holds_text,
    option_words,
    parameter_words,
    quoted,
)
from hpsearch.errors import ConfigError, did_you_mean, first_line

# The configuration of each entry point that has none of its own name.
_JOBS = {"main": "search", "sweep": "search", "doctor": "search"}


def main() -> None:
    """Replace this process by the hpsearch command of an entry point of MLproject."""
    entry_point, *words = sys.argv[1:]
    file = Path.cwd() / "MLproject"
    options = ["."]
    typed = None
    process = _mlflow_run()
    if process is None:
        Terminal().say(f"The process of mlflow run was not found; all is written to {Path.cwd()}.")
    else:
        command = process.cmdline()
        command = command[_place_of_run(command) :]
        options = option_words(command)
        typed = [word.partition("=")[0] for word in parameter_words(command)]
        os.chdir(process.cwd())
    project = Project(str(file), options, os.environ.get("MLFLOW_RUN_ID"))
    project.remember()
    pairs = list(zip(words[::2], words[1::2], strict=True))
    try:
        line = command_line(project, entry_point, pairs, typed)
    except ConfigError as error:
        refuse(project, str(error))
        raise Terminal().end(f"Error: {error}", error.exit_status) from None
    os.execv(sys.executable, [sys.executable, "-m", "hpsearch", *line])


def _mlflow_run() -> psutil.Process | None:
    """Return the process of `mlflow run`, or None where it is none of this process's parents."""
    for process in psutil.Process().parents():
        with suppress(psutil.Error):
            if _place_of_run(process.cmdline()):
                return process
    return None


def _place_of_run(command: Sequence[str]) -> int:
    """Return the place of the word `run` in an `mlflow run` command; 0 in any other command."""
    names = [Path(word).name for word in command]
    if "mlflow" not in names:
        return 0
    place = names.index("mlflow") + 1
    while place < len(command) and command[place].startswith("--env-file"):
        place += 1
        if command[place - 1] == "--env-file":
            place += 1
    if place < len(command) and command[place] == "run":
        return place
    return 0


def command_line(
    project: Project,
    entry_point: str,
    pairs: Sequence[tuple[str, str]],
    typed: Collection[str] | None = None,
) -> list[str]:
    """Return the words of hpsearch's command line for what `mlflow run` has passed.

    Args:
        project: The command that has started this process.
        entry_point: The entry point of MLproject.
        pairs: `--KEY` and VALUE of each parameter; the last of a key counts.
        typed: The names of the parameters that the person has given; None where they are unknown.

    Raises:
        ConfigError: A parameter has a value that no command can have.
    """
    values = {key.removeprefix("--"): value for key, value in pairs}
    others = _others(values.pop(OVERRIDES, ""))
    root = _JOBS.get(entry_point, entry_point)
    replaced = {_key_of(word) for word in others}
    known = _Defaults(root)
    _refuse_misspelt(project, entry_point, values, known)
    for parameter in project.parameters(entry_point):
        has_default = values.get(parameter.key) == parameter.default
        is_typed = typed is None or parameter.name in typed
        if has_default and _says_nothing(parameter, is_typed, replaced, known):
            del values[parameter.key]
    if entry_point == "doctor":
        words = _words_of_doctor(values)
    elif entry_point == "sweep":
        words = ["search", "-m"]
    else:
        words = [root]
    overrides = _overrides(root, values, others, is_sweep=entry_point == "sweep")
    return [*words, *overrides, *others]


def _says_nothing(
    parameter: Parameter,
    is_typed: bool,
    replaced: Collection[str],
    known: _Defaults,
) -> bool:
    """Return whether the default of a parameter can be left out of the command line."""
    # `null` stands for a value that is not given, which the configuration may require.
    if parameter.default == "null" or parameter.key in replaced:
        return True
    return not is_typed and known.say(parameter.key, parameter.default)


def _others(text: str) -> list[str]:
    """Return the words in the parameter `overrides`.

    Raises:
        ConfigError: A quotation mark has no partner.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(
            f"{OVERRIDES}={text} cannot be split into words: {first_line(error)}."
        ) from error


def _key_of(word: str) -> str:
    """Return the key that a word of the command line sets, adds or deletes."""
    return word.partition("=")[0].lstrip("+~")


def _refuse_misspelt(
    project: Project,
    entry_point: str,
    values: Mapping[str, str],
    known: _Defaults,
) -> None:
    """Raise ConfigError for a name that is no setting but nearly that of a parameter."""
    parameters = project.parameters(entry_point)
    names = [item.name for item in parameters]
    keys = {item.key for item in parameters}
    for name in values:
        if name in keys or "." in name or known.has(name):
            continue
        hint = did_you_mean(name, names)
        if "Did you mean" in hint:
            raise ConfigError(f"The entry point {entry_point} has no parameter {name}.{hint}")


class _Defaults:
    """What the configuration of a job says without any override.

    Args:
        root: The name of the configuration.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._files = ConfigFiles()

    def say(self, key: str, text: str | None) -> bool:
        """Return whether the configuration has a value, or takes a choice, that is written so."""
        if self._files.is_group(key):
            try:
                return default_choice(self._root, key) == text
            except ValueError:  # a group of Hydra's own
                return False
        default = default_value(self._composed, key)
        return default is not None and str(default) == text

    def has(self, key: str) -> bool:
        """Return whether a key is a group or stands at the top of the configuration."""
        return self._files.is_group(key) or key in self._composed

    @cached_property
    def _composed(self) -> DictConfig:
        return defaults_of(self._root, [], self._files)


def _words_of_doctor(values: dict[str, str]) -> list[str]:
    """Return the doctor's own words, which are no settings, and take them out of the values."""
    words = ["doctor", *values.pop("command", "compare").split()]
    repair = values.pop("repair", "false")
    if repair.lower() not in ("true", "false"):
        raise ConfigError(f"repair must be true or false, but is {repair}.")
    if repair.lower() == "true":
        words.append("--repair")
    return words


def _overrides(
    root: str,
    values: Mapping[str, str],
    others: Sequence[str],
    *,
    is_sweep: bool = False,
) -> list[str]:
    """Return `KEY=VALUE` in the form that Hydra reads, for each setting."""
    files = ConfigFiles.of(_config_dir(others))
    typed = [f"{key}={value}" for key, value in values.items()]
    defaults = defaults_of(root, [*typed, *others], files)
    overrides = []
    for key, value in values.items():
        written = value
        if value not in ("", "null") and not files.is_group(key):
            written = _as_value(key, value, default_value(defaults, key), is_sweep=is_sweep)
        overrides.append(f"{key}={written}")
    return overrides


def _config_dir(words: Sequence[str]) -> str | None:
    """Return what the option `--config-dir=DIR` names; None without it."""
    for word in words:
        if word.startswith("--config-dir="):
            return word.partition("=")[2]
    return None


def _as_value(
    key: str,
    value: str,
    default: object,
    *,
    is_sweep: bool,
) -> str:
    """Return a value in the form that Hydra reads.

    A setting that holds text gets the text as it is, whatever characters it has. Elsewhere numbers,
    lists and mappings are read as Hydra reads them, and all that Hydra cannot read is text.

    Args:
        key: The setting.
        value: What the person has typed.
        default: The value that the configuration has by default.
        is_sweep: Whether values with commas are several values.
    """
    has_list = isinstance(default, ListConfig) or key in ("studies", "levels")
    if has_list and not value.startswith("["):
        return f"[{value}]"
    is_text = holds_text(key) or isinstance(default, str)
    try:
        override = OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException:
        return quoted(value)
    if override.is_sweep_override():
        is_read = is_sweep and not is_text
    elif isinstance(override.value(), str):
        is_read = override.value() == value
    else:
        is_read = not is_text
    if is_read:
        return value
    return quoted(value)


if __name__ == "__main__":
    main()
