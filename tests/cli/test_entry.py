"""A command line and its mistakes: each is answered with one sentence, before anything is made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from hpsearch.cli import entry
from hpsearch.command_form import as_text
from hpsearch.errors import ConfigError, SearchError, UserError

SRC = Path(__file__).parents[2] / "src"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["space.bounds.momentum=0.9"], ["++space.bounds.momentum=0.9"]),
        (
            ["arch=own", "arch._target_=a.B", "arch.depth=3"],
            ["arch=own", "arch._target_=a.B", "++arch.depth=3"],
        ),
        (["arch=selu", "arch.n_hidden=3"], ["arch=selu", "arch.n_hidden=3"]),
        (["--cfg", "job", "-p", "space"], ["--cfg", "job", "-p", "space"]),
        (["-m", "arch=elu,selu"], ["-m", "arch=elu,selu"]),
        (["--help"], ["--help"]),
        (["study.name=12", "seed=12"], ["study.name='12'", "seed=12"]),
    ],
)
def test_settings_that_conf_need_not_list_are_added(given, expected):
    assert entry.as_overrides(given) == expected


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "arch=sellu",
            "There is no arch=sellu. Did you mean 'selu'? Valid: alpha_dropout, batch_norm, cnn,",
        ),
        ("arch=SELU", "There is no arch=SELU. Did you mean 'selu'?"),
        ("arch=", "arch has no value: write arch=NAME. Valid: alpha_dropout,"),
        ("lr=0.1", "There is no key lr. Did you mean space.bounds.learning_rate?"),
        ("data=cifar", "There is no data=cifar. Did you mean 'cifar10'?"),
        ("training.epoch=3", "There is no key training.epoch. Did you mean 'epochs'?"),
        ("budgt.n_trials=3", "There is no key budgt. Did you mean 'budget'?"),
        ("data=npz", "data.path must be given: data.path=VALUE."),
        ("arch", "Expected KEY=VALUE without spaces, such as arch=selu; received 'arch'."),
    ],
)
def test_a_mistake_is_one_sentence_that_says_what_would_be_right(override, sentence):
    with pytest.raises(ConfigError) as caught:
        entry.check("search", [override])
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("job", "word", "sentence"),
    [
        ("evaluate", "digits-selu", "Expected .* such as registered_model=digits-selu; received"),
        ("evaluate", "model=x", "There is no key model. Did you mean registered_model?"),
        ("report", "digits-selu", "Expected .* such as study=digits-selu; received"),
        (
            "compare",
            "studies=a,b",
            r"studies=a,b gives several .*: write studies=\[a,b\] for a list.",
        ),
        ("search", "arch=elu,selu", "arch=elu,selu gives several values: add -m to run one search"),
    ],
)
def test_a_sentence_knows_its_job(job, word, sentence):
    with pytest.raises(ConfigError, match=f"^{sentence}"):
        entry.check(job, [word])


def test_an_option_of_hydra_that_would_have_no_effect_is_refused():
    with pytest.raises(ConfigError, match=r"^-p arch=selu names a part for --cfg job"):
        entry.check("search", ["-p", "arch=selu"])


def test_values_of_the_right_kind_are_taken_whatever_their_default_follows_from():
    entry.check(
        "search",
        ["study.name=mine", "pruner.max_resource=9", "optimizer.beta_2=1", "budget.timeout_s=1.5"],
    )
    entry.check(
        "search", ["space.bounds.momentum=0.9", "data.n_train=100", "tracking.uri=sqlite:///a.db"]
    )


def test_each_choice_of_a_sweep_may_be_first_but_must_exist():
    entry.check("search", ["-m", "arch=elu,selu", "seed=1,2", "data=digits"])
    with pytest.raises(ConfigError, match="There is no arch=ellu"):
        entry.check("search", ["-m", "arch=ellu,selu"])


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("not this"), 2, "Error: not this\n"),
        (SearchError("not that"), 1, "Error: not that\n"),
        (
            KeyboardInterrupt(),
            130,
            "\nInterrupted. The same command goes on where this one stopped.\n",
        ),
    ],
)
def test_the_exit_status_says_whose_fault_it_was(error, status, said, capsys):
    with pytest.raises(SystemExit) as ended, entry.ending():
        raise error
    assert ended.value.code == status
    assert capsys.readouterr() == ("", said)


def command(*words: str, cwd: Path, first: Path = SRC) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder; modules are looked for in `first`, then in the package."""
    env = {"PYTHONPATH": f"{first}:{SRC}", "PATH": "/usr/bin:/bin", "HOME": str(cwd)}
    words = (sys.executable, "-m", "hpsearch", *words)
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_help_is_a_page_with_examples_and_the_choices_of_each_group(tmp_path):
    large = tmp_path / "large"
    large.mkdir()
    for name in ("tensorflow", "jax", "keras", "mlflow", "optuna"):
        (large / f"{name}.py").write_text(f"raise RuntimeError('{name} is imported')")
    done = command("search", "--help", cwd=tmp_path, first=large)
    assert (done.returncode, done.stderr) == (0, "")
    for part in (
        "Usage:",
        "arch=selu data=digits",
        "arch: selu, alpha_dropout, batch_norm, cnn",
        "budget.n_trials",
    ):
        assert part in done.stdout


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ([], "hpsearch search arch=selu data=digits"),
        (["help"], "Usage: hpsearch JOB"),
        (["search", "--version"], "hpsearch "),
        (["ablate", "--help"], "Usage:  hpsearch ablate ablation=NAME"),
        (["compare", "--help"], "Usage:  hpsearch compare archs=[NAME,NAME]"),
    ],
)
def test_who_asks_for_help_gets_it(words, part, tmp_path):
    done = command(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert part in done.stdout
    assert "Hydra" not in done.stdout


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("serach", "There is no job 'serach'. Did you mean 'search'?"),
        ("arch=selu", "A job comes before all settings, such as hpsearch search arch=selu;"),
        ("-sc", "Expected -sc install=SHELL, where SHELL is bash, zsh or fish; received -sc."),
    ],
)
def test_a_first_word_that_is_no_job_is_answered(word, sentence, tmp_path):
    done = command(word, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {sentence}")


def test_a_typo_leaves_nothing_behind(tmp_path):
    done = command("search", "arch=sellu", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: There is no arch=sellu.")
    assert list(tmp_path.iterdir()) == []


def test_gpu_memory_is_taken_as_it_is_needed_unless_a_person_says_otherwise(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    entry.prepare_environment()
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "false"


@pytest.mark.parametrize("name", ["plain-name", "a b", "Tim's model", 'the "best"', "a,b", "12"])
def test_a_text_is_quoted_only_where_hydra_reads_it_otherwise(name):
    override = OverridesParser.create().parse_override(f"study={as_text(name)}")
    assert (override.is_sweep_override(), override.value()) == (False, name)
    assert as_text("plain-name") == "plain-name"
