"""What the trials of a study say should come next: sentences, numbers and one command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpsearch.reports import commands
from hpsearch.reports.edges import Edge, edges
from hpsearch.reports.prospects import MIN_FINISHED, Gain, Prospects, can_tell
from hpsearch.reports.searched import Searched
from hpsearch.reports.timeline import clock
from hpsearch.seeds import derive

LIKELY, POSSIBLE = 0.5, 0.1  # chance of a gain above the noise
HOUR_S = 3600.0
MAX_PROPOSED = 100  # trials in one step: then look again


@dataclass(frozen=True)
class Outlook:
    """Are more trials likely to pay?

    Attributes:
        text: One sentence or two.
        worth: Chance that those of the next hour bring more than the noise; 1 where it is not known.
        trial_s: Seconds of work for a trial, all workers together.
        gains: Of as many trials again, and of those of the next hour; empty where too few have finished.
        noise: By how much two trainings with the same hyperparameters differ (standard deviation).
        regret: What could be left at most.
    """

    text: str
    worth: float
    trial_s: float
    gains: Sequence[Gain] = ()
    noise: float = float("nan")
    regret: float = float("nan")

    @classmethod
    def of(cls, searched: Searched) -> Outlook:
        """Return what the trials say."""
        n = len(searched.spent)
        trial_s = clock(searched).total_s / n if n else 0.0
        if n and not searched.dimensions:
            return cls("No hyperparameter varied: more trials would only repeat the same one.", 0.0, trial_s)
        if not can_tell(searched):
            text = f"Too few trials have finished ({len(searched.ranked)} of at least {MIN_FINISHED}) to tell."
            return cls(text, 1.0, trial_s)
        hourly = max(1, int(HOUR_S / trial_s)) if trial_s else 1
        prospects = Prospects(searched, derive(0, searched.name, "prospects"))
        gains = [prospects.gain(n), prospects.gain(hourly)]
        worth, noise, regret = gains[-1].worth, prospects.noise, prospects.regret
        word = "are likely to pay" if worth > LIKELY else "may pay" if worth > POSSIBLE else "are hardly worth it"
        text = (
            f"More trials {word}: with probability {worth:.0%} the {hourly:,} trials of the next hour better the best "
            f"one by more than {noise:.2g}, by which two trainings with the same hyperparameters differ anyway."
        )
        if regret < noise:
            text += " What could be left at most is below that too: the search may end here."
        return cls(text, worth, trial_s, gains, noise, regret)


@dataclass(frozen=True)
class Advice:
    """What to do next, and why.

    Attributes:
        next_step: One sentence.
        command: Does it.
        outlook: Are more trials likely to pay?
        edges: Every hyperparameter that has an order, with its best value.
    """

    next_step: str
    command: str
    outlook: Outlook
    edges: Sequence[Edge]

    @property
    def cut(self) -> list[Edge]:
        """Those whose best value lies at a bound."""
        return [edge for edge in self.edges if edge.bound]


def advise(searched: Searched) -> Advice:
    """Return what should come next: wider bounds, more trials, or a look at the model."""
    outlook, found, n = Outlook.of(searched), edges(searched), len(searched.spent)
    more = n + min(max(n, MIN_FINISHED), MAX_PROPOSED)
    cut = [edge for edge in found if edge.bound]
    if cut:
        names = " and ".join(f"{edge.dimension.name}'s {edge.bound} bound" for edge in cut)
        step = f"Widen {names}, where the best trial lies, and let the search go on."
        return Advice(step, commands.search(searched, more, *(e.override(searched.space) for e in cut)), outlook, found)
    if outlook.worth > POSSIBLE:
        return Advice("Let the search go on.", commands.search(searched, more), outlook, found)
    return Advice("Examine the model that was found.", commands.evaluate(searched), outlook, found)
