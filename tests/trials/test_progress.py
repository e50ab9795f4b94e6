"""What a person reads while a search runs."""

import io
import json
import re
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from rich.console import Console

from hpsearch.study.direction import Direction
from hpsearch.trials.progress import Progress

BEGIN = datetime(2026, 1, 1)
RECORDED = json.loads(Path(__file__).with_name("recorded_searches.json").read_text())


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(4.4, "4 s"), (89, "89 s"), (100, "2 min"), (3600, "60 min"), (7500, "2 h 05 min")],
)
def test_durations_read_as_people_say_them(seconds, words):
    assert Progress.in_words(seconds) == words


def ended(begin_s, end_s, *, state=TrialState.COMPLETE, n_epochs=10):
    value = {TrialState.COMPLETE: 1.0}.get(state)
    trial = create_trial(
        state=state, value=value, intermediate_values=dict.fromkeys(range(1, n_epochs + 1), 1.0)
    )
    trial.datetime_start = BEGIN + timedelta(seconds=begin_s)
    trial.datetime_complete = (
        None if state == TrialState.RUNNING else BEGIN + timedelta(seconds=end_s)
    )
    return trial


def left(trials, n_trials, now_s, *, prunes=False):
    progress = shown(io.StringIO())
    with progress.search("made", n_trials, lambda: trials, prunes=prunes):
        return progress.seconds_left(BEGIN + timedelta(seconds=now_s))


def test_time_left_is_that_of_the_trials_to_come_and_the_last_ones_count_most():
    assert left([], 10, 33.0) is None
    done = [ended(0, 10), ended(10, 40)]
    assert left(done, 2, 40) == 0
    expected = (10 + 2 * 30) / 3
    assert left(done, 4, 40) == pytest.approx(2 * expected)
    new, old = (ended(40, None, state=TrialState.RUNNING, n_epochs=n) for n in (0, 20))
    assert left([*done, new], 4, 46) == pytest.approx(2 * expected - 6)
    assert left([*done, new], 4, 99) == pytest.approx(
        expected
    )  # a slow one takes nothing from those after it
    assert left([*done, old], 4, 60) == pytest.approx(
        expected + 5
    )  # it goes on, for 5 of 10 epochs at least
    assert left([*done, new, new], 4, 46) == pytest.approx((2 * expected - 2 * 6) / 2)


def test_under_a_pruner_later_trials_are_expected_to_be_shorter_than_the_first():
    first = [ended(0, 60, n_epochs=30)]
    assert left(first, 2, 60) == pytest.approx(60)
    assert left(first, 2, 60, prunes=True) == pytest.approx(2 * (30 + 6 * 10) / 7)


def test_trials_that_failed_or_were_killed_tell_nothing_of_the_pace():
    assert left([ended(0, 10), ended(10, 9999, state=TrialState.FAIL)], 2, 9999) == pytest.approx(
        10
    )


def error_factor(epochs, n_done):
    """Replay a search whose epochs take a second and trials two more; return how far the time left
    is off.
    """
    trials, now_s = [], 0.0
    for n in epochs:
        trials.append(ended(now_s, now_s + n + 2, n_epochs=n))
        now_s += n + 2
    told = left(trials[:n_done], len(trials), sum(n + 2 for n in epochs[:n_done]), prunes=True)
    real = sum(n + 2 for n in epochs[n_done:])
    return max(told / real, real / told)


