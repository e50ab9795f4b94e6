"""The package as it is installed: a wheel with its configuration, its command and extras; JAX
alone.
"""

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

import pytest
import yaml

import hpsearch
from hpsearch import backend, command_form
from hpsearch.cli import completion, main
from hpsearch.cli.command_line import check
from hpsearch.cli.config_files import CONF, ConfigFiles
from hpsearch.errors import ConfigError
from project_files import BLOCK, ROOT
from workplace import SMALL, shell_environment

PACKAGE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_a_checkout_reads_the_only_copy_of_conf():
    assert CONF == ROOT / "conf"
    assert not (ROOT / "src" / "hpsearch" / "conf").exists()


def test_version_and_licence_stand_in_one_place_and_agree():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == hpsearch.__version__
    assert cited["license"] == PACKAGE["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


def test_no_dependency_brings_a_backend():
    named = " ".join(PACKAGE["dependencies"])
    assert "tensorflow" not in named
    assert "jax" not in named
    assert PACKAGE["scripts"] == {"hpsearch": "hpsearch.cli.main:main"}


def test_an_installed_package_has_the_command():
    try:
        installed = version("hpsearch")
    except PackageNotFoundError:
        pytest.skip("hpsearch runs from its tree here and is not installed")
    assert installed == hpsearch.__version__
    (script,) = entry_points(group="console_scripts", name="hpsearch")
    assert script.load() is main.main


@pytest.fixture
def installed_backends(monkeypatch, tmp_path):
    """Return a function that says which backends are installed; no Keras is loaded then."""
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))

    def say(*names):
        monkeypatch.setattr(backend, "_is_installed", lambda name: name in names)

    return say


@pytest.mark.parametrize(
    ("names", "in_file", "chosen"),
    [
        (("tensorflow", "jax"), None, "tensorflow"),
        (("jax",), None, "jax"),
        (("jax",), "tensorflow", "jax"),
        (("tensorflow", "jax"), "jax", None),
        ((), None, None),
    ],
)
def test_an_installed_backend_is_chosen(installed_backends, tmp_path, names, in_file, chosen):
    installed_backends(*names)
    if in_file:
        (tmp_path / "keras.json").write_text(f'{{"backend": "{in_file}"}}')
    backend.choose_backend()
    assert os.environ.get("KERAS_BACKEND") == chosen


def test_a_backend_that_a_person_names_stays(installed_backends, monkeypatch):
    installed_backends("tensorflow", "jax")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    backend.choose_backend()
    backend.check_backend()
    assert os.environ["KERAS_BACKEND"] == "jax"


@pytest.mark.parametrize(
    ("names", "named", "sentence"),
    [
        (
            (),
            "",
            f"Keras needs a backend, and none is installed: pip install -e '{ROOT}[tensorflow]' or",
        ),
        (("jax",), "tensorflow", "KERAS_BACKEND=tensorflow is not installed here"),
        (("jax", "torch"), "torch", "hpsearch runs Keras on tensorflow or jax, but"),
    ],
)
def test_a_missing_backend_is_answered_with_its_cure(
    installed_backends, monkeypatch, names, named, sentence
):
    installed_backends(*names)
    monkeypatch.setenv("KERAS_BACKEND", named)
    with pytest.raises(ConfigError, match="^" + sentence.replace("[", r"\[")):
        backend.check_backend()


def test_keras_json_is_found_as_keras_finds_it(installed_backends, monkeypatch, tmp_path):
    installed_backends("tensorflow", "jax")
    monkeypatch.setenv("HOME", str(tmp_path))
    for home, folder in (("~/of keras", "of keras"), (None, ".keras")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "keras.json").write_text('{"backend": "jax"}')
        monkeypatch.delenv("KERAS_HOME")
        if home is not None:
            monkeypatch.setenv("KERAS_HOME", home)
        backend.choose_backend()
        assert "KERAS_BACKEND" not in os.environ
        monkeypatch.setenv("KERAS_HOME", "")


def test_an_extra_of_a_wheel_is_installed_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setattr(command_form, "__file__", str(tmp_path / "hpsearch" / "command_form.py"))
    assert command_form.installing("jax") == "pip install 'hpsearch[jax]'"


@pytest.fixture
def own_conf(tmp_path):
    """A folder of configuration with an experiment and an architecture."""
    folder = tmp_path / "conf"
    for group in ("experiment", "arch"):
        (folder / group).mkdir(parents=True)
    page = (ROOT / "docs" / "install.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (folder / "experiment" / "small.yaml").write_text(text)
    (folder / "arch" / "mine.yaml").write_text((CONF / "arch" / "relu.yaml").read_text())
    return f"--config-dir={folder}"


@pytest.mark.slow
def test_commands_after_a_search_name_ones_own_folder(own_conf, workplace):
    small = ["training.epochs=1", "training.jit_compile=false", "budget.n_trials=1"]
    done = workplace.here("experiment=small", "arch=mine", "arch.n_hidden=1", *small, own_conf)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("Understand it:")]
    _, _, words = line.partition("hpsearch report ")
    again = workplace.here(*shlex.split(words), script="report")
    assert again.returncode == 0, again.stderr
    assert f"search {own_conf} experiment=small arch=mine" in done.stdout


