"""When which worker ran which trial; the time between two sessions is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch
from optuna.trial import FrozenTrial

from hpsearch.pages.drawing import drawn
from hpsearch.pages.section import Figure
from hpsearch.reports.searched import ENDS, Searched, end_of
from hpsearch.studies.leases import WORKER
from hpsearch.studies.study import number_of

GAP_S = 60.0  # of idleness that ends a session
STYLES: dict[str, dict[str, Any]] = {
    "finished": {"facecolor": "0.85"},
    "pruned": {"facecolor": "white", "hatch": "//"},
    "diverged": {"facecolor": "white", "hatch": "xx"},
    "infeasible": {"facecolor": "white", "hatch": ".."},
    "failed": {"facecolor": "0.4"},
    "running": {"facecolor": "white", "linestyle": "--"},
}


@dataclass(frozen=True)
class Clock:
    """The time that a study has been worked on: wall-clock time without the gaps between sessions.

    Attributes:
        begins: Unix time at which each session begins, rising.
        ends: The same of its end.
    """

    begins: Sequence[float]
    ends: Sequence[float]

    @classmethod
    def of(cls, spans: Sequence[tuple[float, float]]) -> Clock:
        """Merge the spans of trials into sessions."""
        begins: list[float] = []
        ends: list[float] = []
        for begin, end in sorted(spans):
            if ends and begin <= ends[-1] + GAP_S:
                ends[-1] = max(ends[-1], end)
            else:
                begins.append(begin)
                ends.append(end)
        return cls(begins, ends)

    @property
    def total_s(self) -> float:
        """How long all sessions took together."""
        return float(sum(self.ends) - sum(self.begins))

    def at(self, time: float) -> float:
        """Return how many seconds of work had passed at a Unix time."""
        lengths = np.subtract(self.ends, self.begins)
        knots = np.column_stack([self.begins, self.ends]).ravel()
        passed = np.column_stack([np.cumsum(lengths) - lengths, np.cumsum(lengths)]).ravel()
        return float(np.interp(time, knots, passed))


def span(trial: FrozenTrial) -> tuple[float, float] | None:
    """Return when a trial began and ended, in Unix time; of one that has not ended, when it last was heard of."""
    if trial.datetime_start is None:
        return None
    begin = trial.datetime_start.timestamp()
    return begin, trial.datetime_complete.timestamp() if trial.datetime_complete else begin


def clock(searched: Searched) -> Clock:
    """Return the time that a study has been worked on."""
    return Clock.of([found for t in searched.tries if (found := span(t)) is not None])


def timeline(searched: Searched) -> Figure:
    """Draw a row for each worker, with its trials."""
    time = clock(searched)
    workers = list(dict.fromkeys(_worker(t) for t in searched.tries))
    plot, axis = plt.subplots(figsize=(10.0, 0.55 * len(workers) + 1.6), layout="constrained")
    told = set()
    for trial in searched.tries:
        found = span(trial)
        if found is None:
            continue
        begin, end = (time.at(moment) / 60 for moment in found)
        row, kind = workers.index(_worker(trial)), end_of(trial)
        axis.barh(row, end - begin, left=begin, height=0.7, edgecolor="black", linewidth=0.8, **STYLES[kind])
        told.add(kind)
        if end - begin > time.total_s / 60 / 40:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
            axis.text((begin + end) / 2, row, str(number_of(trial)), ha="center", va="center", fontsize=8, bbox=box)
    for begin in time.begins[1:]:
        axis.axvline(time.at(begin) / 60, color="black", linestyle=":")
    axis.set_yticks(range(len(workers)), workers)
    axis.invert_yaxis()
    axis.set(xlabel="minutes of work", xlim=(0, None))
    handles = [Patch(edgecolor="black", label=kind, **STYLES[kind]) for kind in ENDS if kind in told]
    plot.legend(handles=handles, loc="outside upper right", ncols=len(handles), fontsize="small")
    return drawn(
        "timeline",
        plot,
        f"A row for each worker, a bar for each trial with its number; {len(time.begins)} session"
        f"{'s, between which dotted lines stand' if len(time.begins) > 1 else ''}. White between bars is time in which "
        "no trial ran.",
    )


def _worker(trial: FrozenTrial) -> str:
    """Return a worker as people find it: machine and process, or SLURM's job."""
    if job := trial.user_attrs.get("job"):
        return f"job {job}"
    place, _, rest = str(trial.user_attrs.get(WORKER) or "unknown").partition("@")
    return f"{place}, process {rest.split(':')[1]}" if ":" in rest else place
