"""Test that a registered model includes its own code and works in a fresh process."""

import importlib
import json
import re
import subprocess
import sys
from textwrap import dedent

import keras
import keras_tuner
import numpy as np
import pytest
import requests

import people
from conftest import free_port, serving
from hpsearch.errors import ModelError
from hpsearch.models.own_code import import_own_code, own_code
from hpsearch.serving.fresh_process import first_line
from hpsearch.serving.measured_again import check_before, cure
from project_files import FILES
from workplace import SRC, shell_environment

TINY = (
    "data=digits",
    "training.epochs=2",
    "training.jit_compile=false",
    "pruner=none",
    "uncertainty.n_samples=2",
)
OWN = (*TINY, "arch=own", "budget.n_trials=1")
NET = """
import keras, keras_tuner
from keras import layers
{imports}
{classes}
class Net(keras_tuner.HyperModel):
    def __init__(self, image_shape, n_classes):
        super().__init__()
        self.image_shape, self.n_classes = image_shape, n_classes

    def build(self, hp):
        rate = hp.Float("learning_rate", 1e-3, 1e-2, sampling="log")
        hidden = {layer}
        model = keras.Sequential([
            keras.Input(self.image_shape),
            layers.Rescaling(1 / 16),
            layers.Flatten(),
            layers.Dense(32, "relu"),
            hidden,
            layers.Dropout(hp.Float("dropout_rate", 0.1, 0.3)),
            layers.Dense(self.n_classes, "softmax"),
        ])
        {after}
        model.compile(keras.optimizers.Adam(rate), {loss}, metrics=["accuracy"])
        return model
"""
SCALE = """
@keras.saving.register_keras_serializable()
class Scale(keras.layers.Layer):
    factor = 1.0

    def call(self, x):
        return x * self.factor
"""
OWN_FIT = """
    def fit(self, hp, model, *args, **kwargs):  # trains the model object that it receives
        return model.fit(*args, **kwargs)
"""
PARTS = {"imports": "", "classes": "", "layer": "layers.Activation('relu')", "after": "",
         "loss": "'sparse_categorical_crossentropy'"}  # fmt: skip
ELSEWHERE = """
import json, sys, mlflow, numpy
served = mlflow.pyfunc.load_model(sys.argv[1])
images = numpy.zeros((2, 8, 8, 1), served.metadata.signature.inputs.inputs[0].type)
print(json.dumps({"answers": len(served.predict(images)), "layers": [
    type(layer).__module__ for layer in mlflow.keras.load_model(sys.argv[1]).layers]}))
"""


def net(**parts):
    return NET.format(**PARTS | parts) + OWN_FIT


def state(place, name):
    """Return aliases and tags of all versions."""
    model = place.client.get_registered_model(name)
    found = place.client.search_model_versions(f"name='{name}'")
    aliases = {alias: str(number) for alias, number in model.aliases.items()}
    return aliases, {str(v.version): dict(v.tags) for v in found}


def versions(place):
    return place.client.search_model_versions()


