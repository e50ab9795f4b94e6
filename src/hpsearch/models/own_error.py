"""Describe an error in a person's own code: what went wrong, in which file and line.

A person's model, loss, metric or `fit` may raise anything, and the error passes through Keras and
a backend before it is seen. `described` finds the person's own line in the traceback, and what
is wrong in a message that also tells of the library's inner parts.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hpsearch.models.own_code import is_own_file

_LONGEST = 300  # characters of a message
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<number>\d+)')


class _Line(NamedTuple):
    """A line of code: the path of its file, and its number from 1."""

    file: str
    number: int

    def text(self) -> str:
        """Return the line's code, at most 80 characters; empty where it is not known."""
        return linecache.getline(self.file, self.number).strip()[:80]


def described(error: BaseException) -> str:
    """Return the kind of an error, its message in one line, and the person's own line behind it.

    Such as `KeyError: 'units' (mymodel.py, line 12: layers.Dense(sizes["units"]))`. The place is
    left out where no own code is behind the error.
    """
    said = f"{type(error).__name__}: {_message(error)}".rstrip(" .:")
    line = _own_line(error)
    if line is None:
        return said
    place = f"{_shown(line.file)}, line {line.number}"
    text = line.text()
    if text:
        place += f": {text}"
    return f"{said} ({place})"


def _message(error: BaseException) -> str:
    """Return what is wrong, in one line."""
    text = re.sub(r"\x1b\[\d+m", "", str(error))  # Keras prints parts of its messages bold
    text = _without_node(text)
    if text.startswith("in user code:"):
        # TensorFlow puts its own list of lines before the message of the code that it has traced.
        text = text.strip().rpartition("\n\n")[2]
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    paragraphs = [part for part in paragraphs if part]
    if not paragraphs:
        return ""
    message = paragraphs[0]
    if message.startswith("Exception encountered when calling") and len(paragraphs) > 1:
        message = f"{message.rstrip('.')}: {paragraphs[1]}"
    if len(message) > _LONGEST:
        return f"{message[:_LONGEST]} …"
    return message


def _without_node(text: str) -> str:
    """Return a message of TensorFlow without the graph's node that raised it and its lines.

    The message has the node first, then the lines of code that have made it, each with its source,
    and the reason after the last of them.
    """
    text = re.sub(r"\{\{function_node [^}]*\}\}\s*", "", text)
    if "Detected at node" in text:
        frames = list(_FRAME.finditer(text))
        if frames:
            _frame, _, below = text[frames[-1].start() :].partition("\n")
            _source, _, rest = below.partition("\n")
            text = rest.strip() or text
    return re.split(r"\n?\t? ?\[\[\{\{node|\s*\[Op:", text)[0].strip()


def _own_line(error: BaseException) -> _Line | None:
    """Return the innermost line of the person's own code behind an error, or None."""
    causes = list(_chain(error))
    for cause in reversed(causes):
        found = None
        for line in (*_lines_of_traceback(cause), *_lines_in_message(cause)):
            if is_own_file(line.file):
                found = line
        if found is not None:
            return found
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and the errors that have caused it."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        following = cause.__cause__
        if following is None and not cause.__suppress_context__:
            following = cause.__context__
        cause = following


def _lines_of_traceback(error: BaseException) -> Iterator[_Line]:
    traceback = error.__traceback__
    while traceback is not None:
        yield _Line(traceback.tb_frame.f_code.co_filename, traceback.tb_lineno)
        traceback = traceback.tb_next


def _lines_in_message(error: BaseException) -> Iterator[_Line]:
    """Yield the lines of code that a message names, as TensorFlow's messages do."""
    for found in _FRAME.finditer(str(error)):
        yield _Line(found["file"], int(found["number"]))


def _shown(file: str) -> str:
    """Return a path as a person looks for it: from the current folder, if it is below that."""
    path = Path(file)
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return file
