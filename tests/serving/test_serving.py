"""A registered model as `mlflow models serve` runs it: answers with their uncertainty, and
sentences for mistakes.
"""

import json
import re
import subprocess
from dataclasses import replace

import keras
import mlflow
import numpy as np
import pytest
import requests
from keras import layers
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

from conftest import free_port, serving
from hpsearch import metrics
from hpsearch.data.split import Examples, SearchData
from hpsearch.errors import ConfigError, ModelError
from hpsearch.mc_dropout.passes import Sampler
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.serving.registration import Registration
from hpsearch.serving.request import Inputs
from project_files import BLOCK
from workplace import SRC, shell_environment

SETTINGS = McDropout(
    n_samples=30, shared_masks=False, seed=0, batch_size=64, memory_mb=64, from_logits=False
)
REGISTRATION = Registration(coverage=0.9, measure="nll", level=0.05, n_resamples=200, seed=0)
NAMES = ("ant", "bee", "cow")
PAGE = (SRC.parent / "docs" / "uncertainty.md").read_text()


def small(rate=0.4, seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4, 4, 1))
    x = layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
    x = layers.Dropout(rate)(layers.Dense(16, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300).astype(np.int32)
    images = np.clip(
        rng.normal(80 * labels[:, None, None, None], 40, (300, 4, 4, 1)), 0, 255
    ).astype(np.uint8)
    train, val = Examples(images[:150], labels[:150]), Examples(images[150:], labels[150:])
    return SearchData("animals", train, val, NAMES, "0" * 16)


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    model = small()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(data.train.inputs, data.train.targets, epochs=5, verbose=0)
    made = tmp_path_factory.mktemp("saved") / "model"
    REGISTRATION.save(model, made, data, SETTINGS)
    return made


@pytest.fixture(scope="module")
def served(folder):
    return mlflow.pyfunc.load_model(str(folder), model_config={"warm_up": False})


@pytest.mark.slow
def test_thresholds_are_made_on_the_calibration_part_and_else_on_val(folder, data):
    model = keras.models.load_model(folder / "artifacts" / "served" / "data" / "model.keras")
    own = REGISTRATION._thresholds(model, data, SETTINGS)
    split = Examples(data.val.inputs[:60], data.val.targets[:60])
    assert REGISTRATION._thresholds(model, replace(data, calibration=split), SETTINGS) != own
    as_val = replace(data, calibration=data.val, val=split)
    assert REGISTRATION._thresholds(model, as_val, SETTINGS) == own
    one_class = data.val.targets == 1
    of_one = Examples(data.val.inputs[one_class], data.val.targets[one_class])
    found = REGISTRATION._thresholds(model, replace(data, val=of_one), SETTINGS)
    assert all(0 < threshold < 1 for threshold in found.values())
    few = Examples(data.val.inputs[:3], data.val.targets[:3])
    assert REGISTRATION._thresholds(model, replace(data, val=few), SETTINGS) == {
        "plain": 0.0,
        "mc": 0.0,
    }
    saved = mlflow.models.Model.load(str(folder))
    assert saved.metadata["hpsearch.conformal_sets_made_on"] == "150 validation examples"


def test_an_answer_has_class_uncertainty_set_and_flag(served, data):
    images = data.val.inputs[:5]
    answer = served.predict(images)
    probs = np.stack(answer["probabilities"])
    assert [NAMES[i] for i in probs.argmax(axis=1)] == answer["class"].tolist()
    assert answer["predictive_entropy"].to_numpy() == pytest.approx(
        metrics.predictive_entropy(probs)
    )
    assert (answer["mutual_information"] > 0).all()
    assert (answer["mutual_information"] <= answer["predictive_entropy"]).all()
    assert answer["abstain"].tolist() == [len(held) != 1 for held in answer["conformal_set"]]
    held = served.predict(data.val.inputs)["conformal_set"]
    covered = np.mean([NAMES[y] in s for y, s in zip(data.val.targets, held, strict=True)])
    assert covered >= 0.9


def test_a_stored_seed_gives_the_same_answer_and_another_one_another(served, data):
    images = data.val.inputs[:3]
    first, again, other = (
        np.stack(served.predict(images, {"seed": s})["probabilities"]) for s in (7, 7, 8)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


def test_plain_is_keras_own_answer_and_the_keras_flavour_has_the_same_weights(served, folder, data):
    model = mlflow.keras.load_model(str(folder))
    answer = served.predict(data.val.inputs[:6], {"method": "plain"})
    np.testing.assert_allclose(
        np.stack(answer["probabilities"]), model.predict(data.val.inputs[:6], verbose=0), atol=1e-6
    )
    assert not answer["mutual_information"].any()


def test_samples_are_those_whose_mean_is_answered(served, data):
    answer = served.predict(data.val.inputs[:3], {"return_samples": True, "n_samples": 12})
    samples = np.stack(answer["samples"])
    assert samples.shape == (3, 12, 3)
    np.testing.assert_allclose(samples.mean(axis=1), np.stack(answer["probabilities"]), atol=1e-6)


def test_nothing_of_it_is_a_pickle(folder):
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle")]
    assert (folder / "code" / "hpsearch" / "serving" / "served_model.py").exists()


def test_a_model_without_dropout_is_served_plainly(data, tmp_path):
    REGISTRATION.save(small(rate=0.0), tmp_path / "model", data, SETTINGS)
    plain = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert not plain.predict(data.val.inputs[:2])["mutual_information"].any()
    with pytest.raises(mlflow.exceptions.MlflowException, match="this model has no dropout"):
        plain.predict(data.val.inputs[:2], {"method": "mc"})


def test_dropout_that_fails_its_self_test_is_not_served(data):
    class Tripled(layers.Dropout):
        def call(self, inputs, training=False):
            if training:
                inputs = 3 * inputs
            return super().call(inputs, training=training)

    model = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), Tripled(0.4)])
    model.add(layers.Dense(3, activation="softmax"))
    assert list(REGISTRATION._thresholds(model, data, SETTINGS)) == ["plain"]


