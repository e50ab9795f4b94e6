"""Run the job `search`: `hpsearch search arch=selu data=digits`."""

from __future__ import annotations

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from hpsearch.cli import entry
from hpsearch.cli.api import Search
from hpsearch.cli.config_files import CONF
from hpsearch.cli.terminal import Terminal


@hydra.main(config_path=str(CONF), config_name="search", version_base="1.3")
def main(config: DictConfig) -> float:
    """Run one search; return the best value for Hydra."""
    return entry.carry_out(config, _search)


def _search(config: DictConfig, terminal: Terminal) -> entry.Done:
    overrides = [*entry.config_dir(), *HydraConfig.get().overrides.task]
    result = Search(config, overrides).run(terminal.console)
    result.show(terminal.console)
    return entry.Done(result.value, result.summary())
