"""The log of a job: all that libraries say, with times, in a file beside the job's outputs.

The terminal shows only the sentences of hpsearch itself. With `-v` it shows the rest too.
"""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hpsearch.cli.terminal import Terminal
from hpsearch.secrets_in_text import without_secrets
from hpsearch.standard_error import standard_error

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# Libraries that speak while a search runs in a person's own program.
_SPEAKING = ("mlflow", "alembic", "absl", "optuna", "tensorflow", "jax")


class _Formatter(logging.Formatter):
    """Writes a record with its time, and without secrets."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


class _ToFile(logging.Handler):
    """Writes each record at once to an open file; a full disk loses records and nothing else."""

    def __init__(self, file: int) -> None:
        super().__init__()
        self._file = file
        self.setFormatter(_Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Exception):  # a record of a library may be wrongly made, and the disk full
            text = f"{self.format(record)}\n"
            os.write(self._file, text.encode("utf-8", "backslashreplace"))


class _ToTerminal(logging.Handler):
    """Shows a warning of hpsearch as a sentence, without a traceback."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(logging.WARNING)
        self._terminal = terminal

    def emit(self, record: logging.LogRecord) -> None:
        self._terminal.warn(without_secrets(record.getMessage()))


class Log:
    """The log of a job.

    Args:
        path: The file.
        terminal: Shows the sentences of hpsearch.

    Attributes:
        hint: Where the person finds more, as a sentence.
        is_needed: Whether the file stays.
    """

    def __init__(self, path: Path, terminal: Terminal) -> None:
        self._path = path
        self._terminal = terminal
        self.hint = f"{path} has the details."
        self.is_needed = True

    @classmethod
    def without_folder(cls, terminal: Terminal) -> Log:
        """Return a log in the temporary folder, for a command that has no folder of its own."""
        folder = Path(tempfile.gettempdir())
        log = cls(folder / f"hpsearch-{os.getpid()}.log", terminal)
        log.is_needed = False
        return log

    @contextmanager
    def kept(self) -> Iterator[Log]:
        """Write to the file all that libraries say in the block.

        The file is removed at the end if it is empty or not needed.
        """
        file = self._open()
        try:
            with _configured(file, self._terminal):
                where = standard_error.diverted(file)
                if self._terminal.is_verbose:
                    where = standard_error.shown()
                with where:
                    yield self
        finally:
            os.close(file)
            with suppress(OSError):
                if not self.is_needed or not self._path.stat().st_size:
                    self._path.unlink()

    def remove(self) -> None:
        """Remove the file; what is written after this is lost."""
        self._path.unlink(missing_ok=True)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        try:
            return os.open(self._path, flags, 0o666)
        except OSError as error:
            self.hint = f"The log {self._path} could not be written: {error.strerror}."
            return os.open(os.devnull, os.O_WRONLY)


def note(error: BaseException) -> None:
    """Write an error with its traceback to the log, and not to the terminal."""
    logger = logging.getLogger(__name__)
    logger.info("The job ends with an error.", exc_info=error)


@contextmanager
def _configured(file: int, terminal: Terminal) -> Iterator[None]:
    """Send the records of all loggers to a file, and warnings of hpsearch to the terminal too."""
    root = logging.getLogger()
    own = logging.getLogger("hpsearch")
    to_file = _ToFile(file)
    to_terminal = _ToTerminal(terminal)
    handlers = [(root, to_file), (own, to_terminal)]
    if terminal.is_verbose:
        shown = logging.StreamHandler()
        shown.setFormatter(_Formatter())
        handlers.append((root, shown))
    level = root.level
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    for logger, handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, handler in handlers:
            logger.removeHandler(handler)
        logging.captureWarnings(False)
        root.setLevel(level)


@contextmanager
def libraries_quiet() -> Iterator[None]:
    """Keep libraries quiet in the block, in a program of the person's own that has no `Log`.

    Their loggers let only errors pass, and warnings that nobody can act on are ignored. All other
    loggers, and the handlers of all, stay as they are.
    """
    if any(isinstance(handler, _ToFile) for handler in logging.getLogger().handlers):
        yield
        return
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")  # MLflow sets its level when imported
    levels = {name: logging.getLogger(name).level for name in _SPEAKING}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        # Optuna warns of its QMCSampler.
        warnings.filterwarnings("ignore", message=".* is experimental")
        for name in _SPEAKING:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
