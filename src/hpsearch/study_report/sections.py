"""The sections of a study's page, from what to do next to which worker ran what.

`sections` makes all of them, in the order in which they are read; `key_values` makes the list above
them. A section that needs more trials than there are is left out.
"""

from __future__ import annotations

from optuna.trial import FrozenTrial

from hpsearch.html_report.section import Section
from hpsearch.study.changed_bounds import bounds_changed_before
from hpsearch.study.changed_code import changed_before
from hpsearch.study.failures import failures
from hpsearch.study.replay import standing
from hpsearch.study.study import number_of, value_of
from hpsearch.study_report.advice import Advice, Edge, Prospects
from hpsearch.study_report.commands import Commands
from hpsearch.study_report.figures import Clock, Figures
from hpsearch.study_report.pareto import Front
from hpsearch.study_report.searched import Searched, end_of


def key_values(searched: Searched) -> list[tuple[str, str]]:
    """Return what a study was, as names and values: metric, hyperparameters, trials, time, best."""
    sampling = searched.config.get("sampler", {})
    sampler = _class_name(sampling.get("make"))
    pruner = _class_name(searched.config.get("pruner"))
    methods = [name for name in (sampler, pruner) if name]
    outcome = searched.outcome
    dimensions = ", ".join(map(str, searched.dimensions))
    found = [
        ("optimized", f"{searched.label}, {searched.direction.better} is better"),
        ("searched", dimensions or "nothing"),
    ]
    if methods:
        found.append(("by", " and ".join(methods)))
    found.append(("trials", f"{outcome.counts()}; {outcome.n_epochs} epochs in all"))
    changes = {
        "the code of the model was": changed_before(searched.study),
        "the bounds were": bounds_changed_before(searched.study),
    }
    for what, before in changes.items():
        if before:
            numbers = ", ".join(f"#{number}" for number in before)
            found.append(("careful", f"{what} changed before trial {numbers}"))
    clock = Clock.of_study(searched)
    found.append(("took", f"{Clock.shown(clock.total_s)} of work"))
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


def sections(searched: Searched, advice: Advice) -> list[Section]:
    """Return the sections of the page, in the order in which they are read."""
    text = f"{advice.next_step} {Commands.WHERE}"
    made = [Section("What to do next", text, commands=[advice.command])]
    if searched.best is not None:
        made.extend(_results(searched, advice))
    made.extend(_stopped(searched))
    made.extend(_workers(searched))
    return made


def _results(searched: Searched, advice: Advice) -> list[Section]:
    """Return the sections that need a finished trial."""
    figures = Figures(searched)
    made = [Section("How it went", "", figures=[figures.history()])]
    if len(searched.objectives) > 1:
        made.append(Front(searched).section())
    made.append(Section("The best trials", "", searched.best_rows(10)))
    made.append(_prospects(searched, advice))
    made.append(_bounds(advice))
    if searched.dimensions:
        made.append(_importances(searched))
        picture = figures.parallel()
        made.append(Section("Which combinations work", "", figures=[picture]))
    picture = figures.learning_curves()
    made.append(Section("Learning curves", "", figures=[picture]))
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
            Clock.shown(gain.n_trials * outlook.trial_s),
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
    text = f"No best value lies within {Edge.NEAR:.0%} of the scale from a bound."
    if advice.cut:
        text = "A better value may lie beyond a bound"
        for edge in advice.cut:
            text += f"; widen it: {edge.dimension.name} lies at its {edge.bound} bound, "
            text += f"wider is {edge.wider:.6g}"
        text += "."
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
    title = "Which hyperparameters matter"
    figures = Figures(searched)
    found = searched.importances
    if not found:
        text = "Importances need some finished trials that differ."
        return Section(title, text, figures=[figures.slices()])
    n_ranked = len(searched.ranked)
    text = ""
    if n_ranked < 5 * len(found):
        text = f"{n_ranked} finished trials give a rough order only."
    pictures = [figures.importances(), figures.slices()]
    return Section(title, text, figures=pictures)


def _stopped(searched: Searched) -> list[Section]:
    """Return the section that says why trials were stopped, or none if none was stopped."""
    others = {"finished", "running"}
    trials = [trial for trial in searched.trials if end_of(trial) not in others]
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
    rows = []
    text = "The place of a pruned trial is the one among the trials that reached the same epoch."
    failed_alike: set[int] = set()
    for failure in failures(trials):
        first, *alike = failure.trials
        if alike:
            failed_alike.update(trial.number for trial in alike)
            text += f" {len(failure.trials)} trials failed like trial {number_of(first)}."
    shown = [trial for trial in trials if trial.number not in failed_alike]
    for trial in shown[:max_rows]:
        rows.append(_stopped_row(searched, trial))
    if len(shown) > max_rows:
        text += f" The first {max_rows} of {len(shown)} rows."
    return [Section("Why trials were stopped", text, [head, *rows])]


def _stopped_row(searched: Searched, trial: FrozenTrial) -> list[str]:
    end = end_of(trial)
    step = trial.last_step
    cells = [searched.title(trial), end, "", ""]
    if step is not None:
        reached = trial.intermediate_values[step]
        cells[2:] = [str(step), f"{reached:.4f}"]
    message = str(trial.user_attrs.get("message", ""))[:400]
    if end != "pruned" or step is None:
        return [*cells, "", "", message]
    found = standing(searched.study, trial, step, searched.tries)
    place = f"{found.place} of {found.n}"
    if found.bracket is not None:
        place += f" of bracket {found.bracket}"
    best = ""
    if found.others:
        number, value = found.others[0]
        best = f"#{number} {value:.4f}"
    return [*cells, place, best, message]


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
    picture = Figures(searched).timeline()
    return [Section("Who ran what, when", text, figures=[picture])]
