"""Run the job `evaluate`: `hpsearch evaluate registered_model=cifar10-selu`."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from hpsearch.cli import entry
from hpsearch.cli.building import as_plain
from hpsearch.cli.config_files import CONF
from hpsearch.cli.terminal import Terminal


@hydra.main(config_path=str(CONF), config_name="evaluate", version_base="1.3")
def main(config: DictConfig) -> float:
    """Evaluate one registered model; return the NLL of MC Dropout on test for Hydra."""
    return entry.carry_out(config, _evaluate, width=140)


def _evaluate(config: DictConfig, terminal: Terminal) -> entry.Done:
    job = entry.instantiate(config)
    plain = as_plain(config)
    result = job.run(plain, entry.instantiate, terminal.console)
    result.show(terminal.console)
    return entry.Done(float(result.nll), result.summary())
