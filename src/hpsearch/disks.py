"""Disks that are full or cannot be written: found before a search, and told once during it."""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

from hpsearch.errors import ConfigError

_BLOCK = 4096  # bytes; most file systems give room in such pieces


def check_folder(folder: Path, cure: str) -> None:
    """Check that files can be written into a folder, or made there where it does not exist.

    Nothing stays there.

    Args:
        folder: The folder.
        cure: What the person can do, such as `tracking.spool=FOLDER names another one`.

    Raises:
        ConfigError: Nothing can be written there.
    """
    reason = why_not_written(folder)
    if reason is not None:
        raise ConfigError(f"Nothing can be written into the folder {folder} ({reason}); {cure}.")


def why_not_written(folder: Path) -> str | None:
    """Return why no file can be written into a folder, or made there where it does not exist.

    Nothing stays there. Where a file can be written, the answer is None.
    """
    place = folder.absolute()
    try:
        while not place.exists():
            place = place.parent
        # The file has no name, so it leaves nothing behind.
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(_BLOCK))
            file.flush()
    except OSError as error:
        return str(error.strerror)
    return None


class Trouble:
    """A trouble that passes: one warning when it begins and one when it is over.

    What happens in between goes to the log file, with tracebacks.

    Args:
        name: The name of the logger.
        calm_s: For how many seconds nothing must have failed before the trouble is over. A disk
            that is nearly full has room and none by turns.
    """

    def __init__(self, name: str, calm_s: float = 60.0) -> None:
        self._logger = logging.getLogger(name)
        self._calm_s = calm_s
        self._is_told = False
        self._last = 0.0  # when it failed last, on the clock of `time.monotonic`

    def begins(self, sentence: str, error: BaseException) -> None:
        """Tell that something failed, if it has not been told."""
        self._last = time.monotonic()
        if not self._is_told:
            self._is_told = True
            self._logger.warning(sentence)
        self._logger.info(sentence, exc_info=error)

    def ends(self, sentence: str) -> None:
        """Tell that it works again, if it was told that it did not."""
        if self._is_told and time.monotonic() - self._last >= self._calm_s:
            self._is_told = False
            self._logger.warning(sentence)
