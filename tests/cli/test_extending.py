"""Own data, own models and more in a search: every example of these pages runs, and does what the
text beside it says.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from hpsearch import Search
from hpsearch.cli import entry
from hpsearch.errors import ConfigError
from hpsearch.models.own_code import import_own_code
from hpsearch.study.direction import Direction
from hpsearch.study.replay import replay
from hpsearch.study.study import SharedStudy
from hpsearch.tracking.registry import Registry
from project_files import BLOCKS, FILES
from workplace import SRC, Workplace

ROOT = Path(__file__).parents[2]
SHELL = "\n".join(code for kind, code in BLOCKS if kind == "bash").replace("\\\n", " ")
SEARCHES = [
    shlex.split(line)[2:] for line in SHELL.splitlines() if line.startswith("hpsearch search ")
]
PROJECT = next(line for line in SHELL.splitlines() if line.startswith("mlflow run"))
SHORT = (
    "training.epochs=1",
    "training.jit_compile=false",
    "pruner=none",
    "uncertainty.n_samples=2",
)


def name_of(words):
    """Return what a search of a page is known by here."""
    given = dict(word.split("=", 1) for word in words)
    return given.get("study.name") or f"{given.get('data.name', given['data'])}-{given['arch']}"


@pytest.mark.parametrize("words", SEARCHES, ids=name_of)
def test_every_search_of_the_page_composes(words, place):
    for word in words:
        path = place.folder / word.removeprefix("data.path=")
        if path.suffix == ".npz" and not path.exists():
            np.savez(path, x_train=np.zeros((4, 8, 8)), y_train=np.arange(4) % 2)
    entry.check("search", entry.as_overrides(words))


def test_the_project_command_of_the_page_composes(place):
    given = [word for word in shlex.split(PROJECT) if "=" in word]
    entry.check("search", entry.as_overrides(given))


@pytest.fixture(scope="module")
def place(tmp_path_factory, mlflow_tables):
    """A folder with the files of the pages, in which their searches run one after the other."""
    folder = tmp_path_factory.mktemp("extending")
    (folder / "mlflow.db").write_bytes(mlflow_tables.read_bytes())
    for name, code in FILES.items():
        (folder / name).write_text(code)
    before = Path.cwd()
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    yield Workplace(folder)
    sys.path.remove(str(folder))
    os.chdir(before)


def ran(place, name, n_trials=2):
    """Return the result of a search of a page, shortened, and its study and parent run."""
    (words,) = [words for words in SEARCHES if name_of(words) == name]
    small = () if name.startswith("shades") else ("data.n_train=200",)
    deep = (
        ()
        if "space.bounds.n_hidden" in " ".join(words) or "arch=own" in words
        else ("arch.n_hidden=2",)
    )
    search = Search.compose(*words, *SHORT, *small, *deep, f"budget.n_trials={n_trials}")
    result = search.run(Console(quiet=True))
    return result, place.study(name), place.client.get_run(result.parent_run_id)


def params_of(place, parent):
    query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    return [run.data.params for run in place.client.search_runs([parent.info.experiment_id], query)]


@pytest.mark.slow
def test_a_data_set_of_ones_own(place):
    subprocess.run([sys.executable, "make_data.py"], check=True)
    result, _, parent = ran(place, "shades-selu", 1)
    assert result.version.name == "shades-selu"
    (given,) = parent.inputs.dataset_inputs
    assert '"n_classes": 3' in given.dataset.profile


@pytest.mark.slow
def test_a_hypermodel_of_ones_own_and_settings_of_it(place):
    result, study, parent = ran(place, "digits-own")
    assert {"depth", "width", "optimizer", "weight_decay"} <= study.trials[0].params.keys()
    assert parent.data.params["arch.activation"] == "elu"
    assert result.version.name == "digits-own"


@pytest.mark.slow
def test_settings_become_hyperparameters_and_reach_the_model(place):
    result, study, parent = ran(place, "digits-deeper")
    drawn = {"n_hidden", "activation", "weight_decay", "batch_size", "learning_rate"}
    assert drawn <= study.trials[0].params.keys()
    recorded = params_of(place, parent)
    assert len(recorded) == 2
    for params in recorded:
        assert drawn <= params.keys()
        assert (
            not {"arch.n_hidden", "training.batch_size", "optimizer.weight_decay"} & params.keys()
        )
    best = result.outcome.best
    version = place.client.get_model_version_by_alias("digits-deeper", "champion")
    model = Registry(place.client, import_own_code).kept(version.run_id)
    dense = [layer for layer in model.layers if type(layer).__name__ == "Dense"]
    assert len(dense) - 1 == best.params["n_hidden"]


@pytest.mark.slow
def test_a_conditional_space(place):
    _, study, _ = ran(place, "digits-either", 4)
    assert len(study.trials) == 4
    for trial in study.trials:
        other = {"dense": "n_filters", "convolution": "n_units"}[trial.params["kind"]]
        assert other not in trial.params
        assert 4 <= trial.params.get("n_filters", 4) <= 8


@pytest.mark.slow
def test_two_objectives_end_in_a_front_and_two_aliases(place):
    result, study, parent = ran(place, "digits-fast", 4)
    assert len(study.directions) == 2
    assert "figures/pareto.png" in {
        f.path for f in place.client.list_artifacts(parent.info.run_id, "figures")
    }
    champion, fastest = (
        place.client.get_model_version_by_alias("digits-fast", a) for a in ("champion", "fastest")
    )
    assert {float(champion.tags["val/loss"])} == {min(t.values[0] for t in study.best_trials)}
    assert float(fastest.tags["model/latency_ms"]) <= float(champion.tags["model/latency_ms"])
    assert result.cheapest.alias == "fastest"
    assert [len(t.intermediate_values) for t in study.trials] == [1, 1, 1, 1]


@pytest.mark.slow
def test_models_beyond_a_constraint_are_not_trained(place):
    result, study, parent = ran(place, "digits-small", 6)
    states = {t.state.name: t for t in study.trials}
    assert states.keys() == {"COMPLETE", "PRUNED"}, "the example's space should hold both sides"
    for trial in study.trials:
        beyond = trial.constraints["n_parameters"] > 0
        assert (
            beyond
            == (trial.user_attrs.get("reason") == "infeasible")
            == (not trial.intermediate_values)
        )
    assert result.outcome.n_infeasible == parent.data.metrics["trials/infeasible"] > 0


@pytest.mark.slow
def test_a_warm_start_tries_the_best_of_another_study_first_and_can_be_replayed(place):
    _, earlier, _ = ran(place, "digits-deeper")
    _, study, parent = ran(place, "digits-elu", 3)
    best = sorted((t for t in earlier.trials if t.value is not None), key=lambda t: t.value)[0]
    first = study.trials[0]
    assert first.user_attrs["warm_start"] == f"digits-deeper #{best.number}"
    assert first.params["learning_rate"] == best.params["learning_rate"]
    assert parent.data.tags["hpsearch.warm_start"].startswith("digits-deeper #")
    words = next(words for words in SEARCHES if name_of(words) == "digits-elu")
    job = entry.instantiate(Search.compose(*words, *SHORT).config)
    shared = SharedStudy.open(
        "digits-elu", storage=job.storage(), sampler=job.sampler(root_seed=job.seed),
        pruner=job.pruner, direction=Direction.MINIMIZE, budget=job.budget,
    )  # fmt: skip
    assert (
        replay(shared.optuna, shared.sampler).n_same,
        replay(shared.optuna, shared.sampler).differing,
    ) == (3, [])


@pytest.mark.slow
def test_mlflow_run_searches_a_hypermodel_outside_the_repository_with_depth_and_batch_size(
    tmp_path,
):
    models = tmp_path / "models"
    models.mkdir()
    (models / "mymodels.py").write_text(FILES["mymodels.py"])
    words = shlex.split(PROJECT)
    words[2] = str(ROOT)
    for small in (*SHORT, "data.n_train=200", f"storage.path={tmp_path}/optuna.db"):
        words[-2:-2] = ["-P", small]
    words[-2:-2] = ["-P", "trials=2"]
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    environment = {**os.environ, "PYTHONPATH": str(models), "MLFLOW_TRACKING_URI": uri}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    done = subprocess.run(
        words,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    trials = Workplace(tmp_path).runs("trial")
    assert len(trials) == 2
    for run in trials:
        assert int(run.data.params["depth"]) in range(1, 4)
        assert int(run.data.params["batch_size"]) in (16, 32, 64)


def test_a_module_that_cannot_be_imported_is_named_in_a_sentence():
    with pytest.raises(
        ConfigError, match=r"^arch\._target_ cannot be imported: .*nowhere.*PYTHONPATH names\.$"
    ):
        Search.compose("data=digits", "arch=own", "arch._target_=nowhere.SmallNet")


def test_search_is_imported_when_it_is_asked_for_and_no_sooner():
    code = (
        "import hpsearch, sys; assert 'hydra' not in sys.modules; "
        "hpsearch.Search; assert 'keras' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(SRC)}, check=True
    )
