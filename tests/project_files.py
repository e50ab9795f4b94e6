"""The files that a reader meets first: MLproject with its commands, and pages with their blocks of
code.
"""

import os
import re
import shlex
import sys
from pathlib import Path

import yaml

from hpsearch.cli.project import command_line as project_command
from hpsearch.command_form import Project
from workplace import SRC

ROOT = Path(__file__).parents[1]


PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())


SAMPLE = {"study": "digits-selu"}  # parameters without a default


def command_of(name: str, **given: str) -> tuple[str, list[str]]:
    """Return the job and the words after it that an entry point runs, with its defaults where
    nothing is given; other parameters are passed on, as `mlflow run` does.
    """
    point = PROJECT["entry_points"][name]
    declared = {
        key: rule.get("default", SAMPLE.get(key)) for key, rule in point["parameters"].items()
    }
    values = {key: given.pop(key, default) for key, default in declared.items()}
    quoted = {key: shlex.quote(str(value)) for key, value in values.items()}
    words = shlex.split(point["command"].format(**quoted))
    assert words[:5] == [
        "PYTHONPATH=$PWD/src:$PYTHONPATH",
        "python",
        "-m",
        "hpsearch.cli.project",
        name,
    ]
    pairs = list(zip(words[5::2], words[6::2], strict=True))
    pairs += [(f"--{key}", value) for key, value in given.items()]
    project = Project(str(ROOT / "MLproject"), ["."], None)
    job, *rest = project_command(project, name, pairs)
    return job, rest


BLOCK = re.compile(
    r"(?:<!-- ([^\n]+) -->\n)?```bash\n(.*?)```", re.DOTALL
)  # its mark and its commands
EXAMPLES = ("own_data", "own_model", "extending")
TEXT = "\n".join((ROOT / "docs" / f"{name}.md").read_text() for name in EXAMPLES)
BLOCKS = re.findall(
    r"^```(python|bash)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE
)  # its kind and its code
FILES = {
    code.splitlines()[0][2:]: code
    for kind, code in BLOCKS
    if kind == "python" and code.startswith("# ")
}


def with_command(folder: Path) -> dict[str, str]:
    """Return an environment in which `hpsearch` is this checkout's command, run by this Python.

    A small script of that name is written into the folder `bin` of `folder`.
    """
    scripts = folder / "bin"
    scripts.mkdir(exist_ok=True)
    command = scripts / "hpsearch"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hpsearch "$@"\n')
    command.chmod(0o755)
    python = Path(sys.executable).parent
    return os.environ | {
        "PYTHONPATH": str(SRC),
        "PATH": f"{scripts}:{python}:{os.environ['PATH']}",
    }
