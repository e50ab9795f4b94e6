"""Check and repair a study and its MLflow runs, and explain its suggestions.

    hpsearch doctor [compare] [--repair] [KEY=VALUE ...]
        Check whether the study, MLflow and SLURM agree.
    hpsearch doctor sync [KEY=VALUE ...]
        Send to MLflow what dead workers have left in the spool.
    hpsearch doctor replay [KEY=VALUE ...]
        Compute every suggestion again.
    hpsearch doctor explain NUMBER [KEY=VALUE ...]
        Explain why a trial had its values, and how it ended.

KEY=VALUE are the settings of the search, such as arch=selu storage=postgres study.name=NAME. The
exit status is 1 where something disagrees.
"""

from __future__ import annotations

import argparse
import re
import sys
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import hydra

from hpsearch.backend import check_backend
from hpsearch.cli import entry
from hpsearch.cli.building import as_plain
from hpsearch.cli.command_line import as_overrides, composed, of_option
from hpsearch.cli.log import Log
from hpsearch.cli.servers import check_servers
from hpsearch.cli.terminal import Terminal
from hpsearch.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    # This module imports Optuna and MLflow, and a typo must be answered before that.
    from hpsearch.jobs.doctor import Doctor


def main() -> None:
    """Run one command and end with its exit status."""
    entry.prepare_environment()
    words = Terminal.take_flags(sys.argv[1:])
    with Log.without_folder(Terminal()).kept() as log, entry.ending(log):
        given = _parsed(words)
        names = []
        settings = []
        for word in given.words:
            if "=" in word or word.startswith("~"):
                settings.append(word)
            else:
                names.append(word)
        commands = ("compare", "sync", "replay", "explain")
        command = "compare"
        if names:
            command = names[0]
        if command not in commands:
            hint = did_you_mean(command, commands)
            raise ConfigError(f"There is no command {command!r}.{hint}")
        number = _number(command, names[1:])
        overrides = as_overrides(settings)
        if given.config_dir is not None:
            overrides.append(f"--config-dir={given.config_dir}")
        config = as_plain(composed("search", overrides))
        check_backend()
        check_servers(config, Terminal().say)

        # Importing this takes seconds, which a typo must not cost.
        from hpsearch.jobs.doctor import Doctor  # noqa: PLC0415

        build = partial(hydra.utils.instantiate, _convert_="all")
        doctor = Doctor(config, build)
        status = _run(doctor, command, number, given.repair)
        sys.exit(status)


def _run(
    doctor: Doctor,
    command: str,
    number: int,
    repair: bool,
) -> int:
    """Run a command and return its exit status."""
    terminal = Terminal()
    if command == "compare":
        return _compare(doctor, repair, terminal)
    if command == "replay":
        return _replay(doctor, terminal)
    if command == "sync":
        _sync(doctor, terminal)
    else:
        _explain(doctor, number, terminal)
    return 0


def _parsed(words: list[str]) -> argparse.Namespace:
    """Return the options and the other words of a command line."""
    parser = argparse.ArgumentParser(
        usage=argparse.SUPPRESS,  # the description has it
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repair", action="store_true", help="make study and MLflow agree")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of configuration files")
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.error = _refuse  # type: ignore[method-assign]
    return parser.parse_args(words)


def _refuse(message: str) -> NoReturn:
    """Raise ConfigError in place of argparse's own ending, which prints a page."""
    option = re.match(r"argument (--[\w-]+): (.*)", message)
    if option is not None:
        raise ConfigError(of_option(option[1], option[2]))
    raise ConfigError(f"Expected COMMAND [--repair] [KEY=VALUE ...], but {message}; see --help.")


def _number(command: str, words: list[str]) -> int:
    """Return the number of the trial that a command explains; 0 for the other commands."""
    if command != "explain":
        if words:
            raise ConfigError(
                f"The command {command} takes settings, KEY=VALUE, but received {words[0]!r}."
            )
        return 0
    has_number = len(words) == 1 and re.fullmatch(r"\d{1,18}", words[0], re.ASCII)
    if not has_number:
        raise ConfigError("explain needs the number of a trial, such as: explain 17.")
    return int(words[0])


def _compare(doctor: Doctor, repair: bool, terminal: Terminal) -> int:
    """Print what disagrees and what was put right; return 1 where something still disagrees."""
    findings = []
    status = 0
    for text, cure in doctor.compare(repair):
        terminal.say(f"{text} {cure}".rstrip())
        findings.append({"says": text, "is_repaired": bool(cure)})
        if not cure:
            status = 1
    if not findings:
        terminal.say(f"Study {doctor.name} and MLflow agree.")
    terminal.result({"study": doctor.name, "findings": findings})
    return status


def _sync(doctor: Doctor, terminal: Terminal) -> None:
    n_sent = doctor.sync()
    said = "Nothing waits."
    if n_sent:
        said = f"{n_sent} runs were sent."
    terminal.say(said)
    terminal.result({"n_sent": n_sent})


def _replay(doctor: Doctor, terminal: Terminal) -> int:
    """Print the suggestions that differ when they are computed again; return 1 if there are any."""
    n_same, differing = doctor.replay()
    for text in differing:
        terminal.say(text)
    terminal.say(
        f"The suggestions of {n_same} trials are the same again; "
        f"those of {len(differing)} trials differ."
    )
    terminal.result({"study": doctor.name, "n_same": n_same, "differing": differing})
    return int(bool(differing))


def _explain(doctor: Doctor, number: int, terminal: Terminal) -> None:
    sentences = doctor.explain(number)
    for sentence in sentences:
        terminal.say(sentence)
    terminal.result({"study": doctor.name, "trial": number, "says": sentences})
