"""The models that a study has kept, as an ensemble gets them."""

import keras
import pytest
from mlflow import MlflowClient

from hpsearch.models.own_code import import_own_code
from hpsearch.tracking.names import check_name
from hpsearch.tracking.registry import Registry, named


@pytest.fixture
def client(workplace, monkeypatch):
    monkeypatch.chdir(workplace.folder)
    return workplace.client


def kept(
    client: MlflowClient, parent_run_id: str, folder, n_units: int, tags, *, status="FINISHED"
):
    """Make the run of a trial that has kept a model with `n_units` outputs."""
    run_id = client.create_run("0", tags={"mlflow.parentRunId": parent_run_id, **tags}).info.run_id
    client.log_metric(run_id, "best/val/loss", 1 / n_units)
    path = folder / "model.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(n_units)]).save(path)
    client.log_artifact(run_id, str(path), "checkpoint")
    client.set_terminated(run_id, status)


def test_the_models_of_a_study_are_those_of_finished_trials_the_lowest_loss_first(client, tmp_path):
    parent_run_id = client.create_run("0").info.run_id
    kept(client, parent_run_id, tmp_path, 1, {"hpsearch.end": "finished"})
    kept(client, parent_run_id, tmp_path, 2, {})  # as earlier versions have left it
    kept(client, parent_run_id, tmp_path, 3, {"hpsearch.end": "pruned"})
    kept(client, parent_run_id, tmp_path, 4, {"hpsearch.end": "killed"}, status="KILLED")
    models = Registry(client, import_own_code).kept_of_study(parent_run_id)
    assert [model.output_shape for model in models] == [(None, 2), (None, 1)]


@pytest.mark.parametrize("name", ["plain", "Tim's model", 'the "best"', "a % b -- c"])
def test_versions_are_found_by_any_name_that_is_taken(client, name):
    check_name("study.name", name)
    client.create_registered_model(name)
    client.create_model_version(name, "file:///nowhere")
    assert [version.name for version in client.search_model_versions(named(name))] == [name]
