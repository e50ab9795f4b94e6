"""Run what `mlflow run` asks for: `python -m hpsearch.cli.project ENTRY_POINT --KEY VALUE ...`.

MLproject starts this module. `mlflow run` passes each `-P KEY=VALUE` as `--KEY VALUE`, where VALUE
may be any text. The module writes these pairs as a command line of hpsearch, with texts in quotes,
and replaces its process by that command, in the folder in which the person has typed `mlflow run`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import ListConfig

from hpsearch.cli.command_line import default_value, defaults_of, is_group
from hpsearch.cli.config_files import ConfigFiles
from hpsearch.cli.refused import refuse
from hpsearch.cli.terminal import Terminal
from hpsearch.command_form import Project, option_words, quoted
from hpsearch.errors import ConfigError

# Settings with these names hold text, though their default may be null.
_TEXTS = (
    *("path", "uri", "url", "name", "experiment"),
    *("study", "from_study", "warm_start", "warm_storage"),
)


def main() -> None:
    """Replace this process by the hpsearch command of an entry point of MLproject."""
    entry_point, *words = sys.argv[1:]
    file = Path.cwd() / "MLproject"
    options = ["."]
    process = _mlflow_run()
    if process is None:
        Terminal().say(f"The process of mlflow run was not found; all is written to {Path.cwd()}.")
    else:
        command = process.cmdline()
        options = option_words(command[_place_of_run(command) :])
        os.chdir(process.cwd())
    project = Project(str(file), options, os.environ.get("MLFLOW_RUN_ID"))
    project.remember()
    pairs = list(zip(words[::2], words[1::2], strict=True))
    try:
        line = command_line(project, entry_point, pairs)
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
) -> list[str]:
    """Return the words of hpsearch's command line for what `mlflow run` has passed.

    Args:
        project: The command that has started this process.
        entry_point: The entry point of MLproject.
        pairs: `--KEY` and VALUE of each parameter; the last of a key counts.
    """
    values = {key.removeprefix("--"): value for key, value in pairs}
    for parameter in project.parameters(entry_point):
        # `null` stands for a value that is not given, which the configuration may require.
        if parameter.default == "null" and values.get(parameter.key) == "null":
            del values[parameter.key]
    if entry_point == "doctor":
        return _doctor(values)
    if entry_point == "sweep":
        return ["search", "-m", *_overrides("search", values, is_sweep=True)]
    job = entry_point
    if entry_point == "main":
        job = "search"
    return [job, *_overrides(job, values)]


def _doctor(values: Mapping[str, str]) -> list[str]:
    """Return the command line of the doctor, whose own words are no settings."""
    settings = dict(values)
    words = ["doctor", *settings.pop("command", "compare").split()]
    repair = settings.pop("repair", "false")
    if repair.lower() not in ("true", "false"):
        raise ConfigError(f"repair must be true or false, but is {repair}.")
    if repair.lower() == "true":
        words.append("--repair")
    return [*words, *_overrides("search", settings)]


def _overrides(
    root: str,
    values: Mapping[str, str],
    *,
    is_sweep: bool = False,
) -> list[str]:
    """Return `KEY=VALUE` in the form that Hydra reads, for each setting."""
    files = ConfigFiles()
    defaults = defaults_of(root, [f"{key}={value}" for key, value in values.items()], files)
    overrides = []
    for key, value in values.items():
        written = value
        if value not in ("", "null") and not is_group(key, files):
            written = _as_value(key, value, default_value(defaults, key), is_sweep=is_sweep)
        overrides.append(f"{key}={written}")
    return overrides


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
    is_text = key.rpartition(".")[2] in _TEXTS or isinstance(default, str)
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
