"""The sections of a study's page, from what to do next to which worker ran what.

`sections` makes all of them, in the order in which they are read; `key_values` makes the list above
them. A section that needs more trials than there are is left out.
"""

from __future__ import annotations

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial

from hpsearch.html_report.section import Section
from hpsearch.study.replay import standing
from hpsearch.study.study import value_of
from hpsearch.study_report import pareto
from hpsearch.study_report.advice import Advice, Edge, Prospects
from hpsearch.study_report.commands import Commands
from hpsearch.study_report.figures import Clock, Figures
from hpsearch.study_report.searched import Searched, best_rows, end_of


def key_values(searched: Searched) -> list[tuple[str, str]]:
    """Return what a study was, as names and values: metric, hyperparameters, trials, time, best."""
    sampler = _class_name(searched.config.get("sampler", {}).get("make"))
    pruner = _class_name(searched.config.get("pruner"))
    methods = [name for name in (sampler, pruner) if name]
    outcome = searched.outcome
    found = [
        ("optimized", f"{searched.label}, {searched.direction.better} is better"),
        ("searched", ", ".join(map(str, searched.dimensions)) or "nothing"),
    ]
    if methods:
        found.append(("by", " and ".join(methods)))
    found.append(("trials", f"{outcome.counts()}; {outcome.n_epochs} epochs in all"))
    found.append(("took", f"{duration(Clock.of_study(searched).total_s)} of work"))
    best = searched.best
    if best is not None:
        value = f"{searched.monitor} {value_of(best):.4f}"
        found.append(("best", f"{searched.title(best)}: {value}"))
    return found


def _class_name(node: object) -> str:
    """Return the name of the class that a node of the configuration makes, or an empty string."""
    if not isinstance(node, dict):
        return ""
    target = str(node.get("_target_", ""))
    return target.rpartition(".")[2]


