"""Look whether a SQLite file can be written, and wait while another process keeps it locked."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from hpsearch.disks import why_not_written


def check_file(
    path: Path,
    patience_s: float,
    say: Callable[[str], object],
) -> None:
    """Check that a SQLite file can be written, or made where it does not exist; nothing is made.

    Args:
        path: The file.
        patience_s: How long a lock of another process is waited for, in seconds.
        say: Called with a sentence once, where it is waited for longer than a moment.

    Raises:
        TimeoutError: It is locked for longer; the message is a part of a sentence.
        OSError: It cannot be used for another reason; the message is a part of a sentence.
    """
    check_folder(path)
    if not path.exists():
        return
    if not path.is_file():
        raise OSError(f"{path} is no file")
    begin = time.monotonic()
    is_told = False
    while _is_locked(path):
        waited_s = time.monotonic() - begin
        if waited_s > patience_s:
            raise TimeoutError(f"another process has kept it locked for {waited_s:.0f} seconds")
        if waited_s > 1 and not is_told:
            is_told = True
            say(f"{path} is locked by another process; waiting up to {patience_s:g} seconds.")
        time.sleep(0.1)


def check_folder(path: Path) -> None:
    """Raise OSError where a file cannot be written or made at `path`."""
    folder = path.absolute().parent
    reason = why_not_written(folder)
    if reason is not None:
        raise OSError(f"nothing can be written into the folder {folder}: {reason}")
    if path.exists() and not os.access(path, os.W_OK):
        raise OSError(f"{path} cannot be written")


def _is_locked(path: Path) -> bool:
    """Return whether another process keeps a file from being written.

    The lock of a writer is taken and given back.

    Raises:
        OSError: It cannot be written for another reason.
    """
    uri = f"file:{quote(str(path.absolute()))}?mode=rw"
    try:
        with closing(sqlite3.connect(uri, timeout=0, isolation_level=None, uri=True)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
    except sqlite3.Error as error:
        said = str(error)
        if "locked" in said:
            return True
        if "readonly" in said:
            said = f"{path} cannot be written"
        elif "not a database" in said:
            said = f"{path} is no SQLite database"
        raise OSError(said) from error
    return False
