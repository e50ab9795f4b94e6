"""What needs neither a model nor images is answered before Keras and MLflow are imported."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra.utils import get_object

from hpsearch.cli.config_files import CONF
from hpsearch.cli.written_code import check_code
from hpsearch.errors import ConfigError
from workplace import SRC, shell_environment

COMMANDS = [
    "search budget.n_trials=0",
    "search training.epochs=null",
    "search pruner.min_resource=0",
    "search space.bounds.learning_rate.low=1",
    "search schedule=one_cycle schedule.warmup=2",
    "search range_test.low=5",
    "search uncertainty.n_samples=0",
    "search registration.measure=nil",
    "search study.name=team/first",
    "search costs.tolerance=-1",
    "search ++trainer.nonsense=3",
    "search data=npz data.path=nowhere.npz",
    "search arch=own arch._target_=nomodule.build",
    "search arch.dropout._target_=keras.layers.Dropot",
    "evaluate registered_model=x parts.conformal.coverage=2",
    "ablate ablation=momentum levels=[nadm]",
    "compare confirm.n_seeds=1",
    "report study=missing",
    "report study=missing path=nowhere/page.html",
    "doctor seed=null",
]
IN_ONE_PROCESS = """
import sys
from hpsearch.cli.main import main
for line in sys.stdin.read().splitlines():
    sys.argv[1:] = line.split()
    try:
        main()
    except SystemExit as end:
        assert end.code == 2, line
    found = {"keras", "mlflow", "tensorflow", "jax"} & sys.modules.keys()
    assert not found, (line, found)
"""


def test_mistakes_are_answered_without_keras_and_mlflow(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", IN_ONE_PROCESS],
        input="\n".join(COMMANDS),
        cwd=tmp_path,
        env=shell_environment() | {"PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sentences = done.stderr.splitlines()
    assert len(sentences) == len(COMMANDS)
    assert all(sentence.startswith("Error: ") for sentence in sentences)
    assert not list(tmp_path.iterdir())


def targets(node):
    """Yield the import paths below a node of a file of conf."""
    if isinstance(node, dict):
        if str(node.get("_target_", "")).startswith("hpsearch."):
            yield node["_target_"]
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from targets(item)


def test_settings_are_checked_where_no_keras_is_imported():
    found = set()
    for file in CONF.rglob("*.yaml"):
        found.update(targets(yaml.safe_load(file.read_text())))
    for target in found:
        if target.startswith("hpsearch.models."):  # Keras knows what their settings may be
            continue
        check = getattr(get_object(target), "__post_init__", None)
        if check is None:
            continue
        source = Path(sys.modules[check.__module__].__file__).read_text()
        assert not re.search(r"^(import|from) (keras|mlflow)", source, re.MULTILINE), target


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("def build(hp): ...", "unread has no WRONG. Valid: build."),
        ("def build(hp:", "unread.py has a mistake in line 1 ('(' was never closed)."),
        ("def WRONG(hp, n): ...", "got an unexpected keyword argument 'm'."),
    ],
)
def test_code_is_read_and_not_run(code, says, tmp_path, monkeypatch):
    (tmp_path / "unread.py").write_text(f"{code}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(says)):
        check_code("arch", {"_target_": "unread.WRONG", "m": 1})
    assert "unread" not in sys.modules


@pytest.mark.parametrize(
    "code",
    [
        "from os.path import *",
        "def __getattr__(name): ...",
        "globals()['build'] = 3",
        "if True:\n    def build(hp, **further): ...",
        "build = print",
    ],
)
def test_what_the_code_does_not_say_is_left_to_the_job(code, tmp_path, monkeypatch):
    (tmp_path / "unsure.py").write_text(f"{code}\n")
    monkeypatch.syspath_prepend(tmp_path)
    check_code("arch", {"_target_": "unsure.build", "n": 3})


def test_a_folder_that_was_removed_is_one_sentence(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["sh", "-c", f"rmdir {gone}; {sys.executable} -m hpsearch search budget.n_trials=0"],
        cwd=gone,
        env=shell_environment() | {"PYTHONPATH": os.fspath(SRC)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == "Error: The current folder does not exist any more: enter another one.\n"
    assert done.returncode == 2