def test_models_whose_shapes_keras_does_not_know_are_compared(data):
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = small()

        def call(self, inputs, training=False):
            return self.inner(inputs, training=training)

    model, other = Subclassed(), keras.Sequential([keras.Input((5, 5, 1)), layers.Flatten()])
    model(data.val.inputs[:1])
    is_better, why = REGISTRATION.compare(model, small(), data.val, SETTINGS, SETTINGS)
    assert not is_better
    assert "not better by more than chance" in why
    is_better, why = REGISTRATION.compare(model, other, data.val, SETTINGS, SETTINGS)
    assert not is_better
    assert why.startswith("the champion is for other images or classes")


def test_the_champion_moves_only_for_more_than_luck(data):
    untrained, trained = small(), small()
    trained.compile("adam", "sparse_categorical_crossentropy")
    trained.fit(data.train.inputs, data.train.targets, epochs=5, verbose=0)
    better, why = REGISTRATION.compare(trained, untrained, data.val, SETTINGS, SETTINGS)
    assert better
    assert "better by more than chance" in why
    assert not REGISTRATION.compare(untrained, trained, data.val, SETTINGS, SETTINGS)[0]
    same, why = REGISTRATION.compare(trained, trained, data.val, SETTINGS, SETTINGS)
    assert not same
    assert "not better by more than chance (p = 1)" in why


def test_impossible_settings_are_refused():
    with pytest.raises(
        ConfigError, match=r"There is no registration.measure=nil. Did you mean 'nll'"
    ):
        Registration(0.9, "nil", 0.05, 100, 0)
    with pytest.raises(ConfigError, match="at least 1 / level resamples"):
        Registration(0.9, "nll", 0.05, 10, 0)


@pytest.fixture(scope="module")
def server(folder):
    """The model served as on another machine: only what is in its folder is on the path."""
    port = free_port()
    command = (
        f"mlflow models serve -m '{folder}' --env-manager local --host 127.0.0.1 --port {port}"
    )
    env = {key: value for key, value in shell_environment().items() if key != "PYTHONPATH"}
    with serving(command, folder.parent, port, env, timeout_s=240) as running:
        yield running


GOOD = np.full((1, 4, 4, 1), 100).tolist()
SAID_BY_MLFLOW = "(?s)Invalid input|The input must be|Failed to (predict|parse)"


def with_pixel(pixel):
    image = np.full((1, 4, 4, 1), 100, object)
    image[0, 1, 2, 0] = pixel
    return image.tolist()


