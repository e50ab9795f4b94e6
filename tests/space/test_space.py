"""Test bounds: their errors, how each scale is drawn, and what a study stores."""

from __future__ import annotations

import subprocess
import sys

import keras_tuner
import optuna
import pytest

from hpsearch.errors import SpaceError
from hpsearch.space.hyperparameters import OptunaHyperParameters
from hpsearch.space.space import Space

optuna.logging.set_verbosity(optuna.logging.WARNING)


def new_study(**settings):
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1), **settings)


def drawn(bounds, n=1, study=None):
    """Draw learning rate, momentum and dropout rate `n` times within the bounds."""
    study = study or new_study()
    for _ in range(n):
        hp = OptunaHyperParameters(study.ask(), Space(bounds))
        hp.Float("learning_rate", 1e-5, 1e-1, sampling="log")
        hp.Float("momentum", 0.5, 0.999)
        hp.Float("dropout_rate", 0.0, 0.5)
        yield hp


# --- what is refused


@pytest.mark.parametrize(
    ("name", "bound", "sentence"),
    [
        (
            "learning_rate",
            {"low": 0.1, "high": 0.001},
            r"bounds\.learning_rate\.low to be at most .* swap them",
        ),
        (
            "n_units",
            {"low": 0, "high": 9, "scale": "log"},
            r"bounds\.n_units\.low to be above 0 on a log scale",
        ),
        (
            "x",
            {"low": 0.5, "high": 1.0, "scale": "log_complement"},
            r"bounds\.x to lie in \[0, 1\)",
        ),
        (
            "momentum",
            {"low": 0.5, "high": 1.0},
            r"bounds\.momentum\.high to be a number in \[0, 1\); received 1\.0",
        ),
        (
            "dropout_rate",
            {"low": 0.0, "high": 1.2},
            r"bounds\.dropout_rate\.high to be a rate in \[0, 1\)",
        ),
        ("dropout_rate", 1.2, r"bounds\.dropout_rate to be a rate in \[0, 1\); received 1\.2"),
        ("block/dropout_2", -0.1, r"bounds\.block/dropout_2 to be a rate"),
        (
            "dropout_rate",
            {"choices": [0.1, 1.0]},
            r"bounds\.dropout_rate\.choices to be a rate in \[0, 1\); received 1\.0",
        ),
        (
            "learning_rate",
            {"low": 0.0, "high": 0.1},
            r"bounds\.learning_rate\.low to be a number above 0",
        ),
        ("learning_rate", -0.1, r"bounds\.learning_rate to be a number above 0; received -0\.1"),
        ("learning_rate", "fast", r"bounds\.learning_rate to be a number above 0; received 'fast'"),
        (
            "x",
            {"low": 1, "high": 2, "scale": "lgo"},
            r"bounds\.x\.scale .* Did you mean 'log'\? Valid: linear, log, ",
        ),
        ("x", {"low": 1, "hihg": 2}, r"bounds\.x .*'hihg'\. Did you mean 'high'\?"),
        ("x", {"low": 1}, r"bounds\.x\.high to be a number"),
        ("x", {"low": "a", "high": 2}, r"bounds\.x\.low to be a number; received 'a'"),
        ("x", {"low": True, "high": 2}, r"bounds\.x\.low to be a number; received True"),
        (
            "x",
            {"low": float("nan"), "high": 2},
            r"bounds\.x\.low to be a finite number; received nan",
        ),
        (
            "x",
            {"low": 0, "high": float("inf")},
            r"bounds\.x\.high to be a finite number; received inf",
        ),
        ("x", float("nan"), r"bounds\.x to be a finite number"),
        ("x", None, r"bounds\.x to be a number, a word, or a mapping .* received None"),
        (
            "x",
            {"low": 0, "high": 1, "step": 0},
            r"bounds\.x\.step to be a number above 0; received 0",
        ),
        (
            "x",
            {"low": 1, "high": 9, "step": 2, "scale": "log"},
            r"bounds\.x\.step to go with scale linear",
        ),
        ("x", {"choices": []}, r"bounds\.x\.choices to be a list of values"),
        ("x", {"choices": "relu"}, r"bounds\.x\.choices to be a list of values"),
        ("x", {"choices": [1, 1]}, r"bounds\.x\.choices to differ"),
    ],
)
def test_an_impossible_bound_is_refused_with_its_key(name, bound, sentence):
    with pytest.raises(SpaceError, match=r"^Expected space\." + sentence):
        Space({name: bound})


