"""Understanding a study: the sections of its page, from what to do next to who ran what."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator

from hpsearch.html_report.section import Section
from hpsearch.study.replay import standing
from hpsearch.study.study import value_of
from hpsearch.study_report import commands, figures, pareto
from hpsearch.study_report.advice import LEVEL, N_BEST, NEAR, Advice, Edge
from hpsearch.study_report.figures import clock, timeline
from hpsearch.study_report.searched import Searched, best_rows, end_of

MIN_RANKED = 4  # finished trials below which importances are left out
MAX_ROWS = 60


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def facts(searched: Searched) -> list[tuple[str, str]]:
    """Return what the page is about."""
    sampler, pruner = (
        _last(searched.config.get("sampler", {}).get("make")),
        _last(searched.config.get("pruner")),
    )
    found = [
        ("optimized", f"{searched.label}, {searched.direction.better} is better"),
        ("searched", ", ".join(map(str, searched.dimensions)) or "nothing"),
        ("by", " and ".join(name for name in (sampler, pruner) if name)),
        ("trials", f"{searched.outcome.counts()}; {searched.outcome.n_epochs} epochs in all"),
        ("took", f"{duration(clock(searched).total_s)} of work"),
    ]
    if searched.best is not None:
        found.append(
            (
                "best",
                f"{searched.title(searched.best)}: {searched.monitor} "
                f"{value_of(searched.best):.4f}",
            )
        )
    return [(name, value) for name, value in found if value]


def _last(node: object) -> str:
    return str(node.get("_target_", "")).rpartition(".")[2] if isinstance(node, dict) else ""


def sections(searched: Searched, advice: Advice) -> list[Section]:
    """Return the page's sections, in the order in which they are read; what needs more trials is
    left out.
    """
    made = [_next(searched, advice)]
    if searched.best is None:
        return [*made, *_stopped(searched), *_workers(searched)]
    rows = best_rows(searched.trials, searched.space, searched.objectives, searched.direction, 10)
    made += [Section("How it went", "", figures=[figures.history(searched)])]
    made += [pareto.section(searched)] if len(searched.objectives) > 1 else []
    made += [Section("The best trials", "", rows), _prospects(searched, advice), _bounds(advice)]
    if searched.dimensions:
        made += _hyperparameters(searched)
    made += [Section("Learning curves", "", figures=[figures.learning_curves(searched)])]
    return [*made, *_stopped(searched), *_workers(searched)]


def _next(searched: Searched, advice: Advice) -> Section:
    return Section(
        "What to do next", f"{advice.next_step} {commands.WHERE}", commands=[advice.command]
    )


def _prospects(searched: Searched, advice: Advice) -> Section:
    title = "Are more trials likely to pay?"
    outlook = advice.outlook
    if not outlook.gains:
        return Section(title, outlook.text)
    rows = [
        [
            "further trials",
            "time",
            "expected gain",
            f"{1 - LEVEL:.0%} interval",
            "chance of any",
            "of it lasting",
        ]
    ]
    for gain in outlook.gains:
        time = duration(gain.n_trials * outlook.trial_s)
        interval = f"{gain.low:.4f} to {gain.high:.4f}"
        cells = [
            f"{gain.n_trials:,}",
            time,
            f"{gain.expected:.4f}",
            interval,
            f"{gain.chance:.0%}",
            f"{gain.real:.4f}",
        ]
        rows.append(cells)
    text = (
        f"{outlook.text}\n\nGains are in the unit of {searched.label}. The expected gain is what "
        f"the history will "
        "show; a part of it is luck, and does not last when the winner is trained anew. What could "
        "be left at most is "
        f"{outlook.regret:.4f} (the bound by which Makarova et al. 2022 end a search); the noise "
        f"is "
        f"{outlook.noise:.4f}. A model of the {len(searched.spent)} trials says this; it knows "
        f"nothing of what lies "
        "beyond the bounds."
    )
    return Section(title, text, rows)


def _bounds(advice: Advice) -> Section:
    title = "Where the bounds cut"
    if not advice.edges:
        return Section(title, "Nothing that has an order varied.")
    text = f"No best value lies within {NEAR:.0%} of the scale from a bound."
    if advice.cut:
        said = (
            f"widen it: {edge.dimension.name} lies at its {edge.bound} bound, wider is "
            f"{edge.wider:.6g}"
            for edge in advice.cut
        )
        text = f"A better value may lie beyond a bound; {'; '.join(said)}."
    rows = [
        [
            "hyperparameter",
            "low",
            "best",
            "high",
            "place on its scale",
            f"of the best {N_BEST} at that end",
            "",
        ]
    ]
    return Section(title, text, [*rows, *map(_edge_row, advice.edges)])


def _edge_row(edge: Edge) -> list[str]:
    d = edge.dimension
    bounds = [d.shown(d.low), d.shown(edge.value), d.shown(d.high)]
    return [
        d.name,
        *bounds,
        f"{edge.position:.0%}",
        str(edge.n_near) if edge.bound else "",
        "widen" if edge.bound else "",
    ]


def _hyperparameters(searched: Searched) -> list[Section]:
    found = importances(searched)
    pictures = [figures.importances(found, len(searched.ranked))] if found else []
    text = "" if found else "Importances need some finished trials that differ."
    if found and len(searched.ranked) < 5 * len(found):
        text = f"{len(searched.ranked)} finished trials give a rough order only."
    return [
        Section(
            "Which hyperparameters matter", text, figures=[*pictures, figures.slices(searched)]
        ),
        Section("Which combinations work", "", figures=[figures.parallel(searched)]),
    ]


def importances(searched: Searched) -> dict[str, float]:
    """Return each hyperparameter's share of the variance, the largest first; empty where there are
    too few trials.
    """
    if (
        len(searched.ranked) < MIN_RANKED
        or len({value_of(t) for t in searched.ranked}) < 2
        or not searched.dimensions
    ):
        return {}
    names = [d.name for d in searched.dimensions]
    shown = optuna.create_study()
    for trial, row in zip(searched.ranked, searched.positions(searched.ranked), strict=True):
        drawn = {
            name: float(min(max(x, 0.0), 1.0))
            for name, x in zip(names, row, strict=True)
            if np.isfinite(x)
        }
        distributions: dict[str, BaseDistribution] = {
            name: FloatDistribution(0.0, 1.0) for name in drawn
        }
        shown.add_trial(
            optuna.trial.create_trial(
                value=value_of(trial), params=drawn, distributions=distributions
            )
        )
    found = optuna.importance.get_param_importances(
        shown, evaluator=FanovaImportanceEvaluator(seed=0)
    )
    return dict(found)


def _stopped(searched: Searched) -> list[Section]:
    trials = [t for t in searched.trials if end_of(t) not in ("finished", "running")]
    if not trials:
        return []
    head = [
        "trial",
        "end",
        "after epoch",
        searched.label,
        "place at that epoch",
        "the best of those",
        "why",
    ]
    rows = [_stopped_row(searched, trial) for trial in trials[:MAX_ROWS]]
    text = (
        "A trial is pruned when too many others were better at the same epoch; any other says why."
    )
    if len(trials) > MAX_ROWS:
        text += f" The first {MAX_ROWS} of {len(trials)}."
    return [Section("Why trials were stopped", text, [head, *rows])]


def _stopped_row(searched: Searched, trial: optuna.trial.FrozenTrial) -> list[str]:
    end, step, value = end_of(trial), trial.last_step, searched.reached(trial)
    cells = [
        searched.title(trial),
        end,
        "" if step is None else str(step),
        "" if value is None else f"{value:.4f}",
    ]
    if end == "pruned" and step is not None:
        found = standing(searched.study, trial, step, searched.tries)
        bracket = "" if found.bracket is None else f" of bracket {found.bracket}"
        best = f"#{found.others[0][0]} {found.others[0][1]:.4f}" if found.others else ""
        return [*cells, f"{found.place} of {found.n}{bracket}", best, ""]
    return [*cells, "", "", str(trial.user_attrs.get("message", ""))[:200]]


def _workers(searched: Searched) -> Sequence[Section]:
    if not any(t.datetime_start for t in searched.tries):
        return []
    n_again = len(searched.tries) - len(searched.trials)
    text = (
        f"{n_again} tries were cut off with their worker and tried again; they are shown as failed."
        if n_again
        else ""
    )
    return [Section("Who ran what, when", text, figures=[timeline(searched)])]
