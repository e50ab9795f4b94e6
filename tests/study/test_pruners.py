"""Trials are paused at rungs, and go on when they are among the best of a rung."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console

from hpsearch.errors import ConfigError
from hpsearch.space.space import Space
from hpsearch.study.budget import Budget
from hpsearch.study.direction import Direction
from hpsearch.study.pruners import Promoting
from hpsearch.study.sampling import SeededSampler
from hpsearch.study.storage import journal, sqlite
from hpsearch.study.study import SharedStudy
from hpsearch.tracking.tracking import Tracking
from hpsearch.training.checkpoints import Checkpoints
from hpsearch.trials.costs import Costs
from hpsearch.trials.objective import Objective
from hpsearch.trials.progress import Progress
from small_training import SETTINGS, Net, trainer

optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_study(storage: Any, pruner: Any, n_trials: int, name: str = "made-net") -> SharedStudy:
    return SharedStudy.open(
        name,
        storage=storage,
        sampler=SeededSampler(optuna.samplers.RandomSampler, 47, per_trial=True),
        pruner=pruner,
        direction=Direction.MINIMIZE,
        budget=Budget(n_trials, None, 5, 3, lease_s=120.0, linger=True, grace_s=5.0),
    )


def run_on_paper(study: SharedStudy, curves: list[list[float]]) -> list[str]:
    """Run trials whose validation losses are written down; return what each claim came to."""
    events = []
    while (trial := study.claim()) is not None:
        curve, begin = curves[trial.number], trial.user_attrs.get("paused", 0)
        for epoch in range(begin + 1, len(curve) + 1):
            study.report(trial, curve[epoch - 1], epoch)
            if study.should_stop(trial, epoch):
                study.pause(trial)
                events.append(f"#{trial.number} {begin}-{epoch} paused")
                break
        else:
            study.complete(trial, min(curve))
            events.append(f"#{trial.number} {begin}-{len(curve)} finished")
    return events


@pytest.mark.parametrize(
    ("first", "factor", "most", "rungs"),
    [(3, 3, 30, [3, 9]), (3, 3, 81, [3, 9, 27]), (1, 2, 4, [1, 2]), (1, 3, 2, [1]), (2, 2, 3, [2])],
)
def test_rungs_leave_a_whole_step_to_the_end(
    first: int, factor: int, most: int, rungs: list[int]
) -> None:
    assert Promoting(first, most, factor).rungs == rungs


@pytest.mark.parametrize("setting", [{"min_resource": 0}, {"reduction_factor": 1}])
def test_impossible_settings_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"pruner.{next(iter(setting))} must be at least"):
        Promoting(**{"min_resource": 1, "max_resource": 9, "reduction_factor": 3, **setting})


@pytest.mark.parametrize("store", ["sqlite", "journal"])
def test_hand_worked_promotions(tmp_path: Path, store: str) -> None:
    """Rungs 1 and 2, half go on. #0 is the worst at rung 1, #1 the best, #2 second, #3 between #1
    and #2.
    """
    storage = {"sqlite": lambda p: sqlite(p, 10, 10), "journal": lambda p: journal(p, 10)}[store]
    study = open_study(storage(str(tmp_path / store)), Promoting(1, 4, 2), n_trials=4)
    curves = [[9, 9, 9, 9], [1, 1, 1, 1], [3, 2.5, 0.5, 0.4], [2, 2, 2, 2]]
    assert run_on_paper(study, [[float(v) for v in c] for c in curves]) == [
        "#0 0-1 paused",  # alone at its rung: 1 // 2 go on
        "#1 0-2 paused",  # the best of two, so straight on to rung 2, where it is alone
        "#2 0-1 paused",  # third of three, one goes on
        # second of four, two go on; second of two at rung 2: now #1 is the best of two there
        "#3 0-2 paused",
        "#1 2-4 finished",
    ]
    states = [t.state for t in study.trials()]
    assert states == [TrialState.PRUNED, TrialState.COMPLETE, TrialState.PRUNED, TrialState.PRUNED]
    assert [t.number for t in study.end_paused()] == [0, 2, 3]
    real = study.optuna._storage.get_all_trials(study.optuna._study_id)
    assert [t.state for t in real] == states
    assert [t.user_attrs["reason"] for t in real if t.state == TrialState.PRUNED] == ["pruned"] * 3
    assert study.claim() is None


def test_the_best_epoch_up_to_a_rung_counts_and_not_the_last(tmp_path: Path) -> None:
    study = open_study(journal(str(tmp_path / "journal"), 10), Promoting(2, 8, 2), n_trials=2)
    curves = [[1.0] + [5.0] * 7, [2.0] * 8]
    assert run_on_paper(study, curves) == [
        "#0 0-2 paused",  # alone at its rung
        "#1 0-2 paused",  # one of two goes on, and #0 has been better in epoch 1
        "#0 2-4 paused",
        "#0 4-8 finished",
    ]


def test_one_trial_always_finishes(tmp_path: Path) -> None:
    study = open_study(journal(str(tmp_path / "journal"), 10), Promoting(1, 9, 3), n_trials=2)
    curves = [[2.0] * 9, [1.0] * 9]
    assert run_on_paper(study, curves) == [
        "#0 0-1 paused",
        "#1 0-1 paused",
        "#1 1-3 paused",
        "#1 3-9 finished",
    ]
    assert [t.state for t in study.trials()] == [TrialState.PRUNED, TrialState.COMPLETE]


def test_a_paused_trial_is_taken_up_by_one_worker_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "study.db")
    one, other = (
        open_study(sqlite(path, 10, 10), Promoting(1, 4, 2), n_trials=2) for _ in range(2)
    )
    for worker, value in ((one, 1.0), (other, 2.0)):
        trial = worker.claim()
        assert trial is not None
        worker.report(trial, value, 1)
        assert trial.number == 1 or worker.should_stop(trial, 1)
        worker.pause(trial)
    taken = [one.claim(), other.claim()]
    assert [t and t.number for t in taken] == [0, None]


def test_samplers_learn_from_paused_trials_and_other_pruners_go_on_with_them(
    tmp_path: Path,
) -> None:
    storage = journal(str(tmp_path / "journal"), 10)
    study = open_study(storage, Promoting(1, 4, 2), n_trials=2)
    trial = study.claim()
    assert trial is not None
    study.report(trial, 1.0, 1)
    study.pause(trial)
    seen = study.optuna.get_trials(states=(TrialState.PRUNED,))
    assert [t.intermediate_values for t in seen] == [{1: 1.0}]
    again = open_study(storage, optuna.pruners.NopPruner(), n_trials=2).claim()
    assert again is not None
    assert again.number == 0


def test_a_paused_trial_does_not_look_dead(tmp_path: Path) -> None:
    study = open_study(sqlite(str(tmp_path / "study.db"), 10, 10), Promoting(1, 4, 2), n_trials=2)
    trial = study.claim()
    assert trial is not None
    study.report(trial, 1.0, 1)
    study.pause(trial)
    study.optuna._storage.set_trial_state_values(
        trial._trial_id, TrialState.RUNNING
    )  # taken, not yet signed
    assert [t.state for t in study.release_dead()] == [TrialState.RUNNING]


def search(folder: Path, pruner: Any) -> tuple[Objective, dict[int, list[tuple[str, int, float]]]]:
    """Run a search of six trials; return it, and from MLflow what each trial's run holds, epoch by
    epoch.
    """
    folder.mkdir()
    study = open_study(sqlite(str(folder / "study.db"), 10, 10), pruner, n_trials=6)
    tracking = Tracking(
        f"sqlite:///{folder}/mlflow.db",
        None,
        str(folder / "spool"),
        flush_every_s=1.0,
        patience_s=60.0,
    )
    objective = Objective(
        make=lambda hp: Net(),
        space=Space(
            {"learning_rate": {"low": 1e-3, "high": 0.1, "scale": "log"}, "dropout_rate": 0.2}
        ),
        trainer=trainer(),
        study=study,
        tracking=tracking,
        parent=tracking.open_parent("made-net", None, {}),
        keep_model=lambda *_: None,
        costs=Costs(None, {}, tolerance=0.1, n_images=1, n_repeats=1),
        checkpoints=Checkpoints(str(folder / "checkpoints"), 1e9),
        progress=Progress("val/loss", 5, False, Console(file=io.StringIO())),
        settings={},
        root_seed=3,  # with which a paused trial is overtaken
    )
    while (trial := study.claim()) is not None:
        objective.run(trial)
    objective.end_paused()
    assert tracking.close(60)
    runs = {
        int(run.data.tags["hpsearch.trial"]): run for run in tracking.children(objective.parent)
    }
    assert len(runs) == 6
    for number, run in runs.items():
        if study.trials()[number].state == TrialState.COMPLETE:
            # A run that was paused before tells nothing more of it.
            assert run.data.tags["hpsearch.end"] == "finished"
            assert not run.data.tags.get("hpsearch.message")
    keys = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
    epochs = {
        number: [
            (key, metric.step, metric.value)
            for key in keys
            for metric in tracking.client.get_metric_history(run.info.run_id, key)
        ]
        for number, run in runs.items()
    }
    objective.settings = {str(number): run.info.status for number, run in runs.items()}
    return objective, epochs


@pytest.mark.slow
def test_a_paused_and_promoted_trial_equals_the_same_trial_never_paused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    never, all_epochs = search(tmp_path / "never", optuna.pruners.NopPruner())
    paused, some_epochs = search(tmp_path / "paused", Promoting(1, SETTINGS["epochs"], 2))
    finished = [t for t in paused.study.trials() if t.state == TrialState.COMPLETE]
    promoted = [t for t in finished if "promoted" in t.user_attrs]
    assert promoted
    for t in finished:
        assert t.value == never.study.trials()[t.number].value
        assert t.intermediate_values == never.study.trials()[t.number].intermediate_values
        assert (
            some_epochs[t.number] == all_epochs[t.number]
        )  # each epoch once, whatever was paused in between
    for number, epochs in some_epochs.items():
        assert set(epochs) <= set(all_epochs[number])
    n_epochs = sum(len(t.intermediate_values) for t in paused.study.trials())
    assert n_epochs < 6 * SETTINGS["epochs"]
    assert paused.settings == {str(t.number): "FINISHED" for t in paused.study.trials()}
    assert not list((tmp_path / "paused").rglob("*.npz"))  # losing trials leave nothing