@pytest.mark.parametrize("name", ["learning_rate", "n_dropout_layers", "rated", "decay_rate"])
def test_a_name_that_only_resembles_a_dropout_rate_is_free(name):
    assert Space({name: 2.5}).rules[name].value == 2.5


def test_a_bound_that_nobody_asks_for_is_refused_with_the_names_asked_for():
    space = Space({"momentun": 0.9})
    with pytest.raises(
        SpaceError,
        match=r"bounds\.momentun .* Did you mean 'momentum'\? Valid: learning_rate, momentum",
    ):
        space.check_used(["momentum", "learning_rate"])
    Space({"momentum": 0.9}).check_used(["momentum", "learning_rate"])


# --- drawing


def test_momentum_has_the_same_mass_in_each_decade_of_its_complement():
    bounds = {"momentum": {"low": 0.0, "high": 0.999, "scale": "log_complement"}}
    momenta = [hp.values["momentum"] for hp in drawn(bounds, n=900)]
    decades = [
        sum(low <= m < high for m in momenta) for low, high in ((0, 0.9), (0.9, 0.99), (0.99, 1))
    ]
    assert sum(decades) == 900
    assert all(abs(count - 300) < 60 for count in decades)  # four standard deviations of a binomial
    assert all(0 <= m <= 0.999 for m in momenta)


def test_a_log_bound_comes_before_a_linear_proposal():
    bounds = {"dropout_rate": {"low": 0.001, "high": 0.1, "scale": "log"}}
    rates = [hp.values["dropout_rate"] for hp in drawn(bounds, n=400)]
    assert all(0.001 <= rate <= 0.1 for rate in rates)
    assert abs(sum(rate < 0.01 for rate in rates) - 200) < 50


def test_a_study_stores_the_complement_and_people_read_momentum():
    study = new_study()
    space = Space(
        {"momentum": {"low": 0.8, "high": 0.99, "scale": "log_complement"}, "dropout_rate": 0.25}
    )
    (hp,) = drawn(
        {"momentum": {"low": 0.8, "high": 0.99, "scale": "log_complement"}, "dropout_rate": 0.25},
        study=study,
    )
    trial = study.trials[0]
    assert set(trial.params) == {"learning_rate", "one_minus_momentum"}
    assert trial.distributions["one_minus_momentum"].log
    assert space.values(trial) == hp.values
    assert set(hp.values) == {"learning_rate", "momentum", "dropout_rate"}
    assert hp.values["dropout_rate"] == 0.25


def test_values_that_people_write_can_be_enqueued():
    bounds = {
        "momentum": {"low": 0.8, "high": 0.99, "scale": "log_complement"},
        "dropout_rate": 0.25,
    }
    wanted = {"learning_rate": 0.001, "momentum": 0.95, "dropout_rate": 0.25}
    study = new_study()
    params = Space(bounds).params(wanted)
    assert params == {"learning_rate": 0.001, "one_minus_momentum": pytest.approx(0.05)}
    study.enqueue_trial(params)
    (hp,) = drawn(bounds, study=study)
    assert hp.values == pytest.approx(wanted)


@pytest.mark.parametrize("momentum", [0.8, 0.9, 0.95, 0.99, 0.999])
def test_both_ends_of_a_complement_scale_can_be_stored_and_read(momentum):
    bounds = {"momentum": {"low": 0.8, "high": 0.999, "scale": "log_complement"}}
    study = new_study()
    study.enqueue_trial(Space(bounds).params({"momentum": momentum}))
    (hp,) = drawn(bounds, study=study)
    assert hp.values["momentum"] == pytest.approx(momentum, abs=1e-12)
    assert 0.8 <= hp.values["momentum"] <= 0.999


@pytest.mark.parametrize("bound", [{"low": 0.1, "high": 0.2}, {"choices": [0.1, 0.2]}])
def test_a_value_outside_its_bounds_is_not_enqueued(bound):
    with pytest.raises(SpaceError, match=r"Expected dropout_rate to .* received 0\.3"):
        Space({"dropout_rate": bound}).params({"dropout_rate": 0.3})


