"""Trains all arms of an experiment from all seeds, or what earlier sessions have left to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from hpsearch.errors import ConfigError
from hpsearch.questions.answers import Results
from hpsearch.questions.arms import Arm, Measured, Probe, Workbench
from hpsearch.questions.records import Records
from hpsearch.seeds import derive
from hpsearch.trials.objective import settings_shown

PARTS = ("arch", "optimizer", "training", "schedule", "sparsity")


def check_seeds(key: str, n_seeds: int) -> None:
    """Raise ConfigError where there are too few seeds for an interval."""
    if n_seeds < 2:
        raise ConfigError(f"{key} must be at least 2, since one seed has no interval, but is {n_seeds}.")


@dataclass(frozen=True)
class Session:
    """What is trained, and where it is written.

    Attributes:
        arms: Each with its composed configuration as plain data.
        seeds: The seed of each training of an arm, the same for all arms, so that results are paired.
        records: The experiment's runs.
        bench: Trains.
        inspect: Whether the layers are looked at before and after training.
        probes: Further measurements of each trained model.
    """

    arms: Sequence[tuple[Arm, Mapping[str, Any]]]
    seeds: Sequence[int]
    records: Records
    bench: Workbench
    inspect: bool
    probes: Sequence[Probe]

    def measure(self, console: Console) -> Results:
        """Return what was measured, by arm and by the seed's place."""
        results: dict[str, dict[int, Measured]] = {arm.name: {} for arm, _ in self.arms}
        n_cells, n_done = len(self.arms) * len(self.seeds), 0
        for arm, config in self.arms:
            for place in range(len(self.seeds)):
                n_done += 1
                known = self.records.find(arm, place)
                found = known or self._train(arm, config, place)
                results[arm.name][place] = found
                loss = found.diverged or f"val/loss {found.scalars.get('best/val/loss', float('nan')):.4f}"
                again = " (measured before)" if known else ""
                console.print(f"{n_done}/{n_cells}  {arm.name}, seed {place}: {loss}{again}", soft_wrap=True)
        return results

    def _train(self, arm: Arm, config: Mapping[str, Any], place: int) -> Measured:
        child = self.records.open(arm, place, "cell", settings_shown(config, PARTS))
        try:
            trained = self.bench.train(
                arm, self.seeds[place], lambda epoch, metrics: child.metrics(metrics, epoch), inspect=self.inspect
            )
            if not trained.measured.diverged:
                for probe in self.probes:
                    trained.measured.scalars |= probe(self.bench, trained)
        except BaseException as error:
            child.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        self.records.close(child, trained.measured)
        return trained.measured


def seeds_of(root: int, kind: str, n: int) -> list[int]:
    """Return the seeds of an experiment."""
    return [derive(root, kind, place) for place in range(n)]
