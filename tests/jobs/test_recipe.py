"""A version is trained anew by its recipe: the same types, its own code, the data of its search."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from mlflow.entities.model_registry import ModelVersion

import small_training
from hpsearch.alternatives.settings import Uncertainty
from hpsearch.cli.building import built
from hpsearch.errors import ConfigError, ModelError
from hpsearch.jobs.alternatives import ensemble
from hpsearch.jobs.recipe import recorder
from hpsearch.models.own_code import import_own_code
from hpsearch.tracking.recipe import Recipe
from hpsearch.tracking.registry import Registry
from hpsearch.tracking.tracking import Tracking
from workplace import SRC, shell_environment

SETTINGS = Uncertainty(
    n_samples=2,
    shared_masks=False,
    seed=3,
    batch_size=64,
    memory_mb=64,
    from_logits=False,
    methods=["ensemble"],
    swag_samples=2,
    ensemble_seeds=2,
)
VALUES = {"width": "3", "flag": True, "l2": 1e-05, "units[0]": 7, "momentum": 0.1 + 0.2}
OWN = """
import keras

def build(hp):
    width, flag, l2 = hp.Choice("width", ["3", "4"]), hp.Boolean("flag"), hp.Float("l2", 1e-5, 1e-4)
    penalty = keras.regularizers.L2(l2)
    units = hp.Int("units[0]", 4, 8)
    assert isinstance(width, str) and isinstance(flag, bool) and isinstance(units, int)
    model = keras.Sequential([
        keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 16), keras.layers.Flatten(),
        keras.layers.Dense(units * int(width), "relu", kernel_regularizer=penalty),
        keras.layers.Dropout(0.2), keras.layers.Dense(10, "softmax"),
    ])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model
"""
ANEW = """
import json, sys, numpy
{before}
from hpsearch.alternatives.settings import Uncertainty
from hpsearch.cli.building import built
from hpsearch.errors import HpsearchError
from hpsearch.jobs.alternatives import ensemble
from hpsearch.models.own_code import import_own_code
from hpsearch.tracking.registry import Registry
from hpsearch.tracking.tracking import Tracking

tracking = Tracking(sys.argv[1], None, "spool", 1.0, 60.0, must_exist=True)
model, found = Registry(tracking.client, import_own_code).load("digits-own", "1")
known = built(tracking.recorded_config(found.tags["parent_run"])["data"]).for_search()
settings = Uncertainty(2, False, 0, 64, 64, False, ["ensemble"], 2, 2)
try:
    made = ensemble(tracking, found, known, settings, built, careful="", say=print)
except HpsearchError as error:
    print(json.dumps({{"error": str(error)}}))
else:
    shapes = [[w.shape for w in member.weights] for member in made.members]
    print(json.dumps({{"same": shapes == 2 * [[w.shape for w in model.weights]], "how": made.how}}))