def test_a_trial_of_earlier_bounds_keeps_the_values_that_it_drew():
    study = new_study()
    (hp,) = drawn({"momentum": {"low": 0.8, "high": 0.99, "scale": "log_complement"}}, study=study)
    assert Space({"momentum": 0.5}).values(study.trials[0])["momentum"] == hp.values["momentum"]


# --- any HyperModel


def model_of_two_kinds(hp):
    """KerasTuner's example of a conditional scope, without the layers."""
    seen = {}
    kind = hp.Choice("model_type", ["mlp", "cnn"])
    with hp.conditional_scope("model_type", ["mlp"]):
        seen["units"] = hp.Int("units", 16, 64, step=16)
    with hp.conditional_scope("model_type", ["cnn"]):
        seen["filters"] = hp.Int("filters", 8, 32, sampling="log")
        with hp.name_scope("head"):
            seen["bias"] = hp.Boolean("bias")
    seen["width"] = hp.Fixed("width", 7)
    return kind, seen


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_what_is_inactive_is_none_and_is_not_drawn(kind):
    study = new_study()
    study.enqueue_trial({"model_type": kind})
    hp = OptunaHyperParameters(study.ask(), Space({}))
    _, seen = model_of_two_kinds(hp)
    active = {"mlp": {"units"}, "cnn": {"filters", "head/bias"}}[kind]
    assert set(study.trials[0].params) == {"model_type"} | active
    assert set(hp.values) == {"model_type", "width"} | active
    assert (seen["units"] is None) == (kind == "cnn")
    assert (seen["filters"] is None) == (kind == "mlp")
    assert seen["width"] == 7
    assert hp.asked == ["model_type", "units", "filters", "head/bias", "width"]


def test_a_fixed_parent_opens_its_scope():
    trial = new_study().ask()
    kind, seen = model_of_two_kinds(
        OptunaHyperParameters(trial, Space({"model_type": "cnn", "filters": 16}))
    )
    assert (kind, seen["filters"], seen["units"]) == ("cnn", 16, None)
    assert set(trial.params) == {"head/bias"}


def test_a_name_is_drawn_once_and_gives_one_value():
    trial = new_study().ask()
    hp = OptunaHyperParameters(trial, Space({}))
    first = hp.Float("rate", 0, 1)
    with hp.conditional_scope("rate", [first]):
        other = hp.Float("other", 0, 1)
    assert 0 <= other <= 1
    assert other == hp.get("other") == trial.params["other"]
    assert hp.Float("rate", 0, 1) == first == hp.get("rate") == trial.params["rate"]


@pytest.mark.parametrize(
    ("ask", "possible"),
    [
        (lambda hp: hp.Int("n", 6, 13, step=3), {6, 9, 12}),
        (lambda hp: hp.Int("n", 2, 32, step=2, sampling="log"), {2, 4, 8, 16, 32}),
        (lambda hp: hp.Float("n", 0.1, 0.45, step=0.1), {0.1, 0.2, 0.3, 0.4}),
        (lambda hp: hp.Boolean("n"), {True, False}),
        (lambda hp: hp.Choice("n", [3, 5]), {3, 5}),
    ],
)
def test_proposals_with_steps_give_what_keras_tuner_gives(ask, possible):
    study = new_study()
    seen = {round(ask(OptunaHyperParameters(study.ask(), Space({}))), 9) for _ in range(80)}
    assert seen == possible


def test_reverse_log_is_drawn_between_its_ends():
    hp = OptunaHyperParameters(new_study().ask(), Space({}))
    assert 0.5 <= hp.Float("m", 0.5, 0.9, sampling="reverse_log") <= 0.9


def test_a_range_can_replace_a_list_of_numbers():
    hp = OptunaHyperParameters(
        new_study().ask(), Space({"learning_rate": {"low": 2e-4, "high": 9e-4, "scale": "log"}})
    )
    assert 2e-4 <= hp.Choice("learning_rate", [0.1, 0.01, 0.001]) <= 9e-4


