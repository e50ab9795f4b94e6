"""What a study's report says: bounds that cut, prospects of more trials, commands, page and
descriptions.
"""

import datetime
import math
import re

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from hpsearch.html_report.page import html
from hpsearch.html_report.section import Section
from hpsearch.space.space import Space
from hpsearch.study.direction import Direction
from hpsearch.study.pruners import Hyperband
from hpsearch.study_report.advice import Advice, Edge, Prospects
from hpsearch.study_report.commands import Commands
from hpsearch.study_report.description import Descriptions
from hpsearch.study_report.figures import Clock
from hpsearch.study_report.searched import Dimension, Searched
from hpsearch.study_report.sections import sections

optuna.logging.set_verbosity(optuna.logging.WARNING)
BOUNDS = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "scale": "log"},
    "momentum": {"low": 0.8, "high": 0.99, "scale": "log_complement"},
    "dropout_rate": {"low": 0.0, "high": 0.5},
}
DISTRIBUTIONS = {
    "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
    "one_minus_momentum": FloatDistribution(0.01, 0.2, log=True),
    "dropout_rate": FloatDistribution(0.0, 0.5),
}
CONFIG = {
    "overrides": [
        "arch=selu",
        "data=digits",
        "data.path=null",
        "budget.n_trials=6",
        "tracking.uri=sqlite:///a b",
    ]
}
MIDNIGHT = datetime.datetime(2026, 1, 1)


def trial(place, values, curve, state=TrialState.COMPLETE, **attrs):
    lr, momentum, dropout = values
    params = {"learning_rate": lr, "one_minus_momentum": 1 - momentum, "dropout_rate": dropout}
    made = create_trial(
        state=state,
        value=min(curve) if state == TrialState.COMPLETE else None,
        params=params,
        distributions=DISTRIBUTIONS,
        intermediate_values=dict(enumerate(curve, start=1)),
        user_attrs={"worker": "host@1:17:0.0", **attrs},
    )
    made.datetime_start = MIDNIGHT + datetime.timedelta(seconds=20 * place)
    made.datetime_complete = made.datetime_start + datetime.timedelta(seconds=20)
    return made


def study_of(trials, config=CONFIG):
    study = optuna.create_study(study_name="digits-selu", pruner=Hyperband(1, 3, 3))
    study.add_trials(trials)
    return Searched(
        "digits-selu",
        study,
        Space(BOUNDS),
        "val/loss",
        Direction.MINIMIZE,
        config,
        "sqlite:///mlflow.db",
    )


def drawn_at_random(n, loss, seed):
    """Return a study of `n` random trials with `loss(positions)`."""
    rng, trials = np.random.default_rng(seed), []
    for place in range(n):
        x = rng.random(3)
        lr, momentum, dropout = 1e-4 * 100 ** x[0], 1 - 0.2 * 0.05 ** x[1], 0.5 * x[2]
        trials.append(trial(place, (lr, momentum, dropout), [3.0, 2.0, loss(x, rng)]))
    return study_of(trials)


SEARCHED = study_of(
    [
        trial(0, (1e-3, 0.9, 0.1), [2.0, 1.0, 0.5]),
        trial(1, (9.9e-3, 0.95, 0.0), [1.5, 0.6, 0.2]),
        trial(2, (2e-4, 0.85, 0.3), [2.5], TrialState.PRUNED, reason="pruned", against="0-1"),
        trial(3, (8e-3, 0.85, 0.01), [1.6, 0.9, 0.4]),
        trial(
            4,
            (9e-3, 0.98, 0.3),
            [],
            TrialState.PRUNED,
            reason="diverged",
            message="train/loss is nan",
        ),
        trial(5, (5e-3, 0.9, 0.4), [1.9, 1.1, 0.7]),
        trial(6, (3e-3, 0.97, 0.2), [1.9, 1.1, 0.6]),
    ]
)


@given(st.sampled_from(["linear", "log", "log_complement"]), st.floats(0, 1))
def test_a_value_and_its_place_on_a_scale_tell_each_other(scale, position):
    dimension = Dimension("x", 0.1, 0.9, scale)
    assert 0.1 - 1e-9 <= dimension.value(position) <= 0.9 + 1e-9
    assert dimension.position(dimension.value(position)) == pytest.approx(position, abs=1e-9)


@pytest.mark.parametrize(
    ("scale", "middle"),
    [
        ("linear", 0.5),  # (0.1 + 0.9) / 2
        ("log", 0.3),  # the root of 0.1 * 0.9
        ("log_complement", 0.7),  # 1 minus the root of 0.9 * 0.1
    ],
)
def test_places_on_each_scale_by_hand(scale, middle):
    dimension = Dimension("x", 0.1, 0.9, scale)
    assert [dimension.value(at) for at in (0, 0.5, 1)] == pytest.approx([0.1, middle, 0.9])
    assert [dimension.position(at) for at in (0.1, middle, 0.9)] == pytest.approx([0, 0.5, 1])