def malformed():
    """Return more than 60 bodies of requests that no model could answer."""
    shapes = [
        (4, 4, 1),
        (1, 4, 4),
        (1, 5, 4, 1),
        (1, 4, 4, 3),
        (1, 1, 1, 1),
        (2, 16),
        (1,),
        (0, 4, 4, 1),
        (1, 4, 4, 1, 1),
    ]
    bad = [{"instances": np.zeros(shape, int).tolist()} for shape in shapes]
    bad += [{"inputs": np.zeros(shape, int).tolist()} for shape in shapes]
    bad += [
        {"instances": value}
        for value in (None, 1, "x", "", {}, [], [[]], [None], ["a"], {"a": GOOD}, [[[["p"]]]])
    ]
    bad += [
        {"inputs": [GOOD[0], GOOD[0][:3]]},
        {"images": GOOD},
        {"inputs": GOOD, "instances": GOOD},
    ]
    bad += [{"dataframe_split": {"data": [[100] * 16]}}, {"dataframe_records": [{"x": 100}]}]
    pixels = (300, -1, 1e30, None, "white", {}, [], "NaN", "7", "", 12.7, 0.5, True, False, 10**400)
    bad += [{"instances": with_pixel(pixel)} for pixel in pixels]
    bad += [{"inputs": np.full((2, 4, 4, 1), value).tolist()} for value in (0.5, 1.0, True, "7")]
    params = [
        {"method": "bayes"}, {"method": "MC"}, {"method": ""}, {"method": None}, {"method": 3},
        {"n_samples": 0}, {"n_samples": -3}, {"n_samples": 10**9}, {"n_samples": "many"},
        {"n_samples": "30"}, {"n_samples": 1.5}, {"n_samples": True}, {"n_samples": None},
        {"n_samples": [30]}, {"seed": -1}, {"seed": 2**40}, {"seed": None}, {"seed": "1"},
        {"return_samples": "perhaps"}, {"return_samples": 1}, {"return_samples": None},
        {"return_samples": True, "method": "plain"}, {"n_sample": 3}, {"a'b": 1, "seed": 3},
        "mc", [],
    ]  # fmt: skip
    bad += [{"instances": GOOD, "params": p} for p in params]
    bad += [
        {"instances": GOOD * 4000, "params": {"n_samples": 251}},
        {"instances": GOOD * 200, "params": {"n_samples": 10_000}},
        {"instances": GOOD * 50, "params": {"n_samples": 10_000, "return_samples": True}},
    ]
    bodies = [json.dumps(body) for body in bad]
    literals = ("NaN", "Infinity", "-Infinity", "1e999")
    bodies += [json.dumps({"inputs": GOOD}).replace("100", value, 1) for value in literals]
    return [*bodies, "", "{", "[]", "null", "7", '{"images": [1]}', "\x00\xff"]


def test_malformed_requests_are_refused_in_a_sentence_without_their_inputs(served):
    schema = served.metadata.get_input_schema()
    said = {}
    for body in malformed():
        with pytest.raises(MlflowException) as refused:
            scoring_server.invocations(body, "application/json", served, schema)
        answer = json.loads(refused.value.serialize_as_json())
        assert answer["error_code"] in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"), body[:200]
        said[body] = answer["message"]
    ours = [text for text in said.values() if not re.match(SAID_BY_MLFLOW, text)]
    assert len(ours) > 50
    for text in ours:
        assert re.fullmatch(r"(Expected|There is no) [^\n]{10,190}\.", text), text
    half = json.dumps({"inputs": np.full((2, 4, 4, 1), 0.5).tolist()})
    assert "pixels as whole numbers from 0 to 255, received numbers from 0 to 1" in said[half]
    many = json.dumps({"instances": GOOD * 200, "params": {"n_samples": 10_000}})
    assert "at most 1,000,000 passes" in said[many]


def test_what_is_right_is_answered_however_it_is_sent(served):
    as_it_is = served.predict(np.array(GOOD, np.uint8), {"seed": 3})
    for array in (np.array(GOOD, float), np.array(GOOD, np.int64), np.array(GOOD, object)):
        np.testing.assert_array_equal(
            np.stack(served.predict(array, {"seed": 3})["probabilities"]),
            np.stack(as_it_is["probabilities"]),
        )
    served.predict(np.zeros((1, 4, 4, 1)))  # black in any scale
    kinds = {"n_samples": np.int32(5), "seed": np.int64(3), "return_samples": np.bool_(True)}
    assert np.shape(served.predict(np.array(GOOD), kinds)["samples"][0]) == (5, 3)
    model = served.unwrap_python_model()
    kinds = {"n_samples": np.uint8(5), "method": np.str_("mc")}
    model.predict(None, np.array(GOOD), kinds)
    with pytest.raises(MlflowException, match="There is no param 'passes'"):
        model.predict(None, np.array(GOOD), {"passes": 5})


@pytest.mark.parametrize(
    ("inputs", "given", "said"),
    [
        (Inputs((2,), "float32", [-3.0, 3.0]), [[1, 300]], "from -3 to 3, received 300"),
        (Inputs((2,), "float32", [0.0, 1.0]), [[0, 255]], "inputs like those of the training"),
        (
            Inputs((2,), "float32", [0.0, 1.0], are_pixels=True),
            [[-0.5, 1]],
            "from 0 to 1, received",
        ),
        (Inputs((2,), "float32", None), [[0, 1e39]], "finite"),
        (Inputs((2,), "float32", None), [[0, "1"]], "a text, '1'"),
        (
            Inputs((2, 2, 1), "float32", [0.0, 255.0], are_pixels=True),
            np.full((1, 2, 2, 1), 0.5),
            "before a division",
        ),
        (Inputs((2,), "uint8", [0.0, 255.0]), np.array([["7", "8"]]), "a text, '7'"),
        (Inputs((2,), "uint8", [0.0, 255.0]), np.array([[True, True]]), "a boolean"),
        (Inputs((2,), "uint8", [0.0, 255.0]), [[1, 2], [3]], "lists of different lengths"),
        (Inputs((2,), "uint8", [0.0, 255.0]), [[1, 2, 3]], r"\(N, 2,\) with N"),
    ],
)
def test_inputs_that_no_training_had_are_refused(inputs, given, said):
    with pytest.raises(ModelError, match=said):
        inputs.checked(given)


