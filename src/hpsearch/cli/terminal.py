"""Print the output of a command: text for people, nothing (`--quiet`) or JSON (`--json`)."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import ClassVar

from rich.console import Console

from hpsearch.command_form import in_form


class Terminal:
    """Prints the output of a command on stdout and its mistakes on stderr.

    Args:
        width: The number of columns where stdout is not a terminal; None lets rich choose.

    Attributes:
        console: Prints for people. It is quiet where the output is for scripts.
        FORM: The environment variable that holds the form of the output. The processes of a sweep
            inherit it.
    """

    FORM: ClassVar[str] = "HPSEARCH_OUTPUT"

    def __init__(self, width: int | None = None) -> None:
        self._form = os.environ.get(self.FORM, "")
        if sys.stdout.isatty():
            width = None
        self.console = Console(highlight=False, quiet=bool(self._form), width=width)
        self._errors = Console(
            stderr=True,
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    @classmethod
    def take_flags(cls, words: Sequence[str]) -> list[str]:
        """Return the words without `--quiet` and `--json`.

        The flag is remembered for this process and for the processes that it starts.
        """
        flags = {"--quiet": "quiet", "--json": "json"}
        for word in words:
            if word in flags:
                os.environ[cls.FORM] = flags[word]
        return [word for word in words if word not in flags]

    def say(self, sentence: str) -> None:
        """Print a line for people."""
        self.console.print(sentence, markup=False, soft_wrap=True)

    def result(self, summary: Mapping[str, object]) -> None:
        """Print the result of the command as one JSON object, if `--json` was given.

        Numbers that are not finite become null.
        """
        if self._form == "json":
            text = json.dumps(_plain(summary))
            print(text, flush=True)

    def end(self, sentence: str, exit_status: int) -> SystemExit:
        """Print why the command ends early, and return the exit that the caller must raise."""
        sentence = in_form(sentence)
        self._errors.print(sentence)
        error = sentence.strip().removeprefix("Error: ")
        self.result({"error": error, "exit_status": exit_status})
        return SystemExit(exit_status)


def _plain(value: object) -> object:
    """Return a value that JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if not isinstance(value, float):
        return value
    if math.isfinite(value):
        return float(value)
    return None
