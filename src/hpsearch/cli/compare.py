"""Run the job `compare`: `hpsearch compare archs=[elu,selu] data=digits`."""

from __future__ import annotations

import math

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from hpsearch.cli import entry
from hpsearch.cli.command_line import default_choice
from hpsearch.cli.config_files import CONF
from hpsearch.cli.terminal import Terminal


@hydra.main(config_path=str(CONF), config_name="compare", version_base="1.3")
def main(config: DictConfig) -> float:
    """Run one comparison."""
    return entry.carry_out(config, _compare, width=180)


def _compare(config: DictConfig, terminal: Terminal) -> entry.Done:
    if config.missing == "say":
        of_archs = [f"{config.data.name}-{arch}" for arch in config.archs]
        entry.check_studies(config, config.studies or of_archs)
    parts = ["data", "tracking", "storage", "uncertainty"]
    job = entry.experiment(config, parts, "search")

    # Importing this takes seconds, which a typo must not cost.
    from hpsearch.jobs.compare import CompareStudies  # noqa: PLC0415

    known = GlobalHydra.instance().config_loader().get_group_options("arch")
    default = default_choice("search", "arch")
    compare = CompareStudies(job, known, default)
    answer = compare.run(terminal.console)
    return entry.Done(math.nan, answer.summary())
