"""The evaluation: both arms on the same weights, every part on one small model, the page, the
command.
"""

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import keras
import mlflow
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from keras import layers
from rich.console import Console

from hpsearch import metrics
from hpsearch.cli import entry
from hpsearch.data.datasets import digits
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.html_report.page import html
from hpsearch.html_report.section import Figure, Section, TerminalTable
from hpsearch.mc_dropout.certificate import fingerprint
from hpsearch.mc_dropout.prediction import McDropout

SETTINGS = McDropout(
    n_samples=20, shared_masks=False, seed=0, batch_size=64, memory_mb=64, from_logits=False
)
FAST = (
    "parts.verdict.n_resamples=100",
    "parts.verdict.n_seeds=2",
    "parts.calibration.n_simulations=50",
    "parts.rates.rates=[0.5]",
    "parts.rates.n_resamples=100",
    "parts.shift.names=[fog,contrast]",
)


def net(seed=0, rate=0.3):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4, 4, 1))
    x = layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
    x = layers.BatchNormalization()(layers.Dense(16, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.Dropout(rate)(x)))


def examples(seed, n=90):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = np.clip(rng.normal(80 * labels[:, None, None, None], 60, (n, 4, 4, 1)), 0, 255)
    return SimpleNamespace(inputs=images.astype(np.uint8), targets=labels.astype(np.int32))


@pytest.fixture(scope="module")
def evaluated():
    model = net()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(examples(2).inputs, examples(2).targets, epochs=3, verbose=0)
    return EvaluatedModel(
        model, SETTINGS, val=examples(0), test=examples(1), members=[model, net(1)]
    )


def test_both_arms_are_measured_on_the_same_weights(evaluated):
    found = evaluated.evaluate()
    plain = evaluated.model.predict(evaluated.test.inputs, verbose=0)
    assert found.plain["nll"] == pytest.approx(metrics.nll(plain, evaluated.test.targets))
    assert found.mc["nll"] == pytest.approx(
        metrics.nll(evaluated.mc_test.probs, evaluated.test.targets)
    )
    assert found.mc["mutual_information"] == pytest.approx(
        found.mc["predictive_entropy"] - found.mc["expected_entropy"], abs=1e-6
    )
    assert found.certificate.failures == []
    assert found.metrics()["test/plain/accuracy"] == found.plain["accuracy"]


def test_the_table_has_a_row_a_measure_and_the_certificate_in_words(evaluated):
    section = evaluated.evaluate().section()
    assert section.table[0] == ["measure", "plain", "MC Dropout (S = 20)", "difference"]
    assert [row[0] for row in section.table[1:]] == [
        "accuracy",
        "nll",
        "brier_score",
        "ece",
        "predictive_entropy",
        "aurc",
        "risk_at_80",
        "expected_entropy",
        "mutual_information",
        "variation_ratio",
    ]
    assert section.table[-1][1] == ""
    assert "all variables but seeds are bit-identical" in section.text


def test_the_same_seed_evaluates_the_same(evaluated):
    again = EvaluatedModel(evaluated.model, SETTINGS, val=evaluated.val, test=evaluated.test)
    assert evaluated.evaluate().metrics() == again.evaluate().metrics()


def test_a_model_without_dropout_is_evaluated_without_mc_dropout(evaluated, parts):
    model = EvaluatedModel(net(rate=0.0), SETTINGS, val=evaluated.val, test=evaluated.test)
    found = model.evaluate()
    assert found.plain.keys() >= {"accuracy", "nll", "ece"}
    assert found.mc == {}
    assert "received one with dropout layers whose rate is 0 (1)" in found.section().text
    for part in parts.values():
        section = part.examine(model)
        if section is not None:
            assert not any("/mc" in key for key in section.metrics)


@pytest.fixture(scope="module")
def parts():
    with initialize_config_dir(str(entry.CONF), version_base="1.3"):
        config = compose(
            "evaluate", ["registered_model=x", "data@parts.unknown.data=digits", *FAST]
        )
    return instantiate(config.parts, _convert_="all")


