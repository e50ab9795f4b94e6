"""What libraries say goes to the log of a job, and the terminal shows sentences alone."""

import errno
import logging
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from unittest import mock

import pytest

from conftest import SRC
from hpsearch.cli.log import Log, libraries_quiet
from hpsearch.cli.terminal import Terminal
from hpsearch.disks import Trouble, check_folder
from hpsearch.errors import ConfigError
from hpsearch.standard_error import standard_error


def speak():
    """Say something in each way that libraries have."""
    logging.getLogger("library").info("a record of https://me:hunter2@host")
    logging.getLogger("hpsearch.room").warning("a sentence")
    sys.stderr.write("a line\n")
    os.write(2, b"a native line\n")
    with standard_error.held_back():
        os.write(2, b"a line of an import\n")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("a warning", stacklevel=1)


def run(command, folder, env):
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


LIBRARIES = (
    "a record",
    "a line",
    "a native line",
    "a line of an import",
    "ZeroDivisionError",
    "a warning",
)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("is_verbose", [False, True])
def test_libraries_are_heard_in_the_log_and_with_v_on_the_terminal(is_verbose, tmp_path):
    code = "import test_log; from pathlib import Path\n"
    code += "with test_log.Log(Path('job.log'), test_log.Terminal()).kept(): test_log.speak()\n"
    code += "import os; os.write(2, b'over')"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(SRC), *sys.path])}
    env |= {Terminal.VERBOSE: str(int(is_verbose))}
    done = run([sys.executable, "-c", code], tmp_path, env)
    log = (tmp_path / "job.log").read_text()
    assert done.returncode == 0
    assert all((said in done.stderr) == is_verbose for said in LIBRARIES)
    if not is_verbose:
        assert done.stderr == "a sentence\nover"
        assert all(said in log for said in LIBRARIES)
    assert "INFO library: a record" in log
    assert "hunter2" not in log + done.stderr


def test_a_crash_of_native_code_is_told_on_the_terminal(tmp_path):
    code = "import os, faulthandler; from pathlib import Path\n"
    code += "from hpsearch.cli.log import Log; from hpsearch.cli.terminal import Terminal\n"
    code += "with Log(Path('job.log'), Terminal()).kept(): os.abort()"
    env = os.environ | {"PYTHONPATH": str(SRC)}
    done = run([sys.executable, "-c", code], tmp_path, env)
    assert done.returncode < 0
    assert "Fatal Python error: Aborted" in done.stderr


def test_a_log_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    with Log(tmp_path / "file" / "job.log", Terminal()).kept() as log:
        logging.getLogger("library").info("a record")
    assert log.hint.endswith("could not be written: Not a directory.")


def test_a_program_of_ones_own_keeps_its_logging():
    logger, root = logging.getLogger("mlflow"), logging.getLogger()
    before = (logger.level, list(root.handlers), list(warnings.filters))
    with libraries_quiet():
        assert not logger.isEnabledFor(logging.WARNING)
    assert (logger.level, list(root.handlers), list(warnings.filters)) == before


def test_what_is_held_back_is_shown_where_the_block_fails(capfd):
    with standard_error.held_back():
        os.write(2, b"noise")
    assert capfd.readouterr().err == ""

    def fail():
        os.write(2, b"reason")
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), standard_error.held_back():
        fail()
    assert capfd.readouterr().err == "reason"


def test_a_trouble_is_told_when_it_begins_and_when_it_ends(caplog):
    trouble = Trouble("hpsearch.any", calm_s=0)
    trouble.ends("There is room again.")
    for _ in range(3):
        trouble.begins("The disk is full.", OSError("no room"))
    trouble.ends("There is room again.")
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert told == ["The disk is full.", "There is room again."]
    flapping = Trouble("hpsearch.other")
    for _ in range(3):
        flapping.begins("The other disk is full.", OSError("no room"))
        flapping.ends("It has room again.")
    told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert told[2:] == ["The other disk is full."]


@pytest.mark.parametrize("place", ["/proc/none", "file/below"])
def test_a_folder_that_cannot_be_written_is_named_with_its_setting(place, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"folder {tmp_path / place} .*; key=FOLDER"):
        check_folder(tmp_path / place, "key=FOLDER names another one")
    check_folder(tmp_path / "new" / "folder", "")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_below_one_that_may_not_be_entered_is_named_with_its_setting(tmp_path):
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with (
        mock.patch.object(Path, "exists", side_effect=refused),
        pytest.raises(ConfigError, match=r"\(Permission denied\); key=FOLDER"),
    ):
        check_folder(tmp_path / "spool", "key=FOLDER names another one")


def test_an_ascii_terminal_gets_letters_that_it_has(tmp_path):
    env = os.environ | {"PYTHONPATH": str(SRC), "LC_ALL": "C", "PYTHONUTF8": "0"}
    env |= {"PYTHONIOENCODING": "ascii"}
    for words in (["search", "--help"], ["search", "arch=größe→2"], ["search", "a=é", "--json"]):
        command = [sys.executable, "-m", "hpsearch", *words]
        done = run(command, tmp_path, env)
        said = done.stdout + done.stderr
        assert said.isascii()
        assert done.returncode == 2 * ("--help" not in words)
        assert "Traceback" not in said
        assert "\\u" not in done.stderr
