"""The files that a reader meets first: MLproject with its commands, and pages with their blocks of
code.
"""

import re
import shlex
from pathlib import Path

import yaml

from hpsearch.cli.project import command_line as project_command
from hpsearch.command_form import Project

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
TEXT = (ROOT / "docs" / "extending.md").read_text()
BLOCKS = re.findall(
    r"^```(python|bash)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE
)  # its kind and its code
FILES = {
    code.splitlines()[0][2:]: code
    for kind, code in BLOCKS
    if kind == "python" and code.startswith("# ")
}