@pytest.mark.parametrize("name", RECORDED["trained"])
def test_after_a_quarter_of_a_search_the_time_left_is_right_within_a_factor_of_one_and_a_half(name):
    epochs = RECORDED["trained"][name]
    assert error_factor(epochs, len(epochs) // 4) < 1.5


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_so_it_is_in_most_searches(share):
    right = [
        error_factor(epochs, round(share * len(epochs))) < 1.5 for epochs in RECORDED["replayed"]
    ]
    assert sum(right) >= 0.8 * len(right)


@pytest.fixture
def lines():
    return io.StringIO()


@pytest.fixture
def study():
    return optuna.create_study(study_name="made", pruner=optuna.pruners.NopPruner())


def shown(lines, **console):
    return Progress(
        "val/loss", 30, Direction.MINIMIZE, console=Console(file=lines, width=120, **console)
    )


def run(study, shown, values, *, epochs=1):
    """Run a trial for each value: a number completes it, "pruned" prunes it, any other word fails
    it.
    """
    for value in values:
        trial = study.ask()
        shown.begin_trial(trial.number)
        shown.built(f"#{trial.number} lr=0.01")
        for epoch in range(1, epochs + 1):
            shown.epoch(epoch, 2.0)
        if isinstance(value, float):
            study.tell(trial, value)
            shown.end_trial("finished", value)
        elif value == "pruned":
            study.tell(trial, state=TrialState.PRUNED)
            shown.end_trial("pruned", None)
        else:
            trial.set_user_attr("reason", "error")
            study.tell(trial, state=TrialState.FAIL)
            shown.end_trial(f"failed: {value}", None)


def test_without_a_terminal_plain_lines_tell_the_trial_the_epoch_and_the_best(
    study, lines, monkeypatch
):
    monkeypatch.setattr(Progress, "_PLAIN_EVERY_S", 0.0)
    told = shown(lines)
    with told.search("made", 3, study.get_trials, prunes=False):
        run(study, told, [1.5, "pruned", 1.6])
    found = lines.getvalue().splitlines()
    assert found[0] == "trial 1/3  #0 lr=0.01: epoch 1/30 val/loss 2.0000"
    assert found[1] == "trial 1/3  #0 lr=0.01: finished, val/loss 1.5000  (best so far)"
    assert re.fullmatch(
        r"trial 2/3  #1 lr=0\.01: epoch 1/30 val/loss 2\.0000; best so far #0 1\.5000; about \d+ s "
        r"left",
        found[2],
    )
    assert found[3] == "trial 2/3  #1 lr=0.01: pruned"
    assert found[5] == "trial 3/3  #2 lr=0.01: finished, val/loss 1.6000"


def test_a_failed_trial_does_not_count_against_the_budget_and_other_workers_trials_do(study, lines):
    told = shown(lines)
    study.tell(study.ask(), 1.5)  # another worker's
    with told.search("made", 3, study.get_trials, prunes=False):
        run(study, told, ["ValueError: [x] no"])
        study.tell(study.ask(), 1.7)  # another worker's, meanwhile
        run(study, told, [1.4])
    assert lines.getvalue().splitlines() == [
        "trial 2/3  #1 lr=0.01: failed: ValueError: [x] no",
        "trial 3/3  #3 lr=0.01: finished, val/loss 1.4000  (best so far)",
    ]


def test_where_more_is_better_the_best_is_the_highest(lines):
    study = optuna.create_study(direction="maximize")
    told = Progress("val/accuracy", 30, Direction.MAXIMIZE, console=Console(file=lines, width=500))
    study.tell(study.ask(), 0.5)
    with told.search("made", 3, study.get_trials, prunes=False):
        run(study, told, [0.6, 0.4])
    first, second = lines.getvalue().splitlines()
    assert first.endswith("val/accuracy 0.6000  (best so far)")
    assert second.endswith("val/accuracy 0.4000")


def test_on_a_terminal_one_view_has_counts_best_bar_and_time_left_and_is_gone_at_the_end(
    study, lines
):
    told = shown(lines, force_terminal=True)
    with told.search("made", 20, study.get_trials, prunes=False):
        run(study, told, [1.5, "pruned", "no"])
        trial = study.ask()
        told.begin_trial(trial.number)
        told.built("#3 lr=0.02")
        told.epoch(12, 1.75)
        told._live.refresh()
        view = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", lines.getvalue()).splitlines()
    assert any(
        re.match(
            r"Study made: 2 of 20 trials done, 1 of them pruned, 1 failed; best so far #0 1\.5000; "
            r"about \d+ s left",
            v,
        )
        for v in view
    )
    assert any(re.match(r"#3 lr=0\.02 ━+.* 12/30 epochs  val/loss 1\.7500", v) for v in view)
    assert lines.getvalue().endswith(("\x1b[2K", "\x1b[?25h"))


def test_a_quiet_console_is_told_nothing(study, lines):
    told = shown(lines, force_terminal=True, quiet=True)
    with told.search("made", 1, study.get_trials, prunes=False):
        run(study, told, [1.5])
    assert lines.getvalue() == ""
