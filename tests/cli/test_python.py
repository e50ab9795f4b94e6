"""`hpsearch.search` is the command `search` with arrays: same study, same trials, same mistakes."""

import inspect
import io
import json
import os
import sys
import types
from contextlib import chdir
from functools import partial
from pathlib import Path
from typing import get_type_hints
from unittest import mock

import keras
import keras_tuner
import numpy as np
import optuna
import pandas as pd
import pytest
from keras import layers
from rich.console import Console
from sklearn.datasets import load_digits

import hpsearch
from hpsearch.cli.api import _factory, _is_of, _speaking_python, _words_of_model
from hpsearch.cli.command_line import composed
from hpsearch.cli.config_files import ConfigFiles
from hpsearch.cli.words import _OTHERS, Keywords, in_python, words_of
from hpsearch.command_form import in_form
from hpsearch.data.given import arrays_of
from hpsearch.data.statistics import measure
from hpsearch.errors import ConfigError, DataError, ModelError, UserError
from hpsearch.jobs.search_result import SearchResult
from hpsearch.models.architecture import build_hypermodel, build_model
from hpsearch.study.direction import Direction
from hpsearch.tracking.mlflow_settings import mlflow_settings_kept
from hpsearch.tracking.tracking import Tracking
from hpsearch.trials.progress import Progress

GUIDE = '''
import keras
from keras import layers


def build_model(hp):
    """The first model of KerasTuner's guide."""
    model = keras.Sequential()
    model.add(layers.Flatten())
    model.add(
        layers.Dense(
            units=hp.Int("units", min_value=32, max_value=512, step=32),
            activation=hp.Choice("activation", ["relu", "tanh"]),
        )
    )
    if hp.Boolean("dropout"):
        model.add(layers.Dropout(rate=0.25))
    model.add(layers.Dense(10, activation="softmax"))
    learning_rate = hp.Float("lr", min_value=1e-4, max_value=1e-2, sampling="log")
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=learning_rate),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def simple_convnet(hp):
    """The model of Keras's guide, with two hyperparameters."""
    model = keras.Sequential(
        [
            keras.Input(shape=(8, 8, 1)),
            layers.Conv2D(hp.Int("filters", 8, 16, 8), kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    adam = keras.optimizers.Adam(hp.Float("learning_rate", 1e-4, 1e-2, sampling="log"))
    model.compile(loss="categorical_crossentropy", optimizer=adam, metrics=["accuracy"])
    return model
'''
LEFT_OUT = ("calibration", "ensembles")
X = np.zeros((40, 3), "float32")
Y = np.arange(40) % 2


def flat(hp, n_classes, width=4):
    """A model of inputs (N, D) or (N, H, W), with labels as they come."""
    model = keras.Sequential(
        [
            layers.Flatten(),
            layers.Dense(width, "relu"),
            layers.Dropout(0.2),
            layers.Dense(n_classes, "softmax"),
        ]
    )
    adam = keras.optimizers.Adam(hp.Float("rate", 1e-3, 1e-1, sampling="log"))
    model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def not_compiled(hp):
    rate = hp.Float("rate", 0.0, 0.5)
    return keras.Sequential([layers.Dropout(rate), layers.Dense(2, "softmax")])


GIVEN = {"validation_data": (X, Y)}


class Layer(layers.Dense):
    """A layer whose class a test moves into `__main__`."""


def with_own_layer(hp):
    model = keras.Sequential([keras.Input((3,)), Layer(2, activation="softmax")])
    model.compile(keras.optimizers.SGD(hp.Float("rate", 0.1, 0.2)), "categorical_crossentropy")
    return model


@pytest.fixture
def place(workplace):
    """A folder with MLflow's tables and a module of a person's own, from which Python imports."""
    (workplace.folder / "guide_models.py").write_text(GUIDE)
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{workplace.folder}/mlflow.db"}
    sys.modules.pop("guide_models", None)
    with (
        mock.patch.dict(os.environ, store),
        mock.patch.object(sys, "path", [str(workplace.folder), *sys.path]),
        chdir(workplace.folder),
    ):
        yield workplace


