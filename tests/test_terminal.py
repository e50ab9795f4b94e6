"""What scripts get in place of the words for people: nothing, or one JSON object; and the exit status."""

import json
import sys

import pytest

from hpsearch import compare, doctor, entry, evaluate, search
from hpsearch.terminal import FORM, Terminal, take_flags

TINY = ("data=digits", "data.n_train=200", "arch.n_hidden=2", "arch.n_units=10", "training.epochs=2")
MAINS = {"search": search.main, "evaluate": evaluate.main, "compare": compare.main}


def run(script, words, monkeypatch, capsys):
    """Run a command in this process; return its exit status, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", [script, *words])
    capsys.readouterr()
    status = 0
    try:
        doctor.main() if script == "doctor" else entry.run(script, MAINS[script])
    except SystemExit as ended:
        status = ended.code or 0
    return status, *capsys.readouterr()


def test_flags_are_taken_from_any_place_and_remembered_for_processes_that_are_started():
    assert take_flags(["arch=selu", "--json", "-m"]) == ["arch=selu", "-m"]
    assert Terminal().console.quiet
    take_flags(["--quiet"])
    assert Terminal().console.quiet


def test_without_flags_a_terminal_speaks_and_prints_no_object(capsys):
    terminal = Terminal()
    terminal.say("[x] as it is")
    terminal.result({"a": 1})
    assert capsys.readouterr().out == "[x] as it is\n"


def test_the_object_is_one_line_of_valid_json(capsys, monkeypatch):
    monkeypatch.setenv(FORM, "json")
    Terminal().result({"a": [1, float("nan")], "b": {"c": float("inf"), 3: ("x", 0.5)}})
    assert json.loads(capsys.readouterr().out) == {"a": [1, None], "b": {"c": None, "3": ["x", 0.5]}}


def test_a_mistake_is_an_object_too_and_a_sentence_on_stderr(monkeypatch, capsys):
    status, out, err = run("search", ["arch=sellu", "--json"], monkeypatch, capsys)
    told = json.loads(out)
    assert (status, told["exit_status"]) == (2, 2)
    assert told["error"].startswith("There is no arch=sellu.")
    assert err == f"Error: {told['error']}\n"


def test_a_quiet_mistake_is_still_told(monkeypatch, capsys):
    status, out, err = run("search", ["arch=sellu", "--quiet"], monkeypatch, capsys)
    assert (status, out) == (2, "")
    assert err.startswith("Error: ")


@pytest.mark.slow
def test_a_search_is_one_object(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace.folder)
    store = f"tracking.uri=sqlite:///{workplace.folder}/mlflow.db"  # MLflow keeps connections by name in a process
    words = [*TINY, "budget.n_trials=2", "pruner=none", store, "--json"]
    status, out, err = run("search", words, monkeypatch, capsys)
    told = json.loads(out)
    assert (status, err) == (0, "")
    assert (told["study"], told["n_finished"], told["n_epochs"]) == ("digits-selu", 2, 4)
    best = workplace.study("digits-selu").best_trial
    assert (told["best"]["trial"], told["best"]["value"]) == (best.number, best.value)
    assert told["best"]["hyperparameters"].keys() == {"learning_rate", "momentum", "dropout_rate"}
    assert told["registered"]["name"] == "digits-selu"
    assert 0 < told["test"]["test/mc/nll"] < 10
    assert [run.info.run_id for run in workplace.runs("study")] == [told["run_id"]]


def test_a_search_whose_trials_all_fail_ends_with_1(workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace.folder)
    words = [*TINY, "budget.n_trials=1", "space.bounds.learning_rate=1e30", "optimizer=sgd", "--json"]
    status, out, err = run("search", words, monkeypatch, capsys)
    assert (status, json.loads(out)["exit_status"]) == (1, 1)
    assert err.startswith("Error: No trial of study digits-selu finished;")


@pytest.mark.slow
def test_every_other_command_is_one_object_as_well(workplace, monkeypatch, capsys):
    def told(script, *words):
        status, out, err = run(script, [*words, "--json"], monkeypatch, capsys)
        assert (status, err) == (0, "")
        return json.loads(out)

    monkeypatch.chdir(workplace.folder)
    for arch in ("selu", "elu"):
        told("search", *TINY, f"arch={arch}", "budget.n_trials=1")
    parts = [f"parts.{name}=null" for name in ("rates", "ensembles", "shift", "unknown", "verdict", "passes")]
    found = told("evaluate", "registered_model=digits-selu", "uncertainty.n_samples=10", *parts)
    assert found["model"] == "digits-selu version 1"
    assert found["metrics"].keys() > {"test/plain/nll", "test/mc/nll"}
    found = told("compare", "archs=[selu,elu]", "data=digits", "data.n_train=200", "confirm.n_seeds=2")
    assert found["arms"].keys() == {"digits-selu", "digits-elu"}
    assert found["arms"]["digits-selu"]["measures"]["test/plain/nll"]["n"] == 2
    assert told("doctor", "data=digits")["findings"] == []
    assert told("doctor", "replay", "data=digits") == {"study": "digits-selu", "n_same": 1, "differing": []}
    assert told("doctor", "sync") == {"n_sent": 0}
    assert told("doctor", "explain", "0", "data=digits")["trial"] == 0