def duration(seconds: float) -> str:
    """Return a time as text, in its two largest units of hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    if minutes:
        return f"{minutes} min {rest} s"
    return f"{rest} s"


def sections(searched: Searched, advice: Advice) -> list[Section]:
    """Return the sections of the page, in the order in which they are read."""
    made = [_next_step(advice)]
    if searched.best is not None:
        made.extend(_results(searched, advice))
    made.extend(_stopped(searched))
    made.extend(_workers(searched))
    return made


def _next_step(advice: Advice) -> Section:
    text = f"{advice.next_step} {Commands.WHERE}"
    return Section("What to do next", text, commands=[advice.command])


def _results(searched: Searched, advice: Advice) -> list[Section]:
    """Return the sections that need a finished trial."""
    figures = Figures(searched)
    made = [Section("How it went", "", figures=[figures.history()])]
    if len(searched.objectives) > 1:
        made.append(pareto.section(searched))
    rows = best_rows(searched.trials, searched.space, searched.objectives, searched.direction, 10)
    made.append(Section("The best trials", "", rows))
    made.append(_prospects(searched, advice))
    made.append(_bounds(advice))
    if searched.dimensions:
        made.append(_importances(searched))
        made.append(Section("Which combinations work", "", figures=[figures.parallel()]))
    made.append(Section("Learning curves", "", figures=[figures.learning_curves()]))
    return made


def _prospects(searched: Searched, advice: Advice) -> Section:
    title = "Are more trials likely to pay?"
    outlook = advice.outlook
    if not outlook.gains:
        return Section(title, outlook.text)
    head = [
        "further trials",
        "time",
        "expected gain",
        f"{1 - Prospects.LEVEL:.0%} interval",
        "chance of any",
        "of it lasting",
    ]
    rows = [head]
    for gain in outlook.gains:
        cells = [
            f"{gain.n_trials:,}",
            duration(gain.n_trials * outlook.trial_s),
            f"{gain.expected:.4f}",
            f"{gain.low:.4f} to {gain.high:.4f}",
            f"{gain.chance:.0%}",
            f"{gain.real:.4f}",
        ]
        rows.append(cells)
    text = (
        f"{outlook.text}\n\nGains are in the unit of {searched.label}. The expected gain is what "
        "the history will show; a part of it is luck, and does not last when the winner is "
        "trained anew. What could be left at most is "
        f"{outlook.regret:.4f} (the bound by which Makarova et al. 2022 end a search); the noise "
        f"is {outlook.noise:.4f}. A model of the {len(searched.spent)} trials says this; it knows "
        "nothing of what lies beyond the bounds."
    )
    return Section(title, text, rows)


def _bounds(advice: Advice) -> Section:
    title = "Where the bounds cut"
    if not advice.edges:
        return Section(title, "Nothing that has an order varied.")
    proposals = []
    for edge in advice.cut:
        proposals.append(
            f"widen it: {edge.dimension.name} lies at its {edge.bound} bound, wider is "
            f"{edge.wider:.6g}"
        )
    if proposals:
        text = f"A better value may lie beyond a bound; {'; '.join(proposals)}."
    else:
        text = f"No best value lies within {Edge.NEAR:.0%} of the scale from a bound."
    head = [
        "hyperparameter",
        "low",
        "best",
        "high",
        "place on its scale",
        f"of the best {Edge.N_BEST} at that end",
        "",
    ]
    rows = [_edge_row(edge) for edge in advice.edges]
    return Section(title, text, [head, *rows])


def _edge_row(edge: Edge) -> list[str]:
    dimension = edge.dimension
    cells = [
        dimension.name,
        dimension.shown(dimension.low),
        dimension.shown(edge.value),
        dimension.shown(dimension.high),
        f"{edge.position:.0%}",
    ]
    if edge.bound:
        return [*cells, str(edge.n_near), "widen"]
    return [*cells, "", ""]


def _importances(searched: Searched) -> Section:
    figures = Figures(searched)
    found = importances(searched)
    n_ranked = len(searched.ranked)
    text = ""
    pictures = []
    if not found:
        text = "Importances need some finished trials that differ."
    else:
        pictures.append(figures.importances(found))
        if n_ranked < 5 * len(found):
            text = f"{n_ranked} finished trials give a rough order only."
    pictures.append(figures.slices())
    return Section("Which hyperparameters matter", text, figures=pictures)


def importances(searched: Searched) -> dict[str, float]:
    """Return the importance of each hyperparameter by fANOVA (Hutter et al. 2014).

    The importance is computed on the scales of the dimensions, so that it does not depend on how a
    study stores a hyperparameter.

    Returns:
        The share of the variance of the values, 0 to 1, by the name of the hyperparameter, the
        largest first; empty if too few trials have finished or all values are the same.
    """
    different = {value_of(trial) for trial in searched.ranked}
    if len(searched.ranked) < 4 or len(different) < 2:
        return {}
    if not searched.dimensions:
        return {}
    rescaled = optuna.create_study()
    for trial in searched.ranked:
        rescaled.add_trial(_rescaled(searched, trial))
    evaluator = FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(rescaled, evaluator=evaluator))


def _rescaled(searched: Searched, trial: FrozenTrial) -> FrozenTrial:
    """Return a finished trial whose hyperparameters are positions, clipped to 0 to 1."""
    values = searched.values(trial)
    params: dict[str, float] = {}
    distributions: dict[str, BaseDistribution] = {}
    for dimension in searched.dimensions:
        name = dimension.name
        if name in values:
            position = dimension.position(values[name])
            params[name] = min(max(position, 0.0), 1.0)
            distributions[name] = FloatDistribution(0.0, 1.0)
    value = value_of(trial)
    return optuna.trial.create_trial(value=value, params=params, distributions=distributions)


def _stopped(searched: Searched) -> list[Section]:
    """Return the section that says why trials were stopped, or none if none was stopped."""
    trials = [trial for trial in searched.trials if end_of(trial) not in ("finished", "running")]
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
    max_rows = 60
    rows = [_stopped_row(searched, trial) for trial in trials[:max_rows]]
    text = "The place of a pruned trial is the one among the trials that reached the same epoch."
    if len(trials) > max_rows:
        text += f" The first {max_rows} of {len(trials)}."
    return [Section("Why trials were stopped", text, [head, *rows])]


def _stopped_row(searched: Searched, trial: FrozenTrial) -> list[str]:
    end = end_of(trial)
    step = trial.last_step
    reached = searched.reached(trial)
    epoch = ""
    value = ""
    if step is not None:
        epoch = str(step)
    if reached is not None:
        value = f"{reached:.4f}"
    cells = [searched.title(trial), end, epoch, value]
    standing_cells = ["", ""]
    if end == "pruned" and step is not None:
        standing_cells = _standing_cells(searched, trial, step)
    message = str(trial.user_attrs.get("message", ""))
    return [*cells, *standing_cells, message[:200]]


def _standing_cells(searched: Searched, trial: FrozenTrial, step: int) -> list[str]:
    """Return the place of a pruned trial at epoch `step`, and the best of the others."""
    found = standing(searched.study, trial, step, searched.tries)
    place = f"{found.place} of {found.n}"
    if found.bracket is not None:
        place += f" of bracket {found.bracket}"
    if not found.others:
        return [place, ""]
    number, value = found.others[0]
    return [place, f"#{number} {value:.4f}"]


def _workers(searched: Searched) -> list[Section]:
    """Return the section that shows which worker ran what, or none if no trial has begun."""
    if not any(trial.datetime_start for trial in searched.tries):
        return []
    text = ""
    n_again = len(searched.tries) - len(searched.trials)
    if n_again:
        text = (
            f"{n_again} tries were cut off with their worker and tried again; they are shown as "
            "failed."
        )
    return [Section("Who ran what, when", text, figures=[Figures(searched).timeline()])]