def test_every_part_answers_and_the_whole_changes_no_variable(evaluated, parts):
    before, plain = (
        fingerprint(evaluated.model),
        evaluated.model.predict(evaluated.test.inputs, verbose=0),
    )
    sections = {name: part.examine(evaluated) for name, part in parts.items()}
    assert sections.pop("methods") is None
    assert fingerprint(evaluated.model) == before
    np.testing.assert_array_equal(evaluated.model.predict(evaluated.test.inputs, verbose=0), plain)
    assert all(section.text and (section.table or section.figures) for section in sections.values())
    found = {key: value for section in sections.values() for key, value in section.metrics.items()}
    assert all(np.isfinite(value) for value in found.values())
    assert found.keys() >= {
        "test/verdict/accuracy/p",
        "test/mc_scaled/nll",
        "test/plain/ece_null_high",
        "test/mc/conformal_coverage",
        "test/mc/nll_at_infinity",
        "test/mc_tuned/nll",
        "test/study_ensemble/nll",
        "test/unknown/mc/entropy/auroc",
        "test/selective/mc/mutual_information/aurc",
    }
    assert [step for step, _ in sections["shift"].curves["test/shift/fog/mc/nll"]] == [
        1,
        2,
        3,
        4,
        5,
    ]
    names = [figure.name for section in sections.values() for figure in section.figures]
    assert sorted(names) == [
        "differences",
        "entropy",
        "extremes",
        "nll_over_passes",
        "reliability",
        "risk_coverage",
        "shift",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kept", [[0], [1, 2]])
def test_parts_stand_where_classes_have_no_example_to_calibrate_with(evaluated, parts, kept):
    whole = examples(3, 12)
    chosen = np.isin(whole.targets, kept)
    few = SimpleNamespace(inputs=whole.inputs[chosen], targets=whole.targets[chosen])
    of_few = replace(evaluated, val=few, members=[])
    with_calibration = replace(evaluated, calibration=few, members=[])
    for name in ("calibration", "conformal"):
        by_val = parts[name].examine(of_few)
        by_calibration = parts[name].examine(with_calibration)
        assert by_val.metrics == by_calibration.metrics
        assert all(np.isfinite(value) for value in by_val.metrics.values())
        assert f"on {len(few.targets)} validation examples" in by_val.text
        assert f"on {len(few.targets)} calibration examples" in by_calibration.text


def test_parts_that_rank_examples_need_only_the_plain_arm(evaluated, parts):
    of_plain = EvaluatedModel(net(rate=0.0), SETTINGS, val=evaluated.val, test=evaluated.test)
    for name in ("selective", "unknown"):
        section = parts[name].examine(of_plain)
        rows = {row[0] for row in section.table[1:]}
        assert rows == {"plain/one_minus_confidence", "plain/entropy"}
        assert "positive class is the" in section.text


def test_the_page_is_one_file_and_escapes_what_it_shows():
    section = Section(
        "A < B", "so & so", [("a", "b"), ("<i>", "2")], figures=[Figure("f", b"png", 'it "shows"')]
    )
    page = html("T & U", [("model", "m")], [section])
    assert "A &lt; B" in page
    assert "so &amp; so" in page
    assert "&lt;i&gt;" in page
    assert 'src="data:image/png;base64,cG5n"' in page
    assert "<script" not in page
    assert "http" not in page


@pytest.mark.slow
def test_a_search_and_then_its_evaluation_leave_all_in_mlflow(searched_copy):
    workplace = searched_copy
    done = workplace.here(
        "registered_model=digits-selu", "uncertainty.n_samples=10", *FAST, script="evaluate"
    )
    assert done.returncode == 0, done.stderr
    assert "test examples MC Dropout" in done.stdout
    (run,) = workplace.runs("evaluation")
    assert run.info.status == "FINISHED"
    assert {"test/plain/nll", "test/mc/nll", "test/verdict/nll/p"} <= run.data.metrics.keys()
    files = {f.path for f in workplace.client.list_artifacts(run.info.run_id)}
    assert {"evaluation.html", "certificate.json", "config.yaml", "figures"} <= files
    path = workplace.client.download_artifacts(run.info.run_id, "certificate.json")
    assert json.loads(Path(path).read_text())["variables_unchanged"] is True
    tags = workplace.client.get_model_version_by_alias("digits-selu", "champion").tags
    assert tags["hpsearch.verdict"].startswith("On ")
    assert tags["hpsearch.pixel_range"] == "[0.0, 255.0]"
    assert float(tags["test/mc/nll"]) == pytest.approx(run.data.metrics["test/mc/nll"], rel=1e-4)

    given = digits()
    scaled = given.x_train / 255, given.x_test / 255
    np.savez(
        workplace.folder / "scaled.npz",
        **{"x_train": scaled[0], "y_train": given.y_train},
        **{"x_test": scaled[1], "y_test": given.y_test},
    )
    other = ("registered_model=digits-selu", "data=npz", "data.path=scaled.npz")
    done = workplace.here(*other, script="evaluate")
    assert done.returncode == 2, done.stderr
    assert (
        "black and white are [0.0, 255.0], as version 1 of digits-selu was trained" in done.stderr
    )
    assert len(workplace.runs("evaluation")) == 1


@pytest.mark.slow
def test_mistakes_of_a_person_get_one_sentence_and_leave_no_run(workplace, monkeypatch):
    monkeypatch.chdir(workplace.folder)  # MLflow keeps the models that it logs there
    uri = f"sqlite:///{workplace.folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    with mlflow.start_run():
        mlflow.keras.log_model(net(), registered_model_name="theirs", pip_requirements=["keras"])
    for words, sentence in [
        (("registered_model=nobody",), "There is no registered model nobody"),
        (
            ("registered_model=theirs", "version=1"),
            "has no record of its data set: give the one it was trained on",
        ),
        (
            ("registered_model=theirs", "version=1", "data=digits"),
            "Expected a model of inputs (8, 8, 1) and 10 classes",
        ),
    ]:
        done = workplace.here(*words, script="evaluate")
        assert done.returncode == 2, done.stderr
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
    assert workplace.runs("evaluation") == []


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_a_table_loses_no_digit_on_a_narrow_terminal(width):
    head = ["measure", "plain", "MC Dropout", "interval", "verdict"]
    rows = [head, ["NLL", "1.2660", "1.6388", "+0.3327 to +0.4129", "no detectable difference"]]
    text = io.StringIO()
    Console(file=text, width=width).print(TerminalTable(rows, "Verdict"))
    printed = text.getvalue()
    assert max(len(line.rstrip()) for line in printed.splitlines()) <= width
    for word in " ".join([*head[1:], *rows[1]]).split():
        assert word in printed