def search(build_model, x, y, **given):
    """Search with few passes of MC Dropout and no output."""
    config = {"uncertainty.n_samples": 4, "training.jit_compile": False, **given.pop("config", {})}
    return hpsearch.search(build_model, x, y, config=config, console=Console(quiet=True), **given)


def digits():
    bunch = load_digits()
    images = (bunch.images[..., np.newaxis] / 16).astype("float32")
    rows = keras.utils.to_categorical(bunch.target, 10)
    return images, rows


def trials_of(study):
    found = []
    for trial in study.trials:
        found.append((trial.params, trial.state.name, trial.value, trial.intermediate_values))
    return found


def refused(call, *arguments, **keywords):
    """Return the sentence with which a call is refused."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **keywords)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "goes_on"), [("build_model", True), ("simple_convnet", False)])
def test_a_guides_model_is_searched_as_by_the_command_and_either_goes_on(place, name, goes_on):
    import guide_models  # noqa: PLC0415 (the fixture has written it)

    x, y = digits()
    parts = {
        "x_train": x[:300],
        "y_train": y[:300],
        "x_val": x[300:500],
        "y_val": y[300:500],
        "x_test": x[500:700],
        "y_test": y[500:700],
    }
    np.savez("digits.npz", **parts)
    words = [
        *("data=npz", "data.path=digits.npz", "arch=own", f"arch._target_=guide_models.{name}"),
        *("training.epochs=1", "seed=3", "uncertainty.n_samples=4", "training.jit_compile=false"),
    ]
    function = partial(
        search,
        getattr(guide_models, name),
        parts["x_train"],
        parts["y_train"],
        validation_data=(parts["x_val"], parts["y_val"]),
        test_data=(parts["x_test"], parts["y_test"]),
        epochs=1,
        seed=3,
    )
    result = function(n_trials=2, study_name="there")
    # The numbers of a trial follow from the name of its study, so each has a storage of its own.
    storage = "storage.path=other.db"
    done = place.here(*words, "study.name=there", "budget.n_trials=2", storage)
    assert done.returncode == 0, done.stderr
    mine = place.study("there")
    theirs = optuna.load_study(study_name="there", storage="sqlite:///other.db")
    assert trials_of(mine) == trials_of(theirs)
    assert mine.user_attrs["settings"] == theirs.user_attrs["settings"]
    assert result.best.value == min(t.value for t in mine.trials if t.value is not None)
    assert result.best.hyperparameters == mine.trials[result.best.number].params
    if not goes_on:
        return
    # The command goes on with the function's study, and the function with the command's.
    done = place.here(*words, "study.name=there", "budget.n_trials=3")
    assert done.returncode == 0, done.stderr
    more = function(n_trials=4, study_name="there")
    assert list(more.trials()["number"]) == [0, 1, 2, 3]
    loaded = more.model()
    assert loaded.predict(x[:5], verbose=0).shape == (5, 10)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "labels"), [((5,), "column"), ((2, 3, 4, 2), "rows")])
def test_inputs_of_any_shape_are_searched_evaluated_and_served(place, shape, labels):
    rng = np.random.default_rng(0)
    y = np.arange(240) % 3
    x = rng.normal(size=(240, *shape)) + y.reshape(-1, *[1] * len(shape))
    targets = {
        "whole": y.astype(float).tolist(),
        "column": pd.DataFrame({"class": y}),
        "rows": np.eye(3)[y],
    }[labels]
    result = search(
        flat, x.tolist(), targets, test_data=(x[:60], y[:60]), n_val=60, n_trials=1, epochs=2
    )
    assert result.evaluation is not None
    assert result.model().input_shape == (None, *shape)
    assert list(result.trials().columns) == [
        *("number", "end", "value", "epochs", "duration_s", "rate"),
    ]
    assert "rate" in result._repr_html_()
    arrays = {"x_train": x, "y_train": y, "x_test": x[:60], "y_test": y[:60]}
    np.savez("given.npz", **arrays)
    words = (
        "registered_model=npz-own",
        "version=1",
        *(f"parts.{name}=null" for name in LEFT_OUT),
    )
    done = place.here(*words, script="evaluate")
    assert "given to hpsearch.search and are not stored" in done.stderr
    done = place.here(*words, "data_path=given.npz", "--json", script="evaluate")
    assert done.returncode == 0, done.stderr
    evaluated = result.evaluate(config=dict.fromkeys(f"parts.{name}" for name in LEFT_OUT))
    told = json.loads(done.stdout)
    assert evaluated.metrics() == told["metrics"]
    page = Path(evaluated.page).read_text()
    assert all(section.title in page for section in evaluated.answers.sections)
    assert "another than in the search" not in page + Path(told["page"]).read_text()
    assert "config must not have data" in refused(result.evaluate, config={"data": "digits"})
    store = {"+tracking.uri": "http://host"}
    assert "the MLflow store of its search" in refused(result.evaluate, config=store)
    assert "Did you mean 'shift'" in refused(result.evaluate, config={"parts.shft": None})
    left_out = dict.fromkeys(f"parts.{name}" for name in ("verdict", "rates", "passes", *LEFT_OUT))
    half = result.evaluate((x[:30], y[:30]), left_out)
    assert "another than in the search" in Path(half.page).read_text()
    import mlflow  # noqa: PLC0415

    served = mlflow.pyfunc.load_model(result.version.uri)
    answer = served.predict(x[:3].astype("float32"))
    assert len(answer) == 3


def with_elu(function):
    """Return a function as a person may have changed it: under the same name, with ELU."""
    code = function.__code__
    constants = tuple({"relu": "elu"}.get(constant, constant) for constant in code.co_consts)
    code = code.replace(co_consts=constants)
    made = types.FunctionType(code, function.__globals__, argdefs=function.__defaults__)
    made.__module__ = function.__module__
    return made


@pytest.mark.slow
def test_without_test_data_nothing_is_evaluated_and_a_second_call_returns_the_same(place):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 4)), np.arange(100) % 2
    given = {"validation_data": (x, y), "epochs": 1}
    call = partial(search, flat, x, y, n_trials=1, **given)
    first, second = call(), call()
    assert first.evaluation is None
    assert "had no test data: give them here" in refused(first.evaluate)
    assert "test_data to be a pair" in refused(first.evaluate, x)
    left_out = dict.fromkeys(f"parts.{name}" for name in (*LEFT_OUT, "verdict", "rates", "passes"))
    shown = Console(file=io.StringIO(), width=200)
    evaluated = first.evaluate((x[:40], y[:40]), left_out, shown)
    assert "test/mc/nll" in evaluated.metrics()
    assert f"The page is {evaluated.page}\n" in shown.file.getvalue()
    assert first.best == second.best
    assert first.version.number == second.version.number
    version = place.client.get_model_version("npz-own", "1")
    assert "no test part" in version.tags["hpsearch.not_evaluated_because"]
    other = call(study_name="other")
    assert other.study_name == "other"
    np.savez("given.npz", x_train=x, y_train=y, x_val=x, y_val=y)
    words = ("registered_model=npz-own", "version=1")
    done = place.here(*words, "data_path=given.npz", script="evaluate")
    assert done.returncode == 2
    assert "has no test part" in done.stderr
    with pytest.raises(ConfigError, match="npz-own was made with other code of flat than it has"):
        search(with_elu(flat), x, y, n_trials=2, **given)
    may_change = {"study.changed_code": True}
    third = search(with_elu(flat), x, y, n_trials=2, config=may_change, **given)
    note = place.client.get_run(third.parent_run_id).data.tags["mlflow.note.content"]
    assert "the code of the model was changed before trial #1" in note


class Model(keras_tuner.HyperModel):
    def __init__(self, n_classes, width=4):
        super().__init__()
        self.n_classes, self.width = n_classes, width

    def build(self, hp):
        return flat(hp, self.n_classes, self.width)


class Nets:
    def build(self, hp):
        return flat(hp, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [Model(2), lambda hp: flat(hp, 2)],
    ids=["instance", "lambda"],
)
def test_all_that_builds_models_is_taken(place, given):
    result = search(given, X, Y, validation_data=(X, Y), n_trials=1, epochs=1, study_name="a")
    assert result.version.name == "a"


def unnamed(*arguments):
    return flat(*arguments, 2)


@pytest.mark.parametrize(
    "given",
    [Model, partial(flat, width=3), Nets().build, unnamed, lambda hp, /: flat(hp, 2)],
    ids=["class", "partial", "bound method", "any arguments", "by place"],
)
def test_so_is_any_other_callable(given):
    statistics = measure(X, 2)
    hypermodel = build_hypermodel(_factory(given), statistics, keras.optimizers.Adam)
    model = build_model(hypermodel, keras_tuner.HyperParameters(), statistics.image_shape)
    assert model.output_shape == (None, 2)


def test_a_partial_keeps_what_it_holds():
    factory = _factory(partial(flat, width=(1, 2), other=np.array([1.0, 2.0])))
    assert _words_of_model(factory)[2:] == ["+arch.width=[1,2]", "+arch.other=[1.0,2.0]"]
    assert _is_of(factory, "width", [1, 2])
    assert not _is_of(factory, "width", [1, 3])
    assert not _is_of(factory, "n_classes", 2)


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({"n_trails": 3}, ConfigError, "no keyword n_trails. Did you mean 'n_trials'"),
        ({"max_trials": 3}, ConfigError, "no keyword max_trials: give n_trials"),
        ({"sample_weight": Y}, ConfigError, "sample weights cannot be searched"),
        ({"pruner": "promotin"}, ConfigError, 'no pruner="promotin". Did you mean .promoting'),
        ({"config": {"training.epoch": 3}}, ConfigError, "Did you mean 'epochs'"),
        ({"epochs": "many"}, ConfigError, "^epochs must be a whole number"),
        (
            {"config": {"data.n_train": "a"}, **GIVEN},
            DataError,
            r'Expected config\["data.n_train"\]',
        ),
        ({"config": {"seed": object()}}, ConfigError, "Expected seed to be a number, a text"),
        ({"study_name": "${seed}"}, ConfigError, "without .* in study_name, which would refer"),
        ({"space": 3}, ConfigError, "Expected space to be a dictionary"),
        ({"space": {3: 0.9}}, ConfigError, "Expected texts as keys of space, received 3"),
        ({"config": {3: 3}}, ConfigError, "Expected texts as keys of config, received 3"),
        ({"config": {None: 3}}, ConfigError, "Expected texts as keys of config, received None"),
        ({"n_trials": 3, "config": {"budget.n_trials": 4}}, ConfigError, "is given twice"),
        ({"config": {"data": "digits"}}, ConfigError, "config must not have data"),
        ({"config": {"seed": ValueError}}, ConfigError, "Expected seed to be a number, a text"),
        ({"validation_data": (X, Y, Y)}, DataError, "a third element: sample weights"),
        ({"validation_data": X}, DataError, "a pair of arrays"),
        ({"x": {"a": X}}, DataError, "several inputs or outputs"),
        ({"x": [X, X[:, :2]]}, DataError, "several inputs or outputs"),
        ({"x": [[1, 2], [3]]}, DataError, "that NumPy cannot convert"),
        ({"x": [[[1, 2], [3]], [[1], [2]]]}, DataError, "that NumPy cannot convert"),
        ({"x": np.ma.masked_less(X, 1)}, DataError, "a MaskedArray with masked values"),
        ({"class_names": 3}, DataError, "a list with a name for each class, received 3"),
        ({"class_names": "ab"}, DataError, "a list with a name for each class, received 'ab'"),
        ({"class_names": {"a", "b"}}, DataError, "a list with a name for each class"),
        ({"x": np.array([["a", "b"]])}, DataError, "turn texts and categories into numbers"),
        ({"x": (batch for batch in [X])}, DataError, "generators of batches"),
        ({"y": None}, DataError, "Expected y to be an array of numbers, received None"),
        ({"y": np.full((40, 2), 0.5)}, DataError, "rows that are not one 1 among zeros"),
        ({"build_model": keras.Sequential()}, ConfigError, "a function build_model"),
        ({"build_model": dict}, ConfigError, "a function build_model"),
        ({"build_model": not_compiled, **GIVEN}, ModelError, "whose compile was not called"),
    ],
)
def test_mistakes_are_answered_in_a_sentence_before_anything_is_made(
    tmp_path, given, error, sentence
):
    words = {"build_model": flat, "x": X, "y": Y, **given}
    with chdir(tmp_path), pytest.raises(error, match=sentence):
        hpsearch.search(words.pop("build_model"), words.pop("x"), words.pop("y"), **words)
    assert not list(tmp_path.iterdir())


def test_a_console_is_one_of_rich():
    with pytest.raises(ConfigError, match=r"rich\.console\.Console, received a bool\."):
        hpsearch.search(flat, X, Y, console=True)


def test_data_whose_fifth_has_not_each_class_are_refused_in_the_known_sentence(tmp_path):
    with chdir(tmp_path), pytest.raises(DataError, match=r"Expected n_val .* received 1\."):
        search(flat, X[:6], Y[:6])
    assert not list(tmp_path.iterdir())


def test_a_table_of_numbers_and_booleans_is_taken():
    floats = pd.DataFrame({"a": [0.5, 1.5], "b": [True, False]})
    found = arrays_of(floats, [0, 1], None, None, np.array(["no", "yes"]))
    assert np.array_equal(found.x_train, [[0.5, 1], [1.5, 0]])
    assert found.class_names == ("no", "yes")
    whole = pd.DataFrame({"a": [2**24 + 1, 2], "b": [True, False]})
    assert arrays_of(whole, [0, 1], None, None, None).x_train.dtype == np.int64
    with pytest.raises(DataError, match="turn texts and categories into numbers"):
        arrays_of(pd.DataFrame({"a": ["x"], "b": [True]}), [0], None, None, None)


def test_the_settings_of_mlflow_are_the_persons_own_after_a_search(place, monkeypatch):
    import mlflow  # noqa: PLC0415

    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_ID")

    def state():
        uris = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
        return *uris, *(os.environ.get(name) for name in names)

    uri = os.environ["MLFLOW_TRACKING_URI"]
    found = []
    before = state()
    for experiment in ("one", None, "two"):
        with mlflow_settings_kept():
            found.append(Tracking(uri, experiment, "spool", 5, 5).experiment_id)
            assert os.environ["MLFLOW_EXPERIMENT_ID"] == found[-1]
        assert state() == before
    assert len(set(found)) == 3
    with mlflow_settings_kept():
        mlflow.set_tracking_uri("sqlite:///mine.db")
        mlflow.set_registry_uri("sqlite:///registry.db")
        mine = state()
        with mlflow_settings_kept():
            Tracking(uri, "one", "spool", 5, 5)
        assert state() == mine
        mlflow.set_registry_uri(None)
    assert state() == before


def test_a_hyperparameter_with_the_name_of_a_column_has_a_column_of_its_own():
    drawn = {"epochs": 7, "rate": 0.1, "value": 3}
    trial = optuna.trial.create_trial(value=0.5, intermediate_values={1: 0.6, 2: 0.5})
    searched = mock.Mock(trials=[trial], values=lambda _: drawn)
    result = SearchResult(searched, *[None] * 4, "run", "look")
    (row,) = result.trials().to_dict("records")
    assert (row["epochs"], row["value"], row["rate"]) == (2, 0.5, 0.1)
    assert (row["hp/epochs"], row["hp/value"]) == (7, 3)


def own_loss(y_true, y_pred):
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)


def with_own_loss(hp):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, activation="softmax")])
    model.compile(keras.optimizers.SGD(hp.Float("rate", 0.1, 0.2)), own_loss)
    return model


def test_one_hot_rows_are_refused_for_a_loss_that_nobody_knows(tmp_path):
    rows = np.eye(2)[Y]
    with chdir(tmp_path), pytest.raises(ModelError, match=r"Expected labels .* one-hot rows"):
        search(with_own_loss, X, rows, validation_data=(X, rows))
    assert not list(tmp_path.iterdir())


def test_a_layer_of_the_notebook_itself_is_refused_before_the_study(tmp_path, monkeypatch):
    monkeypatch.setattr(Layer, "__module__", "__main__")
    with chdir(tmp_path), pytest.raises(ModelError, match="Layer is defined in the notebook"):
        search(with_own_layer, X, Y, validation_data=(X, Y))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    ["größe", "日本", "a b", "a=b", "it's", 'say "x"', "back\\slash", "end\\", "1e-3", "null"],
)
def test_any_text_reaches_the_configuration_as_it_is(text):
    words = words_of({"study_name": text}, {"storage.path": f"{text}.db"})
    config = composed("search", words)
    assert config.study.name == text
    assert config.storage.path == f"{text}.db"


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        (
            "Study a was made with training.epochs=5, not 6; give study.name=NAME for another.",
            'Study a was made with epochs=5, not 6; give study_name="NAME" for another.',
        ),
        (
            "Give it more with budget.n_trials=30; a narrower space.bounds.learning_rate helps.",
            'Give it more with n_trials=30; a narrower space["learning_rate"] helps.',
        ),
        (
            "made with space.bounds.momentum=0.9, not null, and arch.filters=[32,64], seed=3.",
            'made with space={"momentum": 0.9}, not None, and config={"arch.filters": [32, 64]}, '
            "seed=3.",
        ),
        (
            "or training.precision=mixed_bfloat16. It took longer than budget.trial_timeout_s.",
            'or config={"training.precision": "mixed_bfloat16"}. It took longer than '
            'config["budget.trial_timeout_s"].',
        ),
        (
            "(study.warm_storage): tracking.uri=sqlite:///a.db, uncertainty.from_logits=true, "
            "optimizer=adam",
            '(config["study.warm_storage"]): tracking_uri="sqlite:///a.db", '
            'config={"uncertainty.from_logits": True}, optimizer="adam"',
        ),
        (
            "There is no key training.epoch. It is added with ++training.epoch=VALUE.",
            'There is no key training.epoch. It is added with config={"++training.epoch": VALUE}.',
        ),
        ("space.bounds.lr.low is too high", 'space["lr"]["low"] is too high'),
        ("give space.bounds.lr.low=0.1", 'give space={"lr": {"low": 0.1}}'),
        (
            "send it: python -m hpsearch doctor sync study.name=a budget.n_trials=3",
            "send it: python -m hpsearch doctor sync study.name=a budget.n_trials=3",
        ),
        (
            "mymodels.build_model and arch._target_=a.b",
            "mymodels.build_model and arch._target_=a.b",
        ),
    ],
)
def test_sentences_name_the_arguments_of_python(sentence, said):
    assert in_python(sentence) == said
    shown = Console(file=io.StringIO(), width=200)

    @_speaking_python
    def call(*, fails):
        Progress("val/loss", 1, Direction.MINIMIZE, shown).say(sentence)
        if fails:
            raise ConfigError(sentence)

    call(fails=False)
    shown.file.seek(0)
    with pytest.raises(ConfigError) as caught:
        call(fails=True)
    # The person's own line, and the function that was called.
    assert len(caught.traceback) == 2
    assert caught.value.__suppress_context__
    assert (str(caught.value), shown.file.getvalue()) == (said, f"{said}\n")
    assert in_form(sentence) == sentence


def test_help_an_editor_and_the_configuration_know_the_same_keywords():
    shown = inspect.signature(hpsearch.search)
    settings = get_type_hints(Keywords)
    arguments = {"build_model", "x", "y", *_OTHERS}
    assert shown.parameters.keys() == settings.keys() | arguments
    code = inspect.unwrap(hpsearch.search).__code__
    assert set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]) == arguments
    for name, kind in settings.items():
        assert shown.parameters[name].annotation == kind
        assert f"        {name}: " in hpsearch.search.__doc__
    given = dict.fromkeys(settings.keys() - {"space"}, 3)
    choices = {
        group: next(iter(ConfigFiles().choices(group))) for group in given if has_files(group)
    }
    config = composed("search", words_of(given | {"direction": "minimize"} | choices, None))
    assert config.training.epochs == config.tracking.uri == config.study.name == 3


def has_files(group):
    return ConfigFiles().has_group(group)


def test_keywords_are_settings_and_none_is_the_default():
    space = {"learning_rate": {"low": 1e-5, "high": 0.1, "scale": "log"}, "momentum": 0.9}
    words = words_of({"n_trials": None, "epochs": 4, "space": space}, {"data.n_train": None})
    assert words == [
        "training.epochs=4",
        "space.bounds.learning_rate={low:1e-05,high:0.1,scale:log}",
        "space.bounds.momentum=0.9",
        "data.n_train=null",
    ]