def test_files_of_ones_own_folder_are_known(own_conf):
    check("search", ["arch=mine", "experiment=small", own_conf])
    check("search", [own_conf, "-m", "arch=mine,selu"])
    assert "mine" not in ConfigFiles().choices("arch")


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("arch=min", "There is no arch=min. Did you mean 'mine'?"),
        ("experiment=smal", "There is no experiment=smal. Did you mean 'small'? Valid: small."),
    ],
)
def test_files_of_ones_own_folder_stand_in_hints(own_conf, word, sentence):
    with pytest.raises(ConfigError) as caught:
        check("search", [word, own_conf])
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        ("hpsearch re", ["report"]),
        ("hpsearch search optimizer=na", ["optimizer=nadam"]),
        ("hpsearch doctor arch=se", ["arch=selu"]),
        ("hpsearch serach arch=se", []),
    ],
)
def test_the_shell_gets_jobs_choices_and_keys(line, answers, monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setattr(sys, "argv", ["hpsearch"])
    jobs = ["search", "report", "doctor"]
    completion.answer(["-sc", "query=bash"], jobs)
    assert capsys.readouterr().out.split() == answers


def run(command: list, folder: Path, **env: str) -> str:
    """Run a command to its end, and return what it printed; it must succeed."""
    done = subprocess.run(
        command, cwd=folder, env=plain_environment() | env,
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def plain_environment() -> dict[str, str]:
    """Return an environment in which nothing leads to this checkout."""
    left_out = ("PYTHONPATH", "KERAS_BACKEND", "VIRTUAL_ENV")
    return {key: value for key, value in shell_environment().items() if key not in left_out}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel that was built of the sdist."""
    for name in ("build", "twine", "hatchling"):
        pytest.importorskip(name, reason="requirements-dev.txt is not installed")
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--no-isolation", "-o", folder, "."], ROOT)
    run([sys.executable, "-m", "twine", "check", "--strict", *folder.iterdir()], ROOT)
    (built,) = folder.glob("*.whl")
    return built


def made_environment(folder: Path) -> Path:
    """Make a virtual environment, and return its Python."""
    run(["uv", "venv", "-q", "--python", sys.executable, folder], folder.parent)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def command(wheel, tmp_path_factory):
    """The command of an environment that has the wheel, and else the packages of this one."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    python = made_environment(folder)
    run(["uv", "pip", "install", "-q", "--no-deps", "--python", python, wheel], folder.parent)
    (place,) = folder.glob("lib/*/site-packages")
    (place / "shared.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "hpsearch"


@pytest.mark.slow
def test_a_wheel_searches_from_an_empty_folder(command, tmp_path):
    assert run([command, "--version"], tmp_path) == f"hpsearch {hpsearch.__version__}\n"
    small = [*SMALL, "budget.n_trials=2"]
    assert "Registered as version 1 of digits-selu" in run([command, "search", *small], tmp_path)
    assert "digits-selu" in run([command, "report", "study=digits-selu"], tmp_path)
    assert "agree" in run([command, "doctor", *SMALL], tmp_path)
    wrong = subprocess.run(
        [command, "search", "arch=sellu"], cwd=tmp_path, env=plain_environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("Error: There is no arch=sellu. Did you mean 'selu'?")


@pytest.mark.slow
def test_the_line_that_installs_tab_completion_works_in_bash(command, tmp_path):
    page = (ROOT / "docs" / "install.md").read_text()
    (block,) = [block for _, block in BLOCK.findall(page) if "-sc install=bash" in block]
    line = "hpsearch search optimizer=na"
    asked = f"""
    {block}
    COMP_LINE='{line}' COMP_POINT={len(line)} COMP_CWORD=2
    hydra_bash_completion
    echo "${{COMPREPLY[@]}}"
    complete -p hpsearch"""
    path = f"{command.parent}:{os.environ['PATH']}"
    answers, installed = run(["bash", "-c", asked], tmp_path, PATH=path).splitlines()
    assert answers.split() == ["optimizer=nadam"]
    assert "hydra_bash_completion" in installed


@pytest.mark.slow
def test_a_search_runs_where_jax_is_the_only_backend(wheel, tmp_path):
    python = made_environment(tmp_path / "venv")
    pins = [f"-c{ROOT / name}.txt" for name in ("requirements", "requirements-dev")]
    asked = ["uv", "pip", "install", "-q", "--python", python, *pins, f"{wheel}[jax]"]
    installed = subprocess.run(asked, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"the registry cannot be reached: {installed.stderr.strip()[:200]}")
    run(
        [python, "-c", "import importlib.util as u; exit(u.find_spec('tensorflow') is not None)"],
        tmp_path,
    )
    program = "import hpsearch, keras; assert keras.backend.backend() == 'jax'"
    run([python, "-c", program], tmp_path)
    command = python.with_name("hpsearch")
    said = run([command, "search", *SMALL, "budget.n_trials=2"], tmp_path)
    assert "Registered as version 1 of digits-selu" in said
    (needed,) = {path.read_text() for path in tmp_path.glob("mlruns/**/requirements.txt")}
    assert "jax==" in needed
    assert "tensorflow" not in needed
    load = "import mlflow; mlflow.pyfunc.load_model('models:/digits-selu/1')"
    run([python, "-c", load], tmp_path, MLFLOW_TRACKING_URI="sqlite:///mlflow.db")
