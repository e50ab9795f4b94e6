"""A fit stops early, keeps its best weights, refuses NaN, and goes on from a checkpoint as if it
had never stopped.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
import pytest

from hpsearch.errors import ConfigError, DivergedError
from hpsearch.training.checkpoints import Checkpoint
from hpsearch.training.epochs import Fitted
from hpsearch.training.settings import Training
from hpsearch.training.trainer import Trainer
from small_training import SETTINGS, Net, OwnFit, file_in, fit, search_data, timeless, trainer


def assert_same(
    one: tuple[keras.Model, Fitted, Any], other: tuple[keras.Model, Fitted, Any]
) -> None:
    assert timeless(one[1].history) == timeless(other[1].history)
    assert one[1].best_epoch == other[1].best_epoch
    for mine, theirs in zip(one[0].get_weights(), other[0].get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("averaging_epochs", "stop_after"),
    [
        (1.0, 3),
        *(
            pytest.param(*c, marks=pytest.mark.slow)
            for c in ((0.0, 1), (0.0, 3), (0.0, 5), (1.0, 1), (1.0, 5))
        ),
    ],
)
def test_a_fit_that_goes_on_equals_one_never_stopped(
    tmp_path: Path, averaging_epochs: float, stop_after: int
) -> None:
    shared = trainer(averaging_epochs=averaging_epochs)
    never = fit(shared)
    before = fit(shared, file_in(tmp_path), stop_after)[2]
    assert len(before) == stop_after
    again = fit(shared, file_in(tmp_path))
    assert again[2] == again[1].history
    assert again[2][:stop_after] == before  # in its seconds too: these were not trained twice
    assert_same(again, never)


@pytest.mark.slow
def test_a_fit_goes_on_in_another_process(tmp_path: Path) -> None:
    """The other process has trained another trial before, in the same program."""
    never = fit(trainer())
    before = fit(trainer(), file_in(tmp_path), stop_after=2)[2]
    code = (
        "import json, sys; from pathlib import Path; import small_training as t\n"
        "t.fit(t.trainer(), seed=3, dropout_rate=0.6, learning_rate=0.1)\n"
        "model, fitted, told = t.fit(t.trainer(), t.file_in(Path(sys.argv[1])))\n"
        "model.save_weights(sys.argv[1] + '/after.weights.h5')\n"
        "print(json.dumps(told))"
    )
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths}\n{code}", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    told = json.loads(run.stdout.splitlines()[-1])
    assert told[:2] == before
    assert timeless(told) == timeless(never[1].history)
    model = Net().build(keras_tuner.HyperParameters())
    model.load_weights(tmp_path / "after.weights.h5")
    for mine, theirs in zip(model.get_weights(), never[0].get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_early_stopping_goes_on_where_it_was(tmp_path: Path) -> None:
    """A learning rate that destroys the net: the first epoch stays the best, and patience runs over
    the stop.
    """
    shared = trainer(epochs=20, patience_epochs=3, averaging_epochs=0.0)
    bad = {"learning_rate": 0.3, "dropout_rate": 0.0}
    never = fit(shared, **bad)
    assert never[1].n_epochs < 20
    last = never[1].n_epochs
    for stop_after in (last - 1, last):
        file = file_in(tmp_path / str(stop_after))
        fit(shared, file, stop_after, **bad)
        assert_same(fit(shared, file, **bad), never)


@pytest.mark.parametrize(
    "damage",
    [
        "of another seed",
        "cut",
        *(pytest.param(d, marks=pytest.mark.slow) for d in ("empty", "of another kind")),
    ],
)
def test_a_checkpoint_of_no_use_is_passed_over(tmp_path: Path, damage: str) -> None:
    file = file_in(tmp_path)
    never = fit(trainer())
    fit(trainer(), file, stop_after=2, seed=8 if damage == "of another seed" else 7)
    whole = file.path.read_bytes()
    bad = {"cut": whole[: len(whole) // 2], "empty": b"", "of another kind": b"nothing of ours"}
    file.path.write_bytes(bad.get(damage, whole))
    assert_same(fit(trainer(), file), never)


def test_checkpoints_come_when_due_and_are_removed(tmp_path: Path) -> None:
    rare, often = file_in(tmp_path / "rare"), file_in(tmp_path / "often", every_s=0)
    fit(trainer(), rare)
    assert not rare.path.exists()
    fit(trainer(), often)
    found = often.load()
    assert found is not None
    assert len(found.history) == 5
    often.path.with_suffix(".123.part").write_bytes(b"left by a process that died")
    often.remove()
    often.remove()
    assert list(often.path.parent.iterdir()) == []


def test_a_checkpoint_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = file_in(tmp_path)
    one = Checkpoint(
        "x", [{"val/loss": 1.5}], 1, [np.ones(3)], [np.zeros((2, 2), np.float32), np.array(3)]
    )
    file.save(one)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        one.write(file.path)
    file.save(one)  # does not end a trial
    found = file.load()
    assert found is not None
    assert found.history == one.history
    np.testing.assert_array_equal(found.running[0], one.running[0])
    assert found.running[1].dtype == one.running[1].dtype


@pytest.mark.slow
def test_the_seventh_trial_equals_it_alone() -> None:
    """Whatever other trials have left in the program."""
    shared = trainer()
    for number in range(1, 7):
        stop = 1 + number % 2  # all are pruned
        fit(
            shared,
            stop_after=stop,
            seed=number,
            dropout_rate=number / 10,
            learning_rate=0.1 / number,
        )
    assert_same(fit(shared), fit(Trainer(Training(**SETTINGS), search_data())))


def test_best_weights_are_those_of_the_best_epoch() -> None:
    data = search_data()
    model, fitted, _ = fit(trainer(), learning_rate=0.3)
    measured = model.evaluate(data.val.inputs, data.val.targets, verbose=0)[0]
    assert measured == pytest.approx(fitted.metrics["val/loss"], rel=1e-4)
    assert fitted.metrics["val/loss"] == min(m["val/loss"] for m in fitted.history)


def test_nan_ends_the_fit() -> None:
    with pytest.raises(DivergedError, match=r"is (nan|inf) after epoch"):
        fit(trainer(), learning_rate=3e38)


def test_a_metric_of_nothing_is_left_out_and_ends_no_fit() -> None:
    fitted = Fitted()
    assert fitted.add({"val/loss": 1.0, "val/precision": math.nan}, "val/loss", False)
    assert fitted.history == [{"val/loss": 1.0}]
    for metrics in ({"val/loss": 1.0, "train/loss": math.inf}, {"val/loss": math.nan}):
        with pytest.raises(DivergedError):
            fitted.add(metrics, "val/loss", False)
    with pytest.raises(DivergedError, match="val/precision is nan after epoch 2"):
        fitted.add({"val/loss": 1.0, "val/precision": math.nan}, "val/precision", True)


def test_a_hypermodels_own_fit_is_what_runs() -> None:
    hypermodel, hp = OwnFit(), keras_tuner.HyperParameters()
    model = hypermodel.build(hp)
    told: list[int] = []
    fitted = trainer(epochs=2).fit(hypermodel, hp, model, 7, lambda epoch, *_: told.append(epoch))
    assert hypermodel.seen == {"batch_size": 24, "epochs": 2, "verbose": 0}
    assert told == [1, 2]
    assert fitted.n_epochs == 2
    assert model.optimizer.iterations == 2 * 96 // 24


class PlainFit(Net):
    """A HyperModel whose own fit leaves the batch size to whoever calls it."""

    def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        return model.fit(*args, **kwargs)


@pytest.mark.parametrize(("values", "batch_size"), [({}, 16), ({"batch_size": 32}, 32)])
def test_a_hypermodels_own_fit_gets_the_batch_size(values: dict[str, int], batch_size: int) -> None:
    hypermodel, hp = PlainFit(), keras_tuner.HyperParameters()
    hp.values.update(values)
    model = hypermodel.build(hp)
    trainer(epochs=1).fit(hypermodel, hp, model, 7, lambda *_: None)
    assert model.optimizer.iterations == 96 // batch_size
    assert "batch_size" not in vars(model.fit)


@pytest.mark.slow
def test_a_batch_size_that_is_drawn_is_that_of_the_fit() -> None:
    shared = trainer(epochs=2)
    before = fit(shared)
    assert_same(fit(shared, batch_size=32), fit(trainer(epochs=2, batch_size=32)))
    assert_same(fit(shared), before)


@pytest.mark.slow
def test_mixed_precision_computes_in_bfloat16_and_keeps_float32() -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model, fitted, _ = fit(Trainer(Training(**SETTINGS | {"epochs": 2}), search_data()))
    finally:
        keras.config.set_dtype_policy("float32")
    assert {str(weight.dtype) for weight in model.get_weights()} == {"float32"}
    assert model.layers[1].compute_dtype == "bfloat16"
    assert fitted.history[1]["train/loss"] < fitted.history[0]["train/loss"]


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match="Valid: float32, float64, mixed_bfloat16"):
        Training(**SETTINGS | {"precision": "bfloat16"})


@pytest.mark.parametrize("name", ["epochs", "batch_size", "patience_epochs"])
def test_impossible_settings_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"training.{name} must be at least 1, but is 0"):
        Training(**SETTINGS | {name: 0})
