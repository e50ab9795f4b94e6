"""Tests of experiments: curve measures, paired intervals, verdicts, and whole ablations.

The numbers are worked out by hand. The slow tests run the commands `ablate` and `compare`.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from hydra.utils import instantiate

from hpsearch.cli.command_line import composed
from hpsearch.experiments.ablation import Ablation
from hpsearch.experiments.answers import Claim, Interval, Results, Table
from hpsearch.experiments.arms import Arm, Measured, Workbench
from hpsearch.experiments.session import Session
from hpsearch.html_report.section import markdown
from hpsearch.tracking.tracking import Tracking
from small_training import search_data

ROOT = Path(__file__).parents[2]
SHORT = (
    "data=digits",
    "data.n_train=300",
    "training.epochs=2",
    "training.jit_compile=false",
    "n_seeds=2",
)
ABLATIONS = {
    "initialization": ("levels=[he_normal,one_value]", "arch.n_hidden=2"),
    "bias": ("levels=[zeros,positive]", "arch.n_hidden=2"),
    "self_normalization": ("levels=[selu,relu_batch_norm]", "ablation.across.values=[3]"),
    "activation": ("levels=[relu,prelu]", "ablation.across.values=[2]"),
    "momentum": (
        "levels=[sgd_0.9,sgd_0,nadam_0.999]",
        "ablation.across.values=[1e-3]",
        "arch.n_hidden=2",
    ),
    "normalization": ("levels=[none,layer]", "ablation.across.values=[1e-3]", "arch.n_hidden=2"),
    "dropout_cost": ("levels=[no_layer,all]", "arch.n_hidden=2"),
    "schedule": ("levels=[constant,one_cycle]", "ablation.across.values=[1e-3]", "arch.n_hidden=2"),
    "sparsity": ("levels=[dense,magnitude_90,units_50]", "arch.n_hidden=2"),
}


@pytest.mark.parametrize(
    ("losses", "overshoot", "oscillation"), [([3, 2, 1], 0, 0), ([3, 1, 2, 4, 1], 3, 3)]
)
def test_overshoot_is_the_highest_loss_after_the_first_descent(losses, overshoot, oscillation):
    training = composed("search", ["data=digits"]).training
    found = Measured(curves={"train/loss": losses, "time/epoch_s": losses, "val/loss": losses})
    found.add_scores(instantiate(training, monitor="val/loss", direction="minimize"), 0)
    assert found.scalars["overshoot"] == overshoot
    assert found.scalars["oscillation"] == oscillation
    assert found.scalars["best/epoch"] == losses.index(1) + 1


def test_a_race_counts_epochs_and_seconds_and_is_empty_where_the_target_is_not_reached():
    quick = Measured(curves={"val/loss": [3, 2, 1], "time/epoch_s": [5, 7, 9]})
    slow = Measured(curves={"val/loss": [3, 2.5], "time/epoch_s": [5, 7]})
    assert quick.race(2) == {"race/epochs": 2, "race/seconds": 12}
    assert slow.race(2) == {}


def test_three_quarters_of_all_trainings_reach_the_loss_of_a_race():
    curves = [[1], [2, 0.5], [3], [4], [5]]
    trainings = [Measured({}, {"val/loss": curve, "time/epoch_s": [1, 1]}) for curve in curves]
    assert Results(arm=dict(enumerate(trainings))).add_race() == 4
    assert Results(arm={0: Measured()}).add_race() is None


def test_the_interval_is_students():
    found = Interval.of([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.half == pytest.approx(4.3027 * 1 / np.sqrt(3), rel=1e-4)
    assert Interval.of([5.0]).n == 1
    assert np.isnan(Interval.of([5.0]).p)
    assert Interval.of([2.0, 2.0]).low == 2


def test_differences_are_paired_by_seed():
    found = Interval.of_difference({0: 1.0, 1: 10.0, 2: 5.0}, {0: 2.0, 1: 11.0})
    assert (found.mean, found.n) == (-1.0, 2)
    assert found.high < 0  # the differences between seeds cancel


def measured(loss):
    return Measured(
        scalars={"best/val/loss": loss},
        curves={"val/loss": [2.0, loss], "time/epoch_s": [1.0, 1.0]},
    )


ARMS = [Arm(name, {}, {}, level=name) for name in ("base", "good", "same")]
RESULTS = Results(
    base={0: measured(1.0), 1: measured(1.1), 2: measured(1.2)},
    good={0: measured(0.5), 1: measured(0.61), 2: measured(0.7)},
    same={0: measured(1.2), 1: measured(1.1), 2: measured(1.0)},
)


def test_the_verdict_names_the_best_arm_and_only_certain_differences():
    sentence = Table.of(ARMS, RESULTS, ["best/val/loss"], "base").verdict()
    assert sentence.startswith(
        "good has the best best/val/loss, 0.6033; better than base beyond doubt: good (-0.4967"
    )
    assert sentence.endswith("not told apart from base by these seeds: same.")


@pytest.mark.parametrize(
    ("lower", "than", "word"),
    [
        ("good", "base", "Confirmed"),
        ("base", "good", "**Contradicted**"),
        ("same", "base", "Undecided"),
    ],
)
def test_claims_of_textbooks_are_judged_with_their_interval(lower, than, word):
    by_level = {arm.level: arm.name for arm in ARMS}
    found = RESULTS.judged([Claim("It is so", lower, than, "best/val/loss")], by_level)
    assert found[0].startswith(f'{word}: "It is so" (best/val/loss of {lower} minus {than}: ')
    assert RESULTS.judged([Claim("No arm", "other", "base", "best/val/loss")], by_level) == []


def test_censored_races_are_shown_as_such():
    target = RESULTS.add_race()
    assert target == pytest.approx(1.1)
    shown = Table.of(ARMS, RESULTS, ["race/epochs"], "base").cells()
    assert [row[1] for row in shown[1:]] == ["2 ± 0 (1 never)", "2 ± 0", "2 ± 0 (1 never)"]
    assert markdown(shown).splitlines()[1] == "|---|---|---|---|---|"


def test_a_claim_on_a_race_is_judged_by_the_loss_that_all_of_both_arms_reach():
    def trained(losses):
        return Measured({}, {"val/loss": losses, "time/epoch_s": [1.0] * len(losses)})

    results = Results(
        slow={seed: trained([2.0, 1.5, 1.2 + seed / 100]) for seed in range(3)},
        quick={seed: trained([1.3, 1.0]) for seed in range(3)},
    )
    results["quick"][3] = Measured({}, {"val/loss": [9.0], "time/epoch_s": [1.0]}, diverged="later")
    results["slow"][3] = results["slow"][0]
    results["quick"][4] = Measured(diverged="at once")
    claims = [Claim("It is so", "quick", "slow", "race/epochs")]
    (judged,) = results.judged(claims, {name: name for name in results})
    # A training that diverged before the end of its first epoch has no curves.
    assert results.add_race() is not None
    assert judged == (
        'Confirmed: "It is so" (race/epochs of quick minus slow to val/loss 1.2200: -1 [-1, -1] '
        "over 3 seeds; 2 of quick have none)."
    )


def test_the_best_of_a_second_factor_stands_for_its_level():
    arms = [Arm("x at 1", {}, {}, "x", 1), Arm("x at 2", {}, {}, "x", 2)]
    results = Results({"x at 1": RESULTS["base"], "x at 2": RESULTS["good"]})
    assert results.best_across(arms, "best/val/loss") == [arms[1]]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
@pytest.mark.parametrize("measure", ["best/val/loss", "best/val/accuracy"])
def test_an_arm_whose_measure_is_never_finite_is_not_the_best_of_its_level(measure, loss):
    arms = [Arm("x at 1", {}, {}, "x", 1), Arm("x at 2", {}, {}, "x", 2)]
    never = {0: Measured({measure: loss}), 1: Measured({measure: loss})}
    results = Results({"x at 1": never, "x at 2": {0: Measured({measure: 0.5})}})
    assert results.best_across(arms, measure) == [arms[1]]
    assert results.loss(arms[0], measure) == math.inf


def test_the_p_values_of_a_table_are_corrected_by_holm_and_leave_out_arms_without_a_test():
    lone = Results(RESULTS, lone={0: measured(1.0)})
    arms = [*ARMS, Arm("lone", {}, {}, "lone")]
    without = [row.against.p for row in Table.of(ARMS, RESULTS, ["best/val/loss"], "base").rows]
    found = [row.against.p for row in Table.of(arms, lone, ["best/val/loss"], "base").rows]
    assert found == pytest.approx([*without, math.nan], nan_ok=True)
    assert np.isnan(found).tolist() == [True, False, False, True]
    p = Interval.of([1.0 - 0.5, 1.1 - 0.61, 1.2 - 0.7]).p
    assert found[1] == pytest.approx(2 * p)


@pytest.mark.parametrize("n_arms", [1, 2, 5, 9])
def test_the_interval_of_a_table_leaves_out_0_exactly_where_its_p_is_below_the_level(n_arms):
    rng = np.random.default_rng(n_arms)
    n_called = 0
    for _ in range(40):
        names = ["base", *map(str, range(n_arms))]
        arms = [Arm(name, {}, {}, level=name) for name in names]
        effects = dict(zip(names, rng.normal(scale=0.2, size=n_arms + 1), strict=True))
        results = Results()
        for name in names:
            losses = effects[name] + rng.normal(scale=0.05, size=3)
            results[name] = {seed: measured(float(loss)) for seed, loss in enumerate(losses)}
        for row in Table.of(arms, results, ["best/val/loss"], "base").rows[1:]:
            found = row.against
            assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
            assert found.low < found.mean < found.high
            n_called += found.p < 0.05
    assert 0 < n_called < 40 * n_arms


@pytest.mark.parametrize(
    ("best", "groups"),
    [(False, [["a, n 1", "b, n 1"], ["a, n 2", "b, n 2"]]), (True, [["a, n 2", "b, n 1"]])],
)
def test_groups_are_the_arms_of_one_second_factor_or_the_best_arm_of_each_level(best, groups):
    across = {"setting": "arch.n", "values": [1, 2], "best": best}
    levels = {"a": (), "b": ()}
    ablation = Ablation(
        "x", "Why?", levels, "a", across, ["best/val/loss"], [], inspect=False, claims=[]
    )
    arms = [Arm(name, {}, {}, level, value) for name, level, value, _ in ablation.cells(None)]
    losses = zip(arms, (3.0, 1.0, 1.0, 2.0), strict=True)
    results = Results({arm.name: {0: measured(loss)} for arm, loss in losses})
    assert [[arm.name for arm in group] for group in ablation.groups(arms, results)] == groups


def test_an_arm_is_built_with_the_settings_that_a_study_drew():
    config = composed("search", ["arch=selu", "data=digits"])
    parts = {name: instantiate(config[name], _convert_="all") for name in ("arch", "optimizer")}
    rates = {"learning_rate": 1e-3, "momentum": 0.9, "dropout_rate": 0.0}
    arm = Arm("deep", parts, {"n_hidden": 2, "activation": "elu", "weight_decay": 1e-4, **rates})
    _, _, model = Workbench(search_data()).build(arm, seed=1)
    assert sum(isinstance(layer, keras.layers.Dense) for layer in model.layers) == 3
    assert model.optimizer.weight_decay == 1e-4


@pytest.mark.parametrize(
    "earlier",
    [
        {"hpsearch.experiments": "hpsearch.questions", "hpsearch.models": "hpsearch.architectures"},
        {"hpsearch.experiments": "hpsearch.questions"},
    ],
)
def test_an_ablation_that_was_begun_before_modules_were_moved_goes_on(
    tmp_path, monkeypatch, mlflow_tables, earlier
):
    shutil.copy(mlflow_tables, tmp_path)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracking = Tracking(uri, None, str(tmp_path / "spool"), flush_every_s=1.0, patience_s=60)
    bench = Workbench(search_data())

    def begun(identity):
        return Session(tracking, bench, "made-bias", identity, {}).parent.run_id

    identity = {
        "arch": {"_target_": "hpsearch.models.dense.DenseModel"},
        "ablation": {
            "_target_": "hpsearch.experiments.ablation.Ablation",
            "levels": {"small": ["arch.bias={_target_: hpsearch.models.initializers.Small}"]},
        },
    }
    text = json.dumps(identity)
    for current, before in earlier.items():
        text = text.replace(current, before)
    known = begun([json.loads(text), 0])
    assert begun([identity, 0]) == known
    assert begun([identity, 0]) == known  # its digest is the present one now
    assert begun([identity, 1]) != known
    tracking.close(1)


def in_short_form(workplace, name):
    """Run an ablation in its short form, check what it leaves, and return what the command did."""
    done = workplace.here(f"ablation={name}", *SHORT, *ABLATIONS[name], script="ablate")
    assert done.returncode == 0, done.stderr
    client = workplace.client
    runs = client.search_runs(["0"])
    parents = [r for r in runs if r.data.tags["hpsearch.kind"] == "ablation"]
    cells = [r for r in runs if r.data.tags["hpsearch.kind"] == "cell"]
    assert [r.info.status for r in parents] == ["FINISHED"]
    assert "hpsearch.verdict" in parents[0].data.tags
    assert {a.path for a in client.list_artifacts(parents[0].info.run_id)} == {
        "answer.md",
        "table.md",
        "figures",
    }
    n_levels = ABLATIONS[name][0].count(",") + 1
    assert [r.info.status for r in cells] == ["FINISHED"] * 2 * n_levels
    assert all("best/val/loss" in r.data.metrics for r in cells)
    text = Path(
        client.download_artifacts(cells[0].info.run_id, "measured.json", str(workplace.folder))
    ).read_text()
    assert len(json.loads(text)["curves"]["val/loss"]) == 2
    return done


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ABLATIONS if name != "bias"])
def test_every_ablation_runs_in_a_short_form(workplace, name):
    in_short_form(workplace, name)


def test_every_ablation_has_a_short_form():
    assert set(ABLATIONS) == {path.stem for path in (ROOT / "conf" / "ablation").glob("*.yaml")}


@pytest.mark.slow
def test_an_ablation_runs_in_a_short_form_and_the_same_again_trains_nothing(workplace):
    first = in_short_form(workplace, "bias")
    again = workplace.here("ablation=bias", *SHORT, *ABLATIONS["bias"], script="ablate")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("(measured before)") == 4
    look = f"Look at it:  mlflow ui --backend-store-uri sqlite:///{workplace.folder}/mlflow.db"
    assert [done.stdout.splitlines()[-1] for done in (first, again)] == [look, look]
    assert len(workplace.client.search_runs(["0"])) == 5


@pytest.mark.slow
def test_compare_trains_the_champions_again_and_refuses_another_data_set(workplace):
    few = ("data=digits", "uncertainty.n_samples=5")
    for arch in ("elu", "batch_norm"):
        small = (
            "arch.n_hidden=2",
            "training.epochs=2",
            "training.jit_compile=false",
            "budget.n_trials=1",
            "space.bounds.momentum=0.9",
        )
        done = workplace.here(f"arch={arch}", *few, *small)
        assert done.returncode == 0, done.stderr
    words = (*few, "archs=[elu,batch_norm]", "confirm.n_seeds=2")
    done = workplace.here(*words, "--json", script="compare")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["arms"].keys() == {"digits-elu", "digits-batch_norm"}
    assert told["arms"]["digits-elu"]["measures"]["test/plain/nll"]["n"] == 2
    assert any("BatchNormalization makes an epoch longer" in claim for claim in told["claims"])
    assert all("digits-batch_norm" in claim for claim in told["claims"])
    (parent,) = workplace.runs("comparison")
    assert {run.data.params["momentum"] for run in workplace.runs("cell")} == {"0.9"}
    assert {
        "hpsearch.study.digits-elu",
        "hpsearch.study.digits-batch_norm",
    } <= parent.data.tags.keys()
    files = {a.path for a in workplace.client.list_artifacts(parent.info.run_id)}
    assert {"answer.md", "comparison.html", "figures"} <= files
    done = workplace.here(*words, "data.n_val=200", script="compare")
    assert done.returncode == 2
    assert "a comparison needs one data set with one split" in done.stderr
