"""Completion of a command line in a shell: jobs and options here, settings by Hydra.

`hpsearch -sc install=bash` prints what a shell must run once. The shell then calls
`hpsearch -sc query=bash` at each Tab, with the line so far in the environment variable COMP_LINE.
What cannot be completed is answered with nothing, since an error would be printed into the line
that the person is typing.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO

from hpsearch.errors import ConfigError

_OPTIONS: tuple[str, ...] = (
    "--cfg",
    "--config-dir",
    "--help",
    "--json",
    "--multirun",
    "--package",
    "--quiet",
    "--verbose",
)
_OPTIONS_OF_DOCTOR = ("--config-dir", "--help", "--json", "--quiet", "--repair", "--verbose")
_OPTIONS_WITHOUT_JOB = ("--help", "--version")
_COMMANDS_OF_DOCTOR = ("compare", "explain", "replay", "sync")


def is_asked_for(words: Sequence[str]) -> bool:
    """Return whether a command line is one of those of this module."""
    return words[0] in ("-sc", "--shell-completion")


def answer(words: Sequence[str], jobs: Sequence[str]) -> None:
    """Print what installs the completion, or the words that may stand at the end of the line.

    Args:
        words: The command line, such as `-sc query=bash`.
        jobs: The names of all jobs.

    Raises:
        ConfigError: It is another command line, or names another shell.
    """
    asked, _, shell = "".join(words[1:]).partition("=")
    if asked not in ("install", "uninstall", "query") or shell not in ("bash", "zsh", "fish"):
        raise ConfigError(
            "Expected -sc install=SHELL, where SHELL is bash, zsh or fish; received "
            f"{' '.join(words)}."
        )
    if asked == "query":
        said = ""
        with _silence():
            said = _ends(words, _typed(), jobs)
        print(said)
        return
    if words[1:] == ["install=zsh"]:
        print("autoload -Uz bashcompinit && bashcompinit")
    # Any job prints the same lines, which complete the command of this name.
    sys.argv = ["hpsearch", *words]
    importlib.import_module("hpsearch.cli.search").main()


def _typed() -> list[str]:
    """Return the words of the line up to the cursor; the last one is empty after a space."""
    line = os.environ.get("COMP_LINE", "")
    place = os.environ.get("COMP_POINT", "")
    if place.isdigit():
        line = line[: int(place)]
    words = line.split()
    if not line or line[-1].isspace():
        words.append("")
    return words


@contextmanager
def _silence() -> Iterator[None]:
    """Let nothing that fails within the block reach the terminal."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    with suppress(Exception, SystemExit):
        yield


def _ends(words: Sequence[str], typed: Sequence[str], jobs: Sequence[str]) -> str:
    """Return the words, a line each, that may stand in place of the last one of the line."""
    _, *behind = typed
    begun = typed[-1]
    if len(behind) < 2:
        return _beginning_with(begun, [*jobs, *_OPTIONS_WITHOUT_JOB])
    job = behind[0]
    if job not in jobs:
        return ""
    options = _OPTIONS
    root = job
    if job == "doctor":
        options = _OPTIONS_OF_DOCTOR
        root = "search"  # the doctor's settings are those of a search
    if begun.startswith("-"):
        return _beginning_with(begun, options)
    found = []
    if job == "doctor" and not any(word in _COMMANDS_OF_DOCTOR for word in behind[1:-1]):
        found.append(_beginning_with(begun, _COMMANDS_OF_DOCTOR))
    found.append(_settings(words, root, behind[1:]))
    return "\n".join(filter(None, found))


def _beginning_with(begun: str, names: Sequence[str]) -> str:
    """Return those names, a line each, that begin like the last word.

    Options are among them only if the last word begins one.
    """
    fitting = []
    for name in names:
        if name.startswith(begun) and (begun or not name.startswith("-")):
            fitting.append(name)
    return "\n".join(fitting)


def _settings(words: Sequence[str], root: str, behind: Sequence[str]) -> str:
    """Return what Hydra suggests for the last word, given the settings before it.

    Args:
        words: The command line, such as `-sc query=bash`.
        root: The name of the configuration.
        behind: The words behind the job.
    """
    options = [word for word in behind[:-1] if word.startswith("--config-dir=")]
    # Choices of groups decide which keys there are; Hydra answers nothing if it cannot read a word.
    kept = [word for word in behind[:-1] if re.fullmatch(r"[\w./@]+=[\w./]+", word, re.ASCII)]
    os.environ["COMP_LINE"] = " ".join(["hpsearch", *kept, behind[-1]])
    sys.argv = ["hpsearch", *words, *options]
    printed = StringIO()
    with redirect_stdout(printed):
        importlib.import_module(f"hpsearch.cli.{root}").main()
    found = printed.getvalue().split()
    return "\n".join(name for name in found if not re.search(r"(^|\.)(_|hydra\b)", name))