def elsewhere(place, tmp_path_factory, uri):
    """Load a version without this project and without the user's folder, as another user would."""
    env = {key: value for key, value in shell_environment().items() if key != "PYTHONPATH"}
    env["MLFLOW_TRACKING_URI"] = f"sqlite:///{place.folder}/mlflow.db"
    folder = tmp_path_factory.mktemp("elsewhere")
    done = subprocess.run(
        [sys.executable, "-P", "-c", ELSEWHERE, uri],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_pages_own_example_is_registered_evaluated_and_served_elsewhere(
    workplace, tmp_path_factory
):
    (workplace.folder / "mymodels.py").write_text(FILES["mymodels.py"])
    words = (*OWN, "arch._target_=mymodels.SmallNet", "data.n_train=600")
    done = workplace.run(*words)
    assert done.returncode == 0, done.stderr
    assert "again in a fresh process" in done.stdout
    before = state(workplace, "digits-own")
    assert before[0] == {"champion": "1"}
    best = workplace.study("digits-own").best_value
    assert float(before[1]["1"]["hpsearch.measured_again"]) == pytest.approx(best, rel=1e-3)
    found = elsewhere(workplace, tmp_path_factory, "models:/digits-own/1")
    assert found["answers"] == 2
    assert "mymodels" in found["layers"]
    again = workplace.run(*words)
    assert "it is the champion already" in again.stdout
    assert "fresh process" not in again.stdout
    assert state(workplace, "digits-own") == before
    away = type(workplace)(tmp_path_factory.mktemp("away"))
    uri = f"sqlite:///{workplace.folder}/mlflow.db"
    examined = away.run(
        "registered_model=digits-own", "version=1", f"tracking.uri={uri}", script="evaluate"
    )
    assert examined.returncode == 0, examined.stderr + examined.stdout
    port = free_port()
    command = "mlflow models serve -m models:/digits-own/1 --env-manager local"
    command += f" --host 127.0.0.1 --port {port}"
    env = {key: value for key, value in shell_environment().items() if key != "PYTHONPATH"}
    with serving(command, away.folder, port, env | {"MLFLOW_TRACKING_URI": uri}, 240) as server:
        image = np.zeros((1, 8, 8, 1), int).tolist()
        asked = requests.post(server.url, json={"instances": image}, timeout=60)
    assert len(asked.json()["predictions"]) == 1, asked.text


@pytest.mark.slow
def test_a_package_brings_its_helpers_from_a_study_of_two_workers(workplace, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    (models / "nets" / "inner").mkdir(parents=True)
    (models / "nets" / "__init__.py").write_text("")
    (models / "nets" / "inner" / "parts.py").write_text(
        "import keras\nfrom beside import FACTOR\n" + SCALE
    )
    (models / "nets" / "small.py").write_text(
        net(imports="from .inner.parts import Scale", layer="Scale()")
    )
    (models / "beside.py").write_text("FACTOR = 2\n")
    words = (*OWN, "arch._target_=nets.small.Net", "budget.n_trials=2")
    path = f"{SRC}:{models}"
    workers = [workplace.start(*words, f"worker={n}", PYTHONPATH=path) for n in range(2)]
    ended = [(*worker.communicate(timeout=300), worker.returncode) for worker in workers]
    assert [status for *_, status in ended] == [0, 0], ended
    assert state(workplace, "digits-own")[0] == {"champion": "1"}
    assert (
        "nets.inner.parts"
        in elsewhere(workplace, tmp_path_factory, "models:/digits-own/1")["layers"]
    )


MADE_IN_BUILD = """
def made():
    @keras.saving.register_keras_serializable()
    class Scale(keras.layers.Layer):
        def call(self, x):
            return 2 * x
    return Scale()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"classes": SCALE, "layer": "Scale()", "after": "hidden.factor = -1.0"},
         r"the study reports val/loss [\d.]+, but loaded in a fresh process it has [\d.]+;"),
        ({"classes": MADE_IN_BUILD, "layer": "made()"},
         r"Could not locate class 'Scale'.*register its classes with @"),
    ],
    ids=["state that get_config loses", "a class that is registered while a model is built"],
)  # fmt: skip
def test_a_model_that_a_fresh_process_does_not_give_back_is_not_registered(workplace, parts, said):
    (workplace.folder / "own.py").write_text(net(**parts))
    done = workplace.run(*OWN, "arch._target_=own.Net")
    assert done.returncode == 1
    warned = "the loaded one gives other outputs" in done.stdout.replace("\n", " ")
    assert warned == ("after" in parts)
    (line,) = [
        line
        for line in done.stderr.splitlines()
        if line.startswith("Error: The model of trial 0 is not")
    ]
    assert re.search(said, line)
    assert list(versions(workplace)) == []
    assert workplace.study("digits-own").trials[0].state.name == "COMPLETE"


@pytest.mark.slow
def test_a_closure_as_loss_is_known_by_the_models_outputs(workplace):
    classes = dedent("""
        def smoothed(share):
            def sparse_categorical_smoothed(y, p):
                return keras.losses.sparse_categorical_crossentropy(y, p) + share
            return sparse_categorical_smoothed
    """)
    (workplace.folder / "own.py").write_text(net(classes=classes, loss="smoothed(0.1)"))
    done = workplace.run(*OWN, "arch._target_=own.Net")
    assert done.returncode == 0, done.stderr
    assert state(workplace, "digits-own")[1]["1"]["hpsearch.measured_again"].startswith(
        "by its outputs: Could not"
    )


@pytest.mark.slow
def test_a_model_no_better_than_chance_is_no_champion_and_says_why(workplace):
    words = (*TINY, "arch.n_hidden=2", "budget.n_trials=1", "space.bounds.learning_rate=1e-9")
    done = workplace.here(*words, "space.bounds.dropout_rate=0")
    assert done.returncode == 0, done.stderr
    before = state(workplace, "digits-selu")
    aliases, tags = before
    assert aliases == {"challenger": "1"}
    assert "is no better than chance" in tags["1"]["hpsearch.not_champion_because"]
    assert "dropout" in tags["1"]["hpsearch.not_evaluated_because"]
    assert "alias challenger (val/nll" in done.stdout
    workplace.here(*words, "space.bounds.dropout_rate=0")
    assert state(workplace, "digits-selu") == before


def config(*modules):
    return {"layers": [{"class_name": "Own", "module": module, "config": {}} for module in modules]}


@keras.saving.register_keras_serializable("tests")
class Wider(keras.layers.Layer):
    """A layer with an argument that Keras cannot write into a configuration."""

    def __init__(self, factors, **given):
        super().__init__(**given)
        self.factors = sum(factors)

    def call(self, inputs):
        return inputs * self.factors


@keras.saving.register_keras_serializable("tests")
class Told(keras.layers.Layer):
    """A layer that gets a setting after its construction."""

    factor = 1.0

    def call(self, inputs):
        return inputs * self.factor


@keras.saving.register_keras_serializable("tests")
class Noisy(keras.layers.Layer):
    """A layer that draws random numbers outside training."""

    def call(self, inputs):
        return inputs * keras.random.uniform((1, 24))


class Unregistered(Told):
    """A layer that Keras does not know by name."""


def told():
    layer = Told()
    layer.factor = 8.0
    return layer


IMAGES = np.random.default_rng(0).integers(0, 17, (5, 8, 8, 1)).astype("uint8")


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (lambda: keras.layers.Lambda(lambda x: 2 * x), "put a named function in its place"),
        (lambda: keras.layers.Activation(lambda x: 2 * x), "put a named function in its place"),
        (lambda: Wider({2.0, 3.0}), "give each a get_config"),
        (Unregistered, "Could not locate class 'Unregistered'"),
    ],
    ids=["lambda layer", "lambda activation", "no get_config", "not registered"],
)
def test_what_a_file_does_not_give_back_is_refused_before_a_search(layer, said):
    model = people.dense(layer())
    with pytest.raises(ModelError, match=said) as refused:
        check_before(model, IMAGES, "float32")
    assert str(refused.value).startswith("The models of this search could not be registered: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (told, "neither among its weights nor in a get_config"),
        (Noisy, "draws at random outside training"),
    ],
)
def test_what_a_file_gives_back_otherwise_is_warned_of_before_a_search(layer, said):
    assert said in (check_before(people.dense(layer()), IMAGES, "float32") or "")


@pytest.mark.parametrize("name", people.BUILDS)
def test_what_people_write_is_refused_only_where_keras_cannot_load_it(name):
    model = people.BUILDS[name]()
    if not model.built:
        model(IMAGES)
    is_unknown = any(
        type(part).__module__ == "people" for part in (model, *model._flatten_layers())
    )
    if is_unknown or name == "functions_as_loss_metric_activation":  # its activation is a lambda
        with pytest.raises(
            ModelError, match="could not be registered: Keras cannot save and load one"
        ):
            check_before(model, IMAGES, model.dtype_policy.name)
    else:
        assert check_before(model, IMAGES, model.dtype_policy.name) is None


def test_a_search_whose_models_could_not_be_registered_does_not_begin(workplace, monkeypatch):
    monkeypatch.syspath_prepend(workplace.folder)
    (workplace.folder / "own_lambda.py").write_text(net(layer="layers.Lambda(lambda x: 2 * x)"))
    done = workplace.here(*OWN, "arch._target_=own_lambda.Net")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert "put a named function in its place" in line
    assert not (workplace.folder / "optuna.db").exists()
    assert workplace.runs("study") == []


def test_what_keras_says_of_a_lambda_is_answered_with_what_helps():
    said = (
        "The `function` of this `Lambda` layer is a Python lambda. ... passing `safe_mode=False` "
        "to the loading func"
    )
    assert "put a named function in its place" in cure(said)
    assert "get_config()" in cure("Could not locate class 'Gain'")


def test_own_code_is_what_nobody_can_install(tmp_path, monkeypatch):
    folder = tmp_path / "own_namespace" / "deep"
    folder.mkdir(parents=True)
    (folder / "net.py").write_text(
        "import os, json, yaml\nfrom own_helper import *\nfrom . import sibling\n"
    )
    (folder / "sibling.py").write_text("import hpsearch\n")
    for name in (".env", "large.npz", "scale.json", "key.pem"):
        (folder / name).write_bytes(bytes(2_000_000 if name == "large.npz" else 10))
    (tmp_path / "own_helper.py").write_text("from own_namespace.deep import net\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = own_code(
        config("own_namespace.deep.net", "keras.layers", "keras_tuner.tuners", "__main__")
    )
    assert set(found.places) == {"own_namespace", "own_helper"}
    assert list(found.modules) == ["keras_tuner.tuners", "own_namespace.deep.net"]
    assert {line.partition("==")[0].lower() for line in found.requirements} == {
        "keras-tuner",
        "pyyaml",
    }
    found.copy(tmp_path / "code")
    copied = sorted(
        str(p.relative_to(tmp_path / "code")) for p in (tmp_path / "code").rglob("*") if p.is_file()
    )
    assert copied == [
        "own_helper.py",
        *(f"own_namespace/deep/{name}" for name in ("net.py", "scale.json", "sibling.py")),
    ]


def test_saved_code_is_imported_first_and_found_last_afterwards(tmp_path, monkeypatch):
    for folder, word in (("mine", "edited"), ("code", "saved")):
        (tmp_path / folder).mkdir()
        for name in ("own_saved_a", "own_saved_b"):
            (tmp_path / folder / f"{name}.py").write_text(f"WORD = '{word}'\n")
    (tmp_path / "code" / "own_saved_later.py").write_text("WORD = 'saved'\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "mine"), *sys.path])
    before = list(sys.path)
    for _ in range(2):
        import_own_code(tmp_path, {"modules": ["own_saved_a"], "code": "code"})
    assert sys.path == [*before, str(tmp_path / "code")]
    words = []
    for name in ("own_saved_a", "own_saved_b", "own_saved_later"):
        words.append(importlib.import_module(name).WORD)
        sys.modules.pop(name)
    assert words == ["saved", "edited", "saved"]


def test_an_installed_hypermodel_whose_models_are_keras_own_brings_nothing():
    found = own_code(config("keras.layers"), [keras_tuner.applications.HyperResNet])
    assert (found.modules, found.places, found.requirements) == ([], {}, [])


def test_a_librarys_message_is_told_without_its_configurations():
    assert (
        first_line(TypeError("Could not locate class 'A'. Full object config: {'a': 1}"))
        == "Could not locate class 'A'."
    )
    assert (
        first_line(TypeError("Where.\n\nconfig={'x': 1}.\n\nException encountered: What."))
        == "What."
    )
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 1000))) < 400
