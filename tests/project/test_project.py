"""The files that a stranger meets first agree with each other: MLproject, conda.yaml, requirements,
README, conf.
"""

import re
import subprocess
import tomllib

import pytest
import yaml
from hydra import compose, initialize_config_dir

from hpsearch.cli import entry
from project_files import PROJECT, ROOT, command_of

PACKAGE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", PROJECT["entry_points"])
def test_every_entry_point_composes_with_its_defaults(name):
    script, overrides = command_of(name)
    if script == "doctor":
        script = "search"
    entry.check(script, [word for word in overrides if "=" in word or word.startswith("-")])


def test_defaults_that_stand_in_mlproject_too_are_those_of_conf():
    script, overrides = command_of("main")
    assert script == "search"
    with initialize_config_dir(str(entry.CONF), version_base="1.3"):
        assert compose(script, overrides) == compose(script)


def test_conda_environment_holds_the_pinned_packages_and_nothing_else():
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text())
    assert conda["dependencies"] == ["python=3.11", "pip", {"pip": ["-r requirements.txt"]}]


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_requirements_are_exact_name_no_registry_and_cover_what_is_asked_for(name):
    lines = [
        line
        for line in (ROOT / f"{name}.txt").read_text().splitlines()
        if line[:1] not in {"", "#", " "}
    ]
    assert all(re.fullmatch(r"[\w.\[\]-]+==[\w.+]+( ; .+)?", line) for line in lines)
    pinned = {re.split(r"[\[=]", line)[0].lower() for line in lines}
    asked = (ROOT / f"{name}.in").read_text().splitlines()
    if name == "requirements":
        asked += PACKAGE["dependencies"]
        for extra in ("tensorflow", "cluster", "postgres"):
            asked += PACKAGE["optional-dependencies"][extra]
    names = [found[0].lower() for line in asked if (found := re.match(r"[A-Za-z][\w-]*", line))]
    assert len(names) > 5
    assert set(names) <= pinned


def test_readmes_table_lists_the_choices_that_conf_has():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", README, re.MULTILINE))
    for group in ("data", "arch", "optimizer", "sampler", "pruner", "storage"):
        names = {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} - {"dense"}
        assert len(names) >= 3, group
        assert names <= set(re.findall(r"\w+", rows[group])), (
            f"README.md does not name every {group}"
        )


def test_nothing_that_belongs_to_a_machine_is_committed():
    done = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    names = done.stdout.splitlines()
    assert "README.md" in names
    assert not [name for name in names if name.endswith((".keras", ".db", ".npz", "uv.lock"))]
    large = [name for name in names if (ROOT / name).stat().st_size > 300_000]
    assert not large
