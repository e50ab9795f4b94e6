"""Print the output of a command: text for people, nothing (`--quiet`) or JSON (`--json`)."""

from __future__ import annotations

import codecs
import io
import json
import math
import os
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import ClassVar, cast

from rich.console import Console

from hpsearch.command_form import in_form
from hpsearch.standard_error import standard_error

_READABLE = "hpsearch.readable"  # the name of an error handler of codecs
_IN_ASCII = {
    "\N{MULTIPLICATION SIGN}": "x",
    "→": "->",
    "←": "<-",
    "\N{EN DASH}": "-",
    "—": "-",
    "\N{MINUS SIGN}": "-",
    "±": "+-",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "·": "*",
    "•": "*",
    "√": "sqrt",
    "ß": "ss",
    "\N{LEFT SINGLE QUOTATION MARK}": "'",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "“": '"',
    "”": '"',
    "█": "#",
    "━": "-",
    "─": "-",
    "│": "|",
}


class Terminal:
    """Prints the output of a command on stdout and its mistakes on stderr.

    Args:
        width: The number of columns where stdout is not a terminal; None lets rich choose.

    Attributes:
        console: Prints for people. It is quiet where the output is for scripts.
        FORM: The environment variable that holds the form of the output. The processes of a sweep
            inherit it.
        VERBOSE: The environment variable that is set where libraries shall be heard too.
    """

    FORM: ClassVar[str] = "HPSEARCH_OUTPUT"
    VERBOSE: ClassVar[str] = "HPSEARCH_VERBOSE"

    def __init__(self, width: int | None = None) -> None:
        self._form = os.environ.get(self.FORM, "")
        if sys.stdout.isatty():
            width = None
        self.console = Console(highlight=False, quiet=bool(self._form), width=width)

    @classmethod
    def take_flags(cls, words: Sequence[str]) -> list[str]:
        """Return the words without `--quiet`, `--json` and `-v` or `--verbose`.

        The flag is remembered for this process and for the processes that it starts.
        """
        flags = {
            "--quiet": (cls.FORM, "quiet"),
            "--json": (cls.FORM, "json"),
            "-v": (cls.VERBOSE, "1"),
            "--verbose": (cls.VERBOSE, "1"),
        }
        for word in words:
            if word in flags:
                name, value = flags[word]
                os.environ[name] = value
        return [word for word in words if word not in flags]

    @property
    def is_verbose(self) -> bool:
        """Whether what libraries say is shown too."""
        return os.environ.get(self.VERBOSE, "") not in ("", "0")

    @property
    def is_for_scripts(self) -> bool:
        """Whether people read nothing of this command but its mistakes."""
        return bool(self._form)

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

    def mistake(self, sentence: str) -> str:
        """Print on stderr what went wrong, and return it as it was printed."""
        said = in_form(sentence)
        errors = Console(
            file=standard_error.terminal,
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        errors.print(said)
        return said

    def warn(self, sentence: str) -> None:
        """Print a warning on stderr, or above the live view of a search where there is one."""
        if self.console.is_terminal and not self.is_for_scripts:
            self.say(in_form(sentence))
        else:
            self.mistake(sentence)

    def end(self, sentence: str, exit_status: int) -> SystemExit:
        """Print why the command ends early, and return the exit that the caller must raise."""
        error = self.mistake(sentence).strip().removeprefix("Error: ")
        with suppress(OSError):  # it may be stdout itself that cannot be written
            self.result({"error": error, "exit_status": exit_status})
        return SystemExit(exit_status)


def write_readably() -> None:
    """Let stdout and stderr write what their encoding lacks in letters that it has.

    Words of the command line that Python could not decode, as in the locale C, are read as UTF-8.
    """
    codecs.register_error(_READABLE, _readable)
    for stream in (sys.stdout, sys.stderr):
        is_text_file = isinstance(stream, io.TextIOWrapper)
        if is_text_file and not stream.encoding.lower().startswith("utf"):
            cast("io.TextIOWrapper", stream).reconfigure(errors=_READABLE)
    for place, word in enumerate(sys.argv):
        with suppress(UnicodeError):
            sys.argv[place] = word.encode("utf-8", "surrogateescape").decode("utf-8")


def _readable(error: UnicodeError) -> tuple[str, int]:
    """Return ASCII for the characters that an encoding lacks, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    said = ""
    for character in error.object[error.start : error.end]:
        plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
        said += _IN_ASCII.get(character) or plain or "?"
    return said, error.end


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