"""


def opened(place, folder):
    """Return the store of a search, read as an evaluation reads it."""
    uri = f"sqlite:///{place.folder}/mlflow.db"
    return Tracking(uri, None, str(folder / "spool"), 1.0, 60.0, must_exist=True)


@pytest.fixture
def version(searched, tmp_path):
    """The store, the version and the data of the search that all tests share."""
    place, _ = searched
    tracking = opened(place, tmp_path)
    _, found = Registry(tracking.client, import_own_code).load("digits-selu", "1")
    config = tracking.recorded_config(found.tags["parent_run"])
    yield tracking, found, built(config["data"]).for_search()
    tracking.close(5.0)


def test_a_recipe_keeps_names_and_types():
    read = Recipe.read(Recipe(VALUES, "1-3.11-abc").tags())
    assert read == Recipe(VALUES, "1-3.11-abc")
    assert [type(value) for value in read.hyperparameters.values()] == [
        str,
        bool,
        float,
        int,
        float,
    ]
    assert Recipe.read({}) is None
    assert Recipe({f"name_{n}": 0.1 for n in range(1000)}, None).tags() == {}


class Sized(small_training.Net):
    """A HyperModel with a setting."""

    def __init__(self, size=1):
        super().__init__()
        self.size = size


def test_only_what_the_configuration_describes_is_recorded():
    def local(hp):
        return None

    def other():
        return Sized(3)

    other.__module__, other.__qualname__ = Sized.__module__, Sized.__qualname__
    config = {"arch": {"_target_": f"{Sized.__module__}.Sized", "_partial_": True, "size": 2}}
    for arch, is_recorded in (
        (partial(Sized, size=2), True),
        (partial(Sized), True),
        (partial(Sized, 2), False),
        (partial(Sized, size=2, thing=object()), False),
        (partial(other), False),
        (partial(local), False),
    ):
        assert bool(recorder(config, arch, None)(VALUES)) == is_recorded


def test_other_data_than_those_of_the_search_are_refused():
    found = ModelVersion("digits-selu", "3", 0)
    with pytest.raises(ConfigError, match="version 3 of digits-selu anew, for which data=made is"):
        ensemble(
            None,
            found,
            small_training.search_data(),
            SETTINGS,
            built,
            careful="other data",
            say=print,
        )


def test_a_version_of_no_search_is_refused():
    found = ModelVersion("theirs", "3", 0)
    with pytest.raises(ModelError, match="Version 3 of theirs was registered by no search"):
        ensemble(None, found, small_training.search_data(), SETTINGS, built, careful="", say=print)


@pytest.mark.slow
def test_the_members_are_models_of_the_recipe_and_repeat_themselves(version):
    tracking, found, known = version
    said = []
    made = ensemble(tracking, found, known, SETTINGS, built, careful="", say=said.append)
    assert said == ["Training 2 models anew with the hyperparameters of version 1 of digits-selu."]
    again = ensemble(tracking, found, known, SETTINGS, built, careful="", say=print)
    inputs = known.val.inputs[:50]
    np.testing.assert_array_equal(made.predict(inputs), again.predict(inputs))
    model, _ = Registry(tracking.client, import_own_code).load("digits-selu", "1")
    for member in made.members:
        assert [w.shape for w in member.weights] == [w.shape for w in model.weights]
        assert (made.predict(inputs).argmax(1) == known.val.targets[:50]).mean() > 0.5
    assert "(root seed 3)" in made.how


@pytest.mark.slow
def test_the_recipe_is_that_of_the_trial(version):
    tracking, found, _ = version
    run = tracking.client.get_run(found.run_id)
    recipe = Recipe.read(run.data.tags)
    assert recipe.code is None
    assert "learning_rate" in recipe.hyperparameters
    for name, value in recipe.hyperparameters.items():
        assert run.data.params[name] == str(value)


@pytest.mark.slow
def test_a_version_of_an_earlier_hpsearch_is_refused(searched_copy, tmp_path, version):
    _, found, known = version
    searched_copy.client.delete_tag(found.run_id, Recipe.TAG)
    tracking = opened(searched_copy, tmp_path)
    with pytest.raises(ModelError, match="Nothing says how to train the model of version 1 of"):
        ensemble(tracking, found, known, SETTINGS, built, careful="", say=print)
    tracking.close(5.0)


@pytest.mark.slow
def test_own_code_goes_with_a_version_and_other_code_of_its_name_is_refused(
    workplace, tmp_path_factory
):
    (workplace.folder / "mymodels.py").write_text(OWN)
    words = ["data=digits", "data.n_train=300", "training.epochs=2", "training.jit_compile=false"]
    words += ["arch=own", "arch._target_=mymodels.build", "budget.n_trials=1", "pruner=none"]
    done = workplace.run(*words)
    assert done.returncode == 0, done.stderr
    (run,) = workplace.runs("trial")
    values = json.loads(run.data.tags[Recipe.TAG])["hyperparameters"]
    assert (type(values["width"]), type(values["units[0]"])) == (str, int)
    away = tmp_path_factory.mktemp("away")
    (away / "mymodels.py").write_text(OWN.replace("0.2", "0.7"))

    def anew(before):
        command = [sys.executable, "-P", "-c", ANEW.format(before=before)]
        uri = f"sqlite:///{workplace.folder}/mlflow.db"
        env = shell_environment() | {"PYTHONPATH": str(SRC)}
        done = subprocess.run(
            [*command, uri], cwd=away, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    found = anew("")
    assert found["same"], found
    refused = anew("sys.path.insert(0, '.'); import mymodels")
    assert "mymodels.build is not that with which version 1 of digits-own" in refused["error"]
