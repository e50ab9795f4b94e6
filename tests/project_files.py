"""The files that a reader meets first: MLproject with its commands, and pages with their blocks of
code.
"""

import os
import re
import shlex
import sys
from pathlib import Path

import yaml

from workplace import SRC

ROOT = Path(__file__).parents[1]


PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())


SAMPLE = {"study": "digits-selu"}  # parameters without a default


def command_of(name: str, **given: str) -> tuple[str, list[str]]:
    """Return the script and the overrides that an entry point runs, with its defaults where nothing
    is given.
    """
    point = PROJECT["entry_points"][name]
    values = {
        key: rule.get("default", SAMPLE.get(key)) for key, rule in point["parameters"].items()
    } | given
    words = shlex.split(point["command"].format(**values))
    assert words[:4] == ["PYTHONPATH=src:$PYTHONPATH", "python", "-m", "hpsearch"]
    return words[4], words[5:]


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