@pytest.mark.parametrize(
    ("inputs", "given"),
    [
        (Inputs((2,), "float32", [-3.0, 3.0]), [[5, -8.5]]),
        (Inputs((2,), "float32", [0.0, 1.0]), [[1, 0.5]]),
        (Inputs((2,), "float32", None), [[1e9, 0]]),
        (Inputs((2,), "uint8", [0.0, 1.0]), [[1.0, 0.0]]),
        (Inputs((2,), "uint8", [0.0, 255.0]), [[1, 0]]),
    ],
)
def test_inputs_like_those_of_the_training_become_its_type(inputs, given):
    checked = inputs.checked(given)
    assert checked.dtype == inputs.dtype
    np.testing.assert_allclose(checked, given)


def n_compiled(function):
    """Return for how many shapes a compiled function was compiled."""
    if keras.backend.backend() == "jax":
        return function._cache_size()
    return function.__wrapped__.chosen.experimental_get_tracing_count()


def test_a_number_of_images_that_is_new_compiles_nothing_and_changes_no_answer(folder, data):
    model = mlflow.pyfunc.load_model(str(folder)).unwrap_python_model()
    sampler = model._sampler(False)
    compiled = [
        sampler.sums._passes,
        sampler.sums._prefix,
        sampler.single._one,
        model.plain._outputs,
    ]
    before = [n_compiled(function) for function in compiled]
    assert all(before)
    images = data.val.inputs
    whole = Sampler(model.model, SETTINGS).predict(images).probs
    for n in (1, 2, 3, 15, 16, 17, 40, 100, 129, 150):
        answer = model.predict(None, images[:n], {})
        np.testing.assert_allclose(np.stack(answer["probabilities"]), whole[:n], atol=1e-6)
        model.predict(None, images[:n], {"method": "plain"})
        model.predict(None, images[:n], {"return_samples": True, "n_samples": 2})
    assert [n_compiled(function) for function in compiled] == before


@pytest.mark.slow
def test_malformed_requests_get_a_sentence_and_the_server_lives(server):
    asked = [(body, "application/json") for body in malformed()]
    good = json.dumps({"instances": GOOD})
    kinds = ("text/csv", "text/plain", "application/json; charset=latin-1")
    asked += [(good, kind) for kind in kinds]
    assert len(asked) > 60
    for body, kind in asked:
        answer = requests.post(
            server.url, body.encode(), headers={"Content-Type": kind}, timeout=60
        )
        assert 400 <= answer.status_code < 500, (body[:200], answer.status_code, answer.text[:500])
        assert len(answer.text) > 20
    assert server.answers()
    assert requests.post(server.url, json={"instances": GOOD}, timeout=60).ok


@pytest.mark.slow
def test_http_answers_with_all_parts_and_repeats_itself(server):
    body = {
        "instances": GOOD,
        "params": {"n_samples": 50, "seed": 1, "method": "mc", "return_samples": True},
    }
    first, again = (
        requests.post(server.url, json=body, timeout=60).json()["predictions"] for _ in range(2)
    )
    assert first == again
    assert set(first[0]) == {
        "class",
        "probabilities",
        "predictive_entropy",
        "mutual_information",
        "conformal_set",
        "abstain",
        "samples",
    }
    assert len(first[0]["samples"]) == 50


@pytest.mark.slow
def test_the_page_on_uncertainty_serves_and_asks_as_it_says(tmp_path):
    port = free_port()
    marked = [
        block
        for mark, block in BLOCK.findall(PAGE)
        if mark == "run by tests/serving/test_serving.py"
    ]
    start, ask = (block.replace("5077", str(port)) for block in marked)
    env = shell_environment() | {"PYTHONPATH": str(SRC)}
    with serving(start, tmp_path, port, env, timeout_s=300):  # it searches first
        done = subprocess.run(
            ["bash", "-c", ask], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
        )
    answers = json.loads(done.stdout)["predictions"]
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    shown = json.loads(shown)["predictions"]
    assert [answer.keys() for answer in answers] == [example.keys() for example in shown]
    assert (
        [answer["class"] for answer in answers]
        == [example["class"] for example in shown]
        == ["0", "1"]
    )
