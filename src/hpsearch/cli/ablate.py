"""Run the job `ablate`: `hpsearch ablate ablation=momentum data=digits`."""

from __future__ import annotations

import math

import hydra
from omegaconf import DictConfig

from hpsearch.cli import entry
from hpsearch.cli.config_files import CONF
from hpsearch.cli.terminal import Terminal


@hydra.main(config_path=str(CONF), config_name="ablate", version_base="1.3")
def main(config: DictConfig) -> float:
    """Run one ablation."""
    return entry.carry_out(config, _ablate, width=180)


def _ablate(config: DictConfig, terminal: Terminal) -> entry.Done:
    if config.from_study is not None:
        entry.check_studies(config, [config.from_study])
    parts = ["data", "tracking", "storage", "uncertainty", "range_test", "ablation"]
    job = entry.experiment(config, parts, "ablate")

    # Importing this takes seconds, which a typo must not cost.
    from hpsearch.jobs.ablate import ablate  # noqa: PLC0415

    answer = ablate(job, terminal.console)
    return entry.Done(math.nan, answer.summary())
