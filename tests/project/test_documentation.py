"""What the documentation says is so: its commands work, its generated pages are current, its
sentences exist.
"""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hpsearch.cli import entry
from hpsearch.study.trial_end import TrialEnd
from project_files import BLOCK, PROJECT, ROOT, command_of, with_command

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NEEDS = ("a cluster", "a network", "a browser", "a quiet machine")
README = (ROOT / "README.md").read_text()
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text()


def lines(block: str) -> list[str]:
    """Return the commands of a block without comments, each on one line."""
    joined = block.replace("\\\n", " ").replace("&&\n", "\n")
    return [
        line
        for line in (re.split(r"(?:^| +)# ", line)[0].strip() for line in joined.splitlines())
        if line
    ]


def is_ours(command: str) -> bool:
    """Return whether a command is one of hpsearch, perhaps behind variables of the environment."""
    return re.match(r"([A-Z_]+=\S+ )*hpsearch ", command) is not None


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
    assert sum(is_ours(command) for command in found) > 20
    assert sum(command.startswith("mlflow run") for command in found) > 2


@pytest.mark.parametrize(("page", "command"), [c for c in COMMANDS if is_ours(c[1])])
def test_every_hpsearch_command_composes(page, command, monkeypatch):
    words = shlex.split(command)
    _, script, *given = words[words.index("hpsearch") :]
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
            if not is_ours(line) and not re.match(r"mlflow run |export ", line)
        ]
        if others and not mark.endswith(tuple(f"needs {what}" for what in NEEDS)):
            runner = re.search(r"run by ([\w./]+)", mark)
            assert runner, f"{page.name}: which test runs {others}?"
            assert (ROOT / runner[1]).exists()


def imported(name: str, path: Path) -> ModuleType:
    """Import a file as a module of that name."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def script(name: str) -> ModuleType:
    """Import one of the scripts that write a page."""
    return imported(name, ROOT / "docs" / f"{name}.py")


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
def test_the_command_is_written_as_people_type_it(page):
    text = page.read_text()
    assert "python -m hpsearch" not in text
    assert "PYTHONPATH=src" not in text


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    found = re.findall(r"^#+ (.+)$", without_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def without_blocks(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)", without_blocks(page)):
        file, _, anchor = target.partition("#")
        there = page
        if file:
            there = page.parent / file
        assert there.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(there), f"{page.name} links to {target}"


def test_keys_on_the_page_of_settings_are_those_that_an_ablation_takes():
    page = (ROOT / "docs" / "configuration.md").read_text()
    section = page.split("### `ablation=bias`")[1].split("###")[0]
    keys = re.findall(r"^\| `([\w.]+)` \| `", section, re.MULTILINE)
    assert {"ablation.baseline", "ablation.levels.small_random"} <= set(keys)
    entry.check("ablate", ["ablation=bias", *(f"{key}=null" for key in keys)])


@pytest.mark.slow
def test_the_quickstart_runs_from_its_first_line_to_its_last(tmp_path):
    env = with_command(tmp_path)
    folder = tmp_path / "empty"
    folder.mkdir()
    for mark, block in BLOCK.findall(QUICKSTART):
        if "needs " in mark:
            continue
        done = subprocess.run(
            ["bash", "-c", block],
            cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        status = re.search(r"exit status (\d+)", mark)
        assert done.returncode == int(status[1] if status else 0), done.stderr


@pytest.mark.slow
def test_the_reference_of_the_python_interface_can_be_written_and_tells_everything(tmp_path):
    pytest.importorskip("pdoc")
    done = subprocess.run(
        [sys.executable, "docs/api.py", str(tmp_path)],
        cwd=ROOT, env=with_command(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for page, told in (
        ("hpsearch.html", "Search"),
        ("hpsearch/data/split.html", "for_search"),
        ("hpsearch/metrics.html", "brier_score"),
        ("hpsearch/mc_dropout/passes.html", "Sampler"),
    ):
        assert told in (tmp_path / page).read_text()


def test_a_missing_docstring_is_named(tmp_path, monkeypatch):
    doc = pytest.importorskip("pdoc.doc")
    file = tmp_path / "bare.py"
    file.write_text('"""A module."""\n\ndef told():\n    """Told."""\n\ndef untold():\n    pass\n')
    module = imported("hpsearch.bare", file)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    found = script("api").without_docstring(doc.Module(module))
    assert list(found) == ["hpsearch.bare.untold"]


@pytest.mark.slow
def test_the_readmes_program_runs(tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert "n_trials=20, epochs=30" in program
    (tmp_path / "program.py").write_text(
        program.replace("n_trials=20, epochs=30", "n_trials=2, epochs=1")
    )
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path, env=with_command(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "learning_rate" in done.stdout.splitlines()[-1]


def test_the_readme_is_short():
    assert len(README.splitlines()) < 200
    assert len(README.split()) <= 1500


def test_the_table_of_ends_holds_every_end_with_its_status_in_mlflow():
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([A-Z]+|no run)\b", page, re.MULTILINE))
    assert rows == {end.word: end.mlflow_status or "no run" for end in TrialEnd}
