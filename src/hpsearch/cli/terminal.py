"""Where an entry script writes: to a person, to nobody (`--quiet`), or one JSON object for a script
(`--json`).
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

FORM = "HPSEARCH_OUTPUT"  # an environment variable, which the processes of a sweep inherit
FLAGS = {"--quiet": "quiet", "--json": "json"}


def take_flags(words: Sequence[str]) -> list[str]:
    """Remember `--quiet` or `--json` for this process and those that it starts; return the other
    words.
    """
    for word in words:
        if word in FLAGS:
            os.environ[FORM] = FLAGS[word]
    return [word for word in words if word not in FLAGS]


class Terminal:
    """What a command says on stdout, and its mistakes on stderr.

    Attributes:
        console: For people; a quiet one where the output is for scripts.
    """

    def __init__(self, width: int | None = None) -> None:
        """Args: width: Columns where stdout is no terminal."""
        self._form = os.environ.get(FORM, "")
        self.console = Console(
            highlight=False, quiet=bool(self._form), width=None if sys.stdout.isatty() else width
        )
        self._errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

    def say(self, sentence: str) -> None:
        """Print a line for people."""
        self.console.print(sentence, markup=False, soft_wrap=True)

    def result(self, facts: Mapping[str, Any]) -> None:
        """Print the command's one JSON object, where that is asked for; numbers that are not finite
        become null.
        """
        if self._form == "json":
            print(json.dumps(_plain(facts)), flush=True)

    def end(self, sentence: str, exit_status: int) -> SystemExit:
        """Say why the command ends early, and return the exit that it ends with."""
        self._errors.print(sentence)
        self.result({"error": sentence.strip().removeprefix("Error: "), "exit_status": exit_status})
        return SystemExit(exit_status)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
