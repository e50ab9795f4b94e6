"""A registered model as `mlflow models serve` runs it: answers with their uncertainty, and
sentences for mistakes.
"""

import json
import re
import subprocess

import keras
import mlflow
import numpy as np
import pytest
import requests
from keras import layers

from conftest import free_port, serving
from hpsearch import metrics
from hpsearch.data.split import Examples, SearchData
from hpsearch.errors import ConfigError
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.serving.registration import Registration
from project_files import BLOCK
from workplace import SRC, shell_environment

SETTINGS = McDropout(
    n_samples=30, mask="example", seed=0, batch_size=64, memory_mb=64, from_logits=False
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
    return mlflow.pyfunc.load_model(str(folder))


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


def malformed():
    """Return 50 requests that no model could answer."""
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
    pixels = (300, -1, 1e30, None, "white", {}, [], "NaN")
    bad += [{"instances": [[[[pixel]] * 4] * 4]} for pixel in pixels]
    params = [
        {"method": "bayes"}, {"n_samples": 0}, {"n_samples": -3}, {"n_samples": 10**9},
        {"n_samples": "many"}, {"seed": -1}, {"seed": 2**40}, {"return_samples": "perhaps"},
        {"method": 3},
    ]  # fmt: skip
    bad += [{"instances": GOOD, "params": p} for p in params]
    bodies = [json.dumps(body) for body in bad]
    bodies += ["", "{", "[]", "null", '{"images": [1]}', '{"instances": [[[[NaN]]]]}', "\x00\xff"]
    return bodies[:50]


@pytest.mark.slow
def test_50_malformed_requests_get_a_sentence_and_the_server_lives(server):
    asked = malformed()
    assert len(asked) == 50
    for body in asked:
        answer = requests.post(
            server.url, body.encode(), headers={"Content-Type": "application/json"}, timeout=60
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
