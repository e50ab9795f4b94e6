"""`mlflow run` carries any setting and any text to the configuration, and its own commands are
printed.
"""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from conftest import wait_until
from hpsearch.cli import entry
from hpsearch.cli.command_line import composed
from hpsearch.cli.project import _place_of_run
from hpsearch.cli.project import command_line as project_command
from hpsearch.command_form import Project, command, in_form, look, option_words
from hpsearch.errors import ConfigError
from project_files import ROOT, command_of
from workplace import SRC, Workplace, shell_environment

TEXTS = [
    "/data/date=2024-01-01/my set.npz",
    "/data/a,b.npz",
    "/data/[raw]/x.npz",
    "[x]",
    "{x}",
    "it's here.npz",
    "'quoted'",
    "\"double\" and 'single'.npz",
    "/daten/größe/数据.npz",
    "C:\\data\\set.npz",
    "ends with \\",
    "a: b",
    "007",
    "1e3",
    "true",
    "choice(a,b)",
    "(a) & $HOME; #x %2F ~/y",
    " leading and trailing ",
    "a\tb",
    "+x",
    "~x",
    "x=",
    "http://host:5000/?a=b&c=[d]",
]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_reaches_the_configuration_unchanged(text):
    names = {"study.name": text, "tracking.experiment": text}
    job, words = command_of("main", data="npz", data_path=text, **names)
    config = composed(job, entry.as_overrides(words))
    assert config.data.path == text
    assert (config.study.name, config.tracking.experiment) == (text, text)


def test_keys_with_and_without_dots_reach_their_jobs():
    job, words = command_of(
        "main",
        schedule="cosine",
        trainer="alone",
        lr_test="true",
        **{"space.bounds.depth": "{low: 1, high: 3}", "space.bounds.momentum": "0.9"},
    )
    config = composed(job, entry.as_overrides(words))
    assert (config.schedule._target_.rpartition(".")[2], config.lr_test) == ("Cosine", True)
    assert config.space.bounds.depth == {"low": 1, "high": 3}
    assert config.space.bounds.momentum == 0.9

    job, words = command_of("ablate", levels="a,b", n_seeds="2")
    config = composed(job, words)
    assert (config.n_seeds, config.levels) == (2, ["a", "b"])

    job, words = command_of("compare", studies="digits-selu,digits-elu", missing="start")
    config = composed(job, words)
    assert (config.studies, config.missing) == (["digits-selu", "digits-elu"], "start")

    job, words = command_of("evaluate", data="digits", arch="elu", unknown="mnist")
    config = composed(job, words)
    assert config.registered_model == "digits-elu"
    assert config.parts.unknown.data.name == "mnist"


def test_one_parameter_carries_words_that_no_other_can(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 7\n")
    words = f"++optimizer.foo=2 ~sampler study.name=\"'a b'\" --config-dir={tmp_path}"
    job, found = command_of("main", experiment="mine", overrides=words)
    assert "sampler=tpe" not in found
    entry.check(job, entry.as_overrides(found))
    config = composed(job, entry.as_overrides(found))
    assert (config.optimizer.foo, config.study.name) == (2, "a b")
    assert "sampler" not in config
    job, found = command_of("doctor", overrides="~sparsity")
    assert (job, found[-1]) == ("doctor", "~sparsity")


def typed_at(entry_point: str, *typed: str, **values: str) -> list[str]:
    """Return the words for what a person has typed; all other parameters have their defaults."""
    project = Project(str(ROOT / "MLproject"), ["."], None)
    pairs = [
        (f"--{item.key}", values.get(item.name, item.default or ""))
        for item in project.parameters(entry_point)
    ]
    return project_command(project, entry_point, pairs, typed)


def test_what_nobody_has_typed_is_left_to_the_configuration():
    words = typed_at("main", "arch", "data", "trials", data="digits", trials="10")
    assert words == ["search", "arch=selu", "data=digits", "budget.n_trials=10"]
    assert typed_at("main", "trials") == ["search", "budget.n_trials=20"]
    words = typed_at("sweep")
    assert "data=cifar10" not in words
    assert "arch=elu,batch_norm,selu,alpha_dropout" in words


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"trails": "3"}, "The entry point main has no parameter trails. Did you mean 'trials'?"),
        ({"overrides": "a='b"}, "overrides=a='b cannot be split into words: No closing quotation"),
    ],
)
def test_a_parameter_that_cannot_be_is_a_mistake(given, sentence):
    with pytest.raises(ConfigError, match=sentence):
        command_of("main", **given)


@pytest.mark.usefixtures("_under_mlflow_run")
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"trials": "abc"}, "trials must be a whole number, but is abc."),
        ({"trials": ""}, "trials has no value: write -P trials=VALUE"),
        ({"arch": "sellu"}, "There is no arch=sellu. Did you mean 'selu'?"),
        ({"arch": "elu,selu"}, "arch=elu,selu gives several values: give -e sweep to run one"),
        ({"data": "npz"}, "data_path must be given: -P data_path=VALUE."),
        (
            {"optimizer.foo": "1"},
            "There is no key .* added with -P overrides='.*optimizer.foo=VALUE'",
        ),
    ],
)
def test_a_mistake_after_mlflow_run_is_answered_in_its_words(given, sentence):
    job, words = command_of("main", **given)
    with pytest.raises(ConfigError) as caught:
        entry.check(job, entry.as_overrides(words))
    assert re.match(sentence, in_form(str(caught.value)))