def test_hyperparameters_have_the_names_and_bounds_that_people_read():
    momentum = next(d for d in SEARCHED.dimensions if d.name == "momentum")
    assert (momentum.low, momentum.high) == pytest.approx((0.8, 0.99))
    assert str(momentum) == "momentum 0.8 to 0.99 (log_complement)"
    assert momentum.position(0.98) == pytest.approx(math.log(0.2 / 0.02) / math.log(0.2 / 0.01))
    assert momentum.rounded(0.99527) == 0.995
    choice = Dimension.of("optimizer", CategoricalDistribution(("adam", "sgd")))
    assert [choice.position(name) for name in ("adam", "sgd")] == [0, 1]


def test_a_best_value_at_a_bound_says_where_to_widen_it_unless_nothing_lies_beyond():
    found = {edge.dimension.name: edge for edge in Edge.all_of(SEARCHED)}
    assert found["learning_rate"].bound == "high"
    assert (
        found["learning_rate"].override(SEARCHED.space) == "space.bounds.learning_rate.high=0.032"
    )
    assert found["learning_rate"].n_near == 2
    assert found["dropout_rate"].bound is None  # it is 0, and no rate is below
    assert found["momentum"].bound is None
    proposed_by_its_hypermodel = found["learning_rate"].override(Space({}))
    assert (
        proposed_by_its_hypermodel
        == "+space.bounds.learning_rate={low: 0.0001, high: 0.032, scale: log}"
    )


def test_the_next_command_is_the_one_that_was_typed_with_what_changes():
    advice = Advice.of(SEARCHED)
    assert advice.command.removeprefix("python -m ") == (
        "hpsearch search arch=selu data=digits data.path=null 'tracking.uri=sqlite:///a b' "
        "space.bounds.learning_rate.high=0.032 study.changed_bounds=true budget.n_trials=14"
    )
    assert (
        Commands(SEARCHED)
        .evaluate()
        .endswith("registered_model=digits-selu 'tracking.uri=sqlite:///a b'")
    )
    without_record = study_of([], {"data": {"name": "digits", "path": "x"}})
    again = Commands(without_record).resume()
    assert again.removeprefix("python -m ") == "hpsearch search study.name=digits-selu"


def test_a_trial_without_a_value_has_no_loss():
    best = SEARCHED.best
    assert SEARCHED.loss(best) == 0.2
    stopped = next(t for t in SEARCHED.trials if t.state == TrialState.PRUNED)
    with pytest.raises(TypeError):  # a loss of 0 would be better than the best trial's
        SEARCHED.loss(stopped)


def test_importances_name_what_matters():
    found = drawn_at_random(30, lambda x, _: x[1] ** 2 + 0.01 * x[2], seed=0).importances
    assert next(iter(found)) == "momentum"
    assert found["momentum"] > 0.7
    assert sum(found.values()) == pytest.approx(1)


def test_more_trials_pay_while_there_is_something_to_find_and_not_where_all_is_noise():
    valley = Prospects(
        drawn_at_random(12, lambda x, _: float(((x - 0.6) ** 2).sum()), seed=1), seed=0
    )
    noise = Prospects(drawn_at_random(40, lambda x, rng: 1 + 0.1 * rng.normal(), seed=1), seed=0)
    assert valley.gain(50).worth > 0.5
    assert noise.gain(50).worth < 0.1
    assert noise.noise == pytest.approx(0.1, rel=0.5)
    few, many = valley.gain(2), valley.gain(200)
    assert few.expected < many.expected
    assert 0 <= few.low <= few.expected <= few.high
    assert few.chance <= many.chance


def test_what_further_trials_brought_lies_within_the_interval_nine_times_in_ten():
    def loss(x, rng):
        return float(((x - [0.7, 0.4, 0.2]) ** 2).sum()) + 0.02 * rng.normal()

    inside = 0
    for seed in range(10):
        whole = drawn_at_random(20, loss, seed)
        half = study_of(whole.trials[:10])
        gain = Prospects(half, seed=0).gain(10)
        brought = half.best.value - whole.best.value
        inside += gain.low - 1e-9 <= brought <= gain.high
    assert inside >= 7  # of 10 at 90 %, fewer than 7 come once in 80 times


def test_work_is_counted_without_the_time_between_sessions():
    clock = Clock.of([(0, 10), (5, 20), (1000, 1010)])
    assert clock.total_s == 30
    assert [clock.at(t) for t in (0, 20, 500, 1005, 2000)] == [0, 20, 20, 25, 30]
    assert [Clock.shown(s) for s in (7, 67, 3725)] == ["7 s", "1 min 7 s", "1 h 2 min"]


