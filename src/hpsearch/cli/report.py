"""Run the job `report`: `hpsearch report study=cifar10-selu`."""

from __future__ import annotations

import math

import hydra
from omegaconf import DictConfig

from hpsearch.cli import entry
from hpsearch.cli.config_files import CONF
from hpsearch.cli.terminal import Terminal


@hydra.main(config_path=str(CONF), config_name="report", version_base="1.3")
def main(config: DictConfig) -> float:
    """Write the report of one study."""
    return entry.carry_out(config, _report)


def _report(config: DictConfig, terminal: Terminal) -> entry.Done:
    entry.check_studies(config, [config.study])
    job = entry.instantiate(config)
    reported = job.run(entry.instantiate)
    for line in reported.lines():
        terminal.say(line)
    return entry.Done(math.nan, reported.summary())
