"""Where the bounds of a search cut: the best value lies at one, so a better one may lie beyond it."""

from __future__ import annotations

from dataclasses import dataclass

from hpsearch.reports.dimensions import Dimension
from hpsearch.reports.searched import Searched
from hpsearch.spaces.bounds import Range, Value
from hpsearch.spaces.space import LIMITS, Space

NEAR = 0.05  # share of a scale that counts as its end
WIDER = 0.25  # share of a scale by which a bound is moved
N_BEST = 5


@dataclass(frozen=True)
class Edge:
    """A hyperparameter with its best value.

    Attributes:
        dimension: Its bounds.
        value: The best trial's.
        position: Where that lies on the scale, 0 to 1.
        bound: `low` or `high` where it lies at that one and that one can be moved, else None.
        n_near: How many of the best N_BEST trials lie there too.
    """

    dimension: Dimension
    value: Value
    position: float
    bound: str | None
    n_near: int

    @property
    def wider(self) -> float:
        """Where the bound might be instead."""
        return self.dimension.rounded(self.dimension.value(-WIDER if self.bound == "low" else 1 + WIDER))

    def override(self, space: Space) -> str:
        """Return the same as a setting of the search; what its HyperModel proposed alone has no bound yet."""
        d, key = self.dimension, f"space.bounds.{self.dimension.name}"
        if isinstance(space.rules.get(d.name), Range):
            return f"{key}.{self.bound}={self.wider:.6g}"
        low, high = (self.wider, d.high) if self.bound == "low" else (d.low, self.wider)
        return f"+{key}={{low: {low:.6g}, high: {high:.6g}, scale: {d.scale}}}"


def edges(searched: Searched) -> list[Edge]:
    """Return every hyperparameter that has an order, and that the best trial drew."""
    if searched.best is None:
        return []
    values, found = searched.values(searched.best), []
    for dimension in searched.dimensions:
        if dimension.choices or dimension.name not in values:
            continue
        position = dimension.position(values[dimension.name])
        bound = "low" if position < NEAR else "high" if position > 1 - NEAR else None
        if bound and not _can_move(dimension, bound):
            bound = None
        others = [searched.values(t).get(dimension.name) for t in searched.ranked[:N_BEST]]
        places = [dimension.position(v) for v in others if v is not None]
        n_near = sum(abs(place - round(position)) < NEAR for place in places) if bound else 0
        found.append(Edge(dimension, values[dimension.name], position, bound, n_near))
    return found


def _can_move(dimension: Dimension, bound: str) -> bool:
    """A rate cannot be negative, a momentum not 1."""
    wider = Edge(dimension, 0, 0, bound, 0).wider
    return all(limit.holds(wider) for limit in LIMITS if limit.names.search(dimension.name))
