"""Tab completes jobs, options and settings, and prints no error whatever the line is."""

import os
import shutil
import subprocess

import pytest

from project_files import with_command


def said(environment: dict[str, str], line: str, point: int | None = None) -> list[str]:
    """Return what a shell is offered for a line, and hold that nothing is printed beside it."""
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line) if point is None else point)}
    done = subprocess.run(
        ["hpsearch", "-sc", "query=bash"],
        env=environment | asked,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), line
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("hpsearch se", ["search"]),
        ("hpsearch --v", ["--version"]),
        ("hpsearch search --qu", ["--quiet"]),
        ("hpsearch search optimizer=na", ["optimizer=nadam"]),
        ("~/bin/hpsearch  search --json data.path='a b' optimizer=na", ["optimizer=nadam"]),
        ("hpsearch doctor s", "sync"),
        ("hpsearch doctor sync ", "arch="),
        ("hpsearch doctor sync --re", ["--repair"]),
        ("hpsearch doctor sync arch=se", ["arch=selu"]),
        ("hpsearch search 'da", []),
        ("hpsearch search training..", []),
        ("hpsearch serach da", []),
    ],
)
def test_a_line_is_completed_without_a_word_of_error(line, offered, tmp_path):
    found = said(with_command(tmp_path), line)
    if isinstance(offered, str):
        assert offered in found
        assert not any(name.startswith(("_", "hydra", "-")) for name in found)
    else:
        assert found == offered


def test_only_the_line_before_the_cursor_counts(tmp_path):
    line = "hpsearch search optimizer=na arch=selu"
    assert said(with_command(tmp_path), line, line.index(" arch")) == ["optimizer=nadam"]


SHELLS = {
    "bash": """eval "$(hpsearch -sc install=bash)"
        COMP_LINE="@line" COMP_POINT=@size COMP_CWORD=2
        hydra_bash_completion
        echo "${COMPREPLY[@]}" """,
    "fish": "hpsearch -sc install=fish | source; complete -C '@line'",
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_takes_the_script(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    line = "hpsearch doctor sync"
    asked = SHELLS[shell].replace("@line", line).replace("@size", str(len(line)))
    environment = with_command(tmp_path) | {"HOME": os.fspath(tmp_path)}
    done = subprocess.run(
        [shell, "-c", asked], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["sync"]
