"""The files that a reader meets first: MLproject with its commands, and pages with their blocks of
code.
"""

import re
import shlex
from pathlib import Path

import yaml

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
TEXT = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = re.findall(
    r"^```(python|bash)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE
)  # its kind and its code
FILES = {
    code.splitlines()[0][2:]: code
    for kind, code in BLOCKS
    if kind == "python" and code.startswith("# ")
}
