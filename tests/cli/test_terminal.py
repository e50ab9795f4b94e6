"""What scripts get in place of the words for people: nothing, or one JSON object; and the exit
status.
"""

import json
import os

import pytest

from hpsearch.cli.terminal import Terminal

TINY = (
    "data=digits",
    "data.n_train=200",
    "arch.n_hidden=2",
    "arch.n_units=10",
    "training.epochs=2",
    "training.jit_compile=false",
)


def test_flags_are_taken_from_any_place_and_remembered_for_processes_that_are_started():
    assert Terminal.FORM not in os.environ
    assert not Terminal().console.quiet
    assert Terminal.take_flags(["arch=selu", "--json", "-m"]) == ["arch=selu", "-m"]
    assert os.environ.pop(Terminal.FORM) == "json"
    assert Terminal.take_flags(["--quiet", "arch=elu"]) == ["arch=elu"]
    assert os.environ[Terminal.FORM] == "quiet"


@pytest.mark.parametrize(("form", "printed"), [("quiet", ""), ("json", '{"a": 1}\n')])
def test_each_flag_silences_the_words_for_people(form, printed, capsys, monkeypatch):
    monkeypatch.setenv(Terminal.FORM, form)
    terminal = Terminal()
    terminal.say("for people")
    terminal.console.print("for people too")
    terminal.result({"a": 1})
    assert capsys.readouterr().out == printed


def test_without_flags_a_terminal_speaks_and_prints_no_object(capsys):
    terminal = Terminal()
    terminal.say("[x] as it is")
    terminal.result({"a": 1})
    assert capsys.readouterr().out == "[x] as it is\n"


def test_the_object_is_one_line_of_valid_json(capsys, monkeypatch):
    monkeypatch.setenv(Terminal.FORM, "json")
    Terminal().result({"a": [1, float("nan")], "b": {"c": float("inf"), 3: ("x", 0.5)}})
    assert json.loads(capsys.readouterr().out) == {
        "a": [1, None],
        "b": {"c": None, "3": ["x", 0.5]},
    }


def test_a_mistake_is_an_object_too_and_a_sentence_on_stderr(workplace):
    done = workplace.here("arch=sellu", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["exit_status"]) == (2, 2)
    assert told["error"].startswith("There is no arch=sellu.")
    assert done.stderr == f"Error: {told['error']}\n"


def test_a_quiet_mistake_is_still_told(workplace):
    done = workplace.here("arch=sellu", "--quiet")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")


def test_a_search_whose_trials_all_fail_ends_with_1(workplace):
    words = [
        *TINY,
        "budget.n_trials=1",
        "space.bounds.learning_rate=1e30",
        "optimizer=sgd",
        "--json",
    ]
    done = workplace.here(*words)
    assert (done.returncode, json.loads(done.stdout)["exit_status"]) == (1, 1)
    assert done.stderr.startswith("Error: No trial of study digits-selu finished: train/loss is ")


@pytest.mark.slow
def test_what_a_command_comes_to_is_one_object(workplace):
    def told(script, *words):
        done = workplace.here(*words, "--json", script=script)
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    found = told("search", *TINY, "budget.n_trials=2", "pruner=none")
    assert (found["study"], found["n_finished"], found["n_epochs"]) == ("digits-selu", 2, 4)
    best = workplace.study("digits-selu").best_trial
    assert (found["best"]["trial"], found["best"]["value"]) == (best.number, best.value)
    assert found["best"]["hyperparameters"].keys() == {"learning_rate", "momentum", "dropout_rate"}
    assert found["registered"]["name"] == "digits-selu"
    assert 0 < found["test"]["test/mc/nll"] < 10
    assert [run.info.run_id for run in workplace.runs("study")] == [found["run_id"]]
    parts = [
        f"parts.{name}=null"
        for name in ("rates", "ensembles", "shift", "unknown", "verdict", "passes")
    ]
    found = told(
        "evaluate", "registered_model=digits-selu", "version=1", "uncertainty.n_samples=10", *parts
    )
    assert found["model"] == "digits-selu version 1"
    assert found["metrics"].keys() > {"test/plain/nll", "test/mc/nll"}
    assert told("doctor", "data=digits")["findings"] == []
    assert told("doctor", "replay", "data=digits") == {
        "study": "digits-selu",
        "n_same": 2,
        "differing": [],
    }
    assert told("doctor", "sync") == {"n_sent": 0}
    assert told("doctor", "explain", "0", "data=digits")["trial"] == 0