def test_the_page_tells_why_trials_were_stopped_and_needs_no_network():
    advice = Advice.of(SEARCHED)
    found = sections(SEARCHED, advice)
    page = html("Study", [], found)
    rows = next(s.table for s in found if s.title == "Why trials were stopped")
    assert [row[1] for row in rows[1:]] == ["pruned", "diverged"]
    # Against #0 with 2.0 and #1 with 1.5 at epoch 1.
    assert rows[1][2:] == ["1", "2.5000", "3 of 3 of bracket 0", "#1 1.5000", ""]
    assert rows[2][2:] == ["", "", "", "", "train/loss is nan"]
    names = [figure.name for s in found for figure in s.figures]
    wanted = [
        "history",
        "importances",
        "slices",
        "parallel_coordinates",
        "learning_curves",
        "timeline",
    ]
    assert names == wanted
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(addresses) > len(wanted)
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert len(page) < 2_000_000


@pytest.mark.parametrize("n", [0, 1, 2])
def test_a_study_that_has_hardly_begun_has_a_page_too(n):
    searched = study_of(SEARCHED.trials[:n])
    found = sections(searched, Advice.of(searched))
    assert found[0].commands[0].endswith(f"budget.n_trials={n + 5}")
    told = {section.title: section.text for section in found}
    if n == 0:
        assert list(told) == ["What to do next"]
    else:
        pay = told["Are more trials likely to pay?"]
        assert pay.startswith(f"Too few trials have finished ({n} of at least 5)")


def test_a_page_escapes_what_it_shows():
    page = html(
        "a<b",
        [("c", "<d>")],
        [Section("e & f", "one\n\ntwo <g>", [["<h>"], ["<i>"]], commands=["j < k"])],
    )
    assert not re.search(r"<[bdghi]>", page)
    assert (
        '<h2 id="e-f">e &amp; f</h2>\n<p>one</p>\n<p>two &lt;g&gt;</p>\n<pre>j &lt; k</pre>' in page
    )


def test_a_trials_description_has_its_end_and_its_place():
    descriptions = Descriptions(SEARCHED, "3", "parent", {}, None)
    told = {t.number: descriptions.of_trial(t) for t in SEARCHED.trials}
    study = "[digits-selu](#/experiments/3/runs/parent?workflowType=machine_learning)"
    assert (
        told[1]
        == f"Trial 1 of study {study}: finished after 3 epochs with val/loss 0.2000, place 1 of 5."
    )
    assert told[2].endswith(
        "pruned after epoch 1 with val/loss 2.5000, place 3 of 3 at that epoch; "
        "the best of them, #1, had 1.5000."
    )
    assert told[4].endswith("diverged: train/loss is nan")


def test_a_search_leaves_its_report_and_the_command_writes_it_again(searched):
    place, _ = searched
    (parent,), trials = place.runs("study"), place.runs("trial")
    names = {f.path for f in place.client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "config.yaml", "figures"} <= names
    note = parent.data.tags["mlflow.note.content"]
    for expected in (
        "**Best trial:** [#",
        "finished, ",
        "hpsearch evaluate registered_model=digits-selu",
        "of digits-selu](#/models/digits-selu/versions/",
        "mlflow models serve",
    ):
        assert expected in note
    assert len(trials) == 7
    for run in trials:
        assert f"#/experiments/0/runs/{parent.info.run_id}" in run.data.tags["mlflow.note.content"]
        assert {
            "system/process_cpu_percent",
            "system/process_memory_megabytes",
        } <= run.data.metrics.keys()
        (given_data,) = run.inputs.dataset_inputs
        assert given_data.dataset.digest == parent.data.tags["hpsearch.fingerprint"]
    done = place.here("study=digits-selu", "path=again.html", script="report")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Understanding study digits-selu" in (place.folder / "again.html").read_text()
    typed = "hpsearch search data=digits arch.n_hidden=3 arch.n_units=20"
    assert re.search(rf"{typed} .*budget\.n_trials=14\b", done.stdout)


def test_a_version_says_where_it_is_from_and_what_it_is_worth(searched):
    place, _ = searched
    text = place.client.get_model_version("digits-selu", "1").description
    for expected in (
        "The model of [trial",
        "It became champion",
        "- accuracy: 0.",
        "with MC Dropout",
        "Self-test passed:",
        'mlflow.pyfunc.load_model("models:/digits-selu/1")',
        "np.full((2, 8, 8, 1), 0",
    ):
        assert expected in text
    assert (
        "`champion` is the one to use"
        in place.client.get_registered_model("digits-selu").description
    )


def test_a_study_that_is_not_there_is_one_sentence_and_leaves_no_page(searched):
    place, _ = searched
    done = place.here("study=digits-elu", script="report")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "Error: There is no study digits-elu in the storage. Did you mean 'digits-selu'?"
    )
    assert not (place.folder / "digits-elu.html").exists()