@pytest.mark.parametrize(
    ("bound", "ask", "sentence"),
    [
        (2.5, lambda hp: hp.Int("x", 1, 4), "whole numbers; received 2.5"),
        (
            {"low": 1.5, "high": 4},
            lambda hp: hp.Int("x", 1, 4),
            "whole numbers; received low=1.5, high=4",
        ),
        ("many", lambda hp: hp.Float("x", 1, 4), "numbers; received 'many'"),
        ("elo", lambda hp: hp.Choice("x", ["elu", "relu"]), "one of elu, relu; received 'elo'"),
        (
            {"choices": ["elu", "no"]},
            lambda hp: hp.Choice("x", ["elu", "relu"]),
            "one of elu, relu; received 'no'",
        ),
        (
            {"low": 1, "high": 2},
            lambda hp: hp.Choice("x", ["elu", "relu"]),
            "one of elu, relu; received low=1",
        ),
        (1, lambda hp: hp.Boolean("x"), "true or false; received 1"),
    ],
)
def test_a_bound_that_the_hypermodel_could_not_use_is_refused(bound, ask, sentence):
    with pytest.raises(SpaceError, match=rf"^Expected space\.bounds\.x to hold {sentence}"):
        ask(OptunaHyperParameters(new_study().ask(), Space({"x": bound})))


def test_the_name_of_a_complement_is_kept_free():
    with pytest.raises(SpaceError, match="Expected no hyperparameter named one_minus_"):
        OptunaHyperParameters(new_study().ask(), Space({})).Float("one_minus_beta", 0, 1)


def test_a_hypermodel_that_is_not_tunable_builds_from_a_copy():
    hp = OptunaHyperParameters(new_study().ask(), Space({}))
    rate = hp.Float("rate", 0, 1)
    assert isinstance(hp.copy(), keras_tuner.HyperParameters)
    assert hp.copy().get("rate") == rate


# --- grid


def test_grid_points_are_even_on_each_scale():
    grid = Space(
        {
            "learning_rate": {"low": 1e-4, "high": 1e-2, "scale": "log"},
            "momentum": {"low": 0.9, "high": 0.999, "scale": "log_complement"},
            "dropout_rate": {"low": 0.0, "high": 0.5},
            "n_units": {"low": 1, "high": 2},
            "n_layers": {"low": 2, "high": 9, "step": 3},
            "activation": {"choices": ["relu", "elu"]},
            "batch_size": 32,
        }
    ).grid(3)
    assert grid == {
        "learning_rate": pytest.approx([1e-4, 1e-3, 1e-2]),
        "one_minus_momentum": pytest.approx([1e-3, 1e-2, 1e-1]),
        "dropout_rate": [0.0, 0.25, 0.5],
        "n_units": [1, 2],
        "n_layers": [2, 5, 8],
        "activation": ["relu", "elu"],
    }
    assert Space({"dropout_rate": {"low": 0.0, "high": 0.5}}).grid(1) == {"dropout_rate": [0.25]}
    with pytest.raises(SpaceError, match="n_points to be at least 1"):
        Space({}).grid(0)


def test_grid_sampler_runs_through_the_whole_grid():
    bounds = {
        "learning_rate": {"low": 1e-4, "high": 1e-2, "scale": "log"},
        "momentum": {"low": 0.8, "high": 0.99, "scale": "log_complement"},
        "dropout_rate": {"low": 0, "high": 0.5},
    }
    study = optuna.create_study(sampler=optuna.samplers.GridSampler(Space(bounds).grid(2)))

    def objective(trial):
        hp = OptunaHyperParameters(trial, Space(bounds))
        return (
            hp.Float("learning_rate", 1, 2)
            + hp.Float("momentum", 0, 0.5)
            + hp.Float("dropout_rate", 0, 0.5)
        )

    study.optimize(objective, n_trials=20)
    assert (
        len({tuple(sorted(Space(bounds).values(trial).items())) for trial in study.trials})
        == 8
        == len(study.trials)
    )


def test_the_space_is_imported_without_keras_and_optuna(request):
    code = (
        "import sys, hpsearch.space.space; "
        "print([m for m in ('keras', 'keras_tuner', 'optuna') if m in sys.modules])"
    )
    source = request.config.rootpath / "src"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