def test_commas_are_several_values_only_in_a_sweep():
    job, words = command_of("sweep", arch="elu,selu", data_path="/a,b", seed="1,2")
    assert [job, words[0]] == ["search", "-m"]
    assert {"arch=elu,selu", "seed=1,2", "data.path='/a,b'", "worker=range(1)"} <= set(words)
    entry.check(job, entry.as_overrides(words))


def test_the_doctors_own_words_are_no_settings():
    job, words = command_of("doctor", command="explain 3", repair="true", data="digits")
    assert (job, words[:3]) == ("doctor", ["explain", "3", "--repair"])
    assert "data=digits" in words


def test_a_doctor_that_should_repair_is_told_so_in_plain_words():
    with pytest.raises(ConfigError, match="repair must be true or false, but is yes"):
        command_of("doctor", repair="yes")


@pytest.mark.parametrize("choice", ["arch=7", "data=true", "optimizer=1e-3", "arch=null"])
def test_a_choice_that_is_no_name_is_a_mistake_too(choice):
    key, _, value = choice.partition("=")
    job, words = command_of("main", **{key: value})
    with pytest.raises(ConfigError, match=f"There is no {choice}"):
        entry.check(job, entry.as_overrides(words))


@pytest.mark.parametrize(
    ("typed", "place"),
    [
        ("python /usr/bin/mlflow run .", 2),
        ("python -m mlflow run .", 3),
        ("mlflow --env-file .env run .", 3),
        ("mlflow --env-file=.env run .", 2),
        ("mlflow ui", 0),
        ("bash run mlflow", 0),
        ("mlflow", 0),
    ],
)
def test_the_word_run_is_found(typed, place):
    assert _place_of_run(typed.split()) == place


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        ("run . -P arch=elu --env-manager local", ". --env-manager local"),
        ("run -Parch=elu -e sweep --experiment-name x ../p", "--experiment-name x ../p"),
        ("run --entry-point=ablate p -v main --run-name y", "p -v main"),
        ("run --build-image p --env-manager=uv", "--build-image p --env-manager uv"),
    ],
)
def test_the_options_of_mlflow_run_are_kept(typed, kept):
    assert option_words(shlex.split(typed)) == shlex.split(kept)


@pytest.fixture
def _under_mlflow_run():
    Project(str(ROOT / "MLproject"), [".", "--env-manager", "local"], None).remember()


@pytest.mark.usefixtures("_under_mlflow_run")
@pytest.mark.parametrize(
    ("job", "settings", "written"),
    [
        (
            "search",
            ["arch=selu", "data=digits", "++budget.n_trials=30", "data.path='a b'"],
            "-P arch=selu -P data=digits -P trials=30 -P 'data_path=a b'",
        ),
        (
            "search",
            ["arch=own", "++arch.depth=3", "++space.bounds.momentum=0.9", "study.name='12'"],
            "-P arch=own -P arch.depth=3 -P space.bounds.momentum=0.9 -P study.name=12",
        ),
        (
            "search",
            ["--config-dir=/my conf", "~sparsity", "++trainer.x=1", "arch.y='1'", "study.name=x"],
            "-P study.name=x -P "
            + shlex.quote(
                "overrides="
                + shlex.join(["~sparsity", "++trainer.x=1", "arch.y='1'", "--config-dir=/my conf"])
            ),
        ),
        ("report", ["study=digits-selu"], "-e report -P study=digits-selu"),
        ("doctor sync", ["data=digits"], "-e doctor -P command=sync -P data=digits"),
        (
            "evaluate",
            ["registered_model=digits-selu", "version=1"],
            "-e evaluate -P registered_model=digits-selu -P version=1",
        ),
    ],
)
def test_a_command_after_mlflow_run_is_one_of_mlflow_run(job, settings, written):
    expected = f"mlflow run . --env-manager local {written}"
    assert command(job, *settings) == expected


@pytest.mark.usefixtures("_under_mlflow_run")
def test_a_sentence_after_mlflow_run_names_its_parameters():
    said = in_form("Give it more with budget.n_trials=30, or data.path=DIR.")
    assert said == "Give it more with -P trials=30, or -P data_path=DIR."
    said = in_form("The key is added with ++a.b=VALUE; budget.n_trials must be 1; study.name=NAME.")
    assert said == (
        "The key is added with -P overrides='++a.b=VALUE'; trials must be 1; -P study.name=NAME."
    )
    sync = command("doctor sync", "budget.n_trials=30", "data.path=x")
    assert in_form(f"Give {sync}.") == f"Give {sync}."


def test_a_command_after_hpsearch_is_one_of_hpsearch():
    assert in_form("budget.n_trials=30") == "budget.n_trials=30"
    words = shlex.split(command("search", "data.path='a b'", "study.name=x"))
    assert words[-3:] == ["search", "data.path='a b'", "study.name=x"]


