"""What a person reads while a search runs."""

import io

import pytest
from rich.console import Console

from hpsearch.trials import progress
from hpsearch.trials.progress import Progress, in_words, time_left


@pytest.mark.parametrize(
    ("seconds", "words"), [(4.4, "4 s"), (89, "89 s"), (100, "2 min"), (3600, "60 min"), (7500, "2 h 05 min")]
)
def test_durations_read_as_people_say_them(seconds, words):
    assert in_words(seconds) == words


def test_time_left_is_the_pace_so_far_times_what_is_left():
    assert time_left(0, 10, 33.0) is None
    assert time_left(4, 10, 60.0) == pytest.approx(90.0)
    assert time_left(10, 10, 60.0) == 0


@pytest.fixture
def lines():
    return io.StringIO()


@pytest.fixture
def shown(lines, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    return Progress("val/loss", 30, maximize=False, console=Console(file=lines, width=500))


def test_without_a_terminal_plain_lines_tell_the_trial_the_epoch_and_the_best(shown, lines):
    with shown.search(n_trials=3, n_done=0, best="", best_value=None):
        shown.begin_trial("#0 lr=0.001")
        shown.epoch(1, 2.0)
        shown.end_trial("finished", 1.5)
        shown.begin_trial("#1 lr=0.01")
        shown.epoch(1, 1.9)
        shown.end_trial("pruned", None)
        shown.begin_trial("#2 lr=0.1")
        shown.end_trial("finished", 1.6)
    told = [line for line in lines.getvalue().splitlines() if not line.endswith(": building")]
    assert told[0] == "trial 1/3  #0 lr=0.001: epoch 1/30 val/loss 2.0000"
    assert told[1] == "trial 1/3  #0 lr=0.001: finished, val/loss 1.5000  (best so far)"
    assert told[2].startswith("trial 2/3  #1 lr=0.01: epoch 1/30 val/loss 1.9000; best so far #0 1.5000; about ")
    assert told[3] == "trial 2/3  #1 lr=0.01: pruned"
    assert told[4] == "trial 3/3  #2 lr=0.1: finished, val/loss 1.6000"


def test_a_failed_trial_does_not_count_against_the_budget(shown, lines):
    with shown.search(n_trials=2, n_done=1, best="#0 1.5000", best_value=1.5):
        shown.begin_trial("#1 lr=0.01")
        shown.end_trial("failed: ValueError: [x] no", None)
        shown.begin_trial("#2 lr=0.01")
        shown.end_trial("finished", 1.4)
    told = [line for line in lines.getvalue().splitlines() if not line.endswith(": building")]
    assert told[0] == "trial 2/2  #1 lr=0.01: failed: ValueError: [x] no"
    assert told[1] == "trial 2/2  #2 lr=0.01: finished, val/loss 1.4000  (best so far)"


def test_where_more_is_better_the_best_is_the_highest(lines):
    shown = Progress("val/accuracy", 30, maximize=True, console=Console(file=lines, width=500))
    with shown.search(n_trials=2, n_done=1, best="#0 0.5000", best_value=0.5):
        shown.begin_trial("#1")
        shown.end_trial("finished", 0.6)
    assert lines.getvalue().endswith("val/accuracy 0.6000  (best so far)\n")


def test_on_a_terminal_one_line_lives_and_is_gone_at_the_end(lines):
    console = Console(file=lines, width=200, force_terminal=True)
    shown = Progress("val/loss", 30, maximize=False, console=console)
    with shown.search(n_trials=1, n_done=0, best="", best_value=None):
        shown.begin_trial("#0 lr=0.001")
        shown.epoch(1, 2.0)
    assert "#0 lr=0.001: building" in lines.getvalue()
    assert lines.getvalue().endswith(("\x1b[2K", "\x1b[?25h"))
