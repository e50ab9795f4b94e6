"""What the documentation says is so: its commands work, its generated pages are current, its
sentences exist.
"""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hpsearch.cli import entry
from hpsearch.study.trial_end import TrialEnd
from project_files import BLOCK, PROJECT, ROOT, command_of
from workplace import SRC

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NEEDS = ("a cluster", "a network", "a browser", "a quiet machine")
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text()


def lines(block: str) -> list[str]:
    """Return the commands of a block without comments, each on one line."""
    joined = block.replace("\\\n", " ").replace("&&\n", "\n")
    return [
        line
        for line in (re.split(r"(?:^| +)# ", line)[0].strip() for line in joined.splitlines())
        if line
    ]


BLOCKS = [(page.name, *found) for page in PAGES for found in BLOCK.findall(page.read_text())]
COMMANDS = sorted(
    {
        (name, line)
        for name, mark, block in BLOCKS
        if "exit status" not in mark
        for line in lines(block)
    }
)


def test_commands_are_found_on_the_pages():
    found = [command for _, command in COMMANDS]
    assert sum("python -m hpsearch " in command for command in found) > 20
    assert sum(command.startswith("mlflow run") for command in found) > 2


@pytest.mark.parametrize(
    ("page", "command"), [c for c in COMMANDS if "python -m hpsearch " in c[1]]
)
def test_every_hpsearch_command_composes(page, command, monkeypatch):
    words = shlex.split(command)
    script, given = words[words.index("-m") + 2], words[words.index("-m") + 3 :]
    overrides = [
        w
        for w in entry.as_overrides(given)
        if w not in ("--quiet", "--json", "--repair", "--help", "|")
    ]
    if script == "doctor":
        script, overrides = "search", [word for word in overrides if "=" in word]
    entry.check(script, overrides)


@pytest.mark.parametrize(
    ("page", "command"), [c for c in COMMANDS if c[1].startswith("mlflow run")]
)
def test_every_mlflow_command_names_known_entries_and_keys(page, command):
    words = shlex.split(command)
    name = words[words.index("-e") + 1] if "-e" in words else "main"
    given = dict(words[i + 1].split("=", 1) for i, word in enumerate(words) if word == "-P")
    known = PROJECT["entry_points"][name]["parameters"]
    script, overrides = command_of(
        name, **{key: value for key, value in given.items() if key in known}
    )
    others = [f"{key}={value}" for key, value in given.items() if key not in known]
    entry.check(script, entry.as_overrides([*overrides, *others]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_other_command_is_run_by_a_test_or_says_what_it_needs(page):
    for mark, block in BLOCK.findall(page.read_text()):
        others = [
            line
            for line in lines(block)
            if not re.match(r"python -m hpsearch |mlflow run |export ", line)
        ]
        if others and not mark.endswith(tuple(f"needs {what}" for what in NEEDS)):
            runner = re.search(r"run by ([\w./]+)", mark)
            assert runner, f"{page.name}: which test runs {others}?"
            assert (ROOT / runner[1]).exists()


def script(name: str):
    """Import one of the scripts that write a page."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["configuration", "troubleshooting"])
def test_generated_pages_are_current(name):
    written = (ROOT / "docs" / f"{name}.md").read_text()
    assert written == script(name).page(), f"run: python docs/{name}.py"


def test_every_error_that_a_person_can_meet_has_a_cure():
    made = script("troubleshooting")
    assert made.without_cure() == set()
    classes = {name for errors in made.sentences().values() for name, _ in errors}
    assert classes == made.ERRORS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?://)([^)#]+)[^)]*\)", prose):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.slow
def test_the_quickstart_runs_from_its_first_line_to_its_last(tmp_path):
    env = os.environ | {
        "PYTHONPATH": str(SRC),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for mark, block in BLOCK.findall(QUICKSTART):
        if "needs " in mark or "in the repository" in mark:
            continue
        done = subprocess.run(
            ["bash", "-c", block.replace("export PYTHONPATH=src", "")],
            cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        status = re.search(r"exit status (\d+)", mark)
        assert done.returncode == int(status[1] if status else 0), done.stderr


def test_the_table_of_ends_holds_every_end_with_its_status_in_mlflow():
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([A-Z]+|no run)\b", page, re.MULTILINE))
    assert rows == {end.word: end.mlflow_status or "no run" for end in TrialEnd}