def here() -> set[str]:
    """Return the names of what lies in the project's folder."""
    return {path.name for path in ROOT.iterdir()}


def mlflow_run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `mlflow run PROJECT ... --env-manager local` in a folder."""
    line = ["mlflow", "run", str(ROOT), *words, "--env-manager", "local"]
    return subprocess.run(
        line,
        cwd=folder,
        env=shell_environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


SMALL = [
    *("-P", "data=digits", "-P", "trials=2", "-P", "epochs=1"),
    *("-P", "arch.n_hidden=1", "-P", "arch.n_units=10", "-P", "training.jit_compile=false"),
]


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A folder whose name is hard to quote, outside of the project."""
    folder = tmp_path_factory.mktemp("elsewhere") / "x=1, ü [a] 'b'"
    folder.mkdir()
    return folder


def printed_commands(text: str) -> dict[str, str]:
    """Return what a search prints as the next steps, by their titles."""
    found = {}
    for line in text.splitlines():
        title, _, rest = line.partition(":")
        if title in ("Look at it", "Search on", "Understand it", "Examine it", "Serve it"):
            found[title] = rest.strip()
    return found


def words_of_mlflow_run(line: str) -> tuple[str, list[str]]:
    """Return the job and the words after it that a printed `mlflow run` command starts."""
    words = shlex.split(line)
    assert words[:3] == ["mlflow", "run", str(ROOT)]
    entry_point = "main"
    given = {}
    for option, value in zip(words[3::2], words[4::2], strict=True):
        if option == "-e":
            entry_point = value
        if option == "-P":
            key, _, text = value.partition("=")
            given[key] = text
    return command_of(entry_point, **given)


def run_literally(line: str, folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=shell_environment() | {"PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_a_search_started_elsewhere_lands_there_and_prints_commands_that_run_there(elsewhere):
    before = here()
    added = "++optimizer.epsilon=1e-6"
    done = mlflow_run(elsewhere, *SMALL, "-P", f"overrides={added}")
    assert done.returncode == 0, done.stderr
    made = {path.name for path in elsewhere.iterdir()}
    assert {"mlflow.db", "optuna.db", "outputs"} <= made
    assert not {"mlflow.db", "mlruns", "optuna.db", "outputs", "spool"} & (here() - before)
    lines = printed_commands(done.stdout)
    assert len(lines) == 5
    assert "-P trials=4" in lines["Search on"]
    assert f"-P overrides={added}" in lines["Search on"]
    assert "sampler" not in lines["Search on"]
    run_literally(lines["Understand it"], elsewhere)
    assert (elsewhere / "digits-selu.html").exists()
    # The others run in this process, by the words that MLproject makes of them.
    for title in ("Search on", "Examine it"):
        job, words = words_of_mlflow_run(lines[title])
        again = Workplace(elsewhere).here(*words, script=job)
        assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_a_mistake_ends_its_run_as_killed_with_its_sentence(tmp_path):
    done = mlflow_run(tmp_path, "-P", "arch=sellu", "-P", "data=digits")
    assert done.returncode == 1
    assert "Error: There is no arch=sellu. Did you mean 'selu'?" in done.stderr
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs(["0"], run_view_type=ViewType.ALL)
    # The status is set after `mlflow run` has set another one.
    wait_until(lambda: client.get_run(run.info.run_id).info.status == "KILLED", "the end as KILLED")
    assert run.info.run_name.startswith("refused: There is no arch=sellu.")
    assert not (tmp_path / "optuna.db").exists()


@pytest.mark.slow
def test_what_hpsearch_prints_runs_where_it_was_printed(tmp_path):
    folder = tmp_path / "a b"
    folder.mkdir()
    place = Workplace(folder)
    done = place.here(
        *("data=digits", "arch.n_hidden=1", "arch.n_units=10", "training.jit_compile=false"),
        *("budget.n_trials=2", "training.epochs=1", "tracking.uri='sqlite:///my runs.db'"),
        "storage.path='my study.db'",
    )
    assert done.returncode == 0, done.stderr
    lines = printed_commands(done.stdout)
    assert len(lines) == 5
    for title in ("Search on", "Understand it", "Examine it"):
        program, _, words = lines[title].partition("hpsearch ")
        assert program in ("", "python -m ")
        job, *settings = shlex.split(words)
        again = place.here(*settings, script=job)
        assert again.returncode == 0, again.stderr
    assert (folder / "digits-selu.html").exists()
    assert not (folder / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:///mlflow.db", "mlflow ui --backend-store-uri sqlite:///mlflow.db"),
        ("sqlite:///a b.db", "mlflow ui --backend-store-uri 'sqlite:///a b.db'"),
        (
            "http://127.0.0.1:5000/",
            "http://127.0.0.1:5000/#/experiments/3/runs/abc?workflowType=machine_learning",
        ),
    ],
)
def test_a_server_is_shown_by_its_link_and_a_database_by_a_command(uri, shown):
    assert look(uri, "3", "abc") == shown
