"""Entry script: `python -m hpsearch.search arch=selu data=digits`."""

from __future__ import annotations

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console

from hpsearch import entry
from hpsearch.api import Search
from hpsearch.errors import HpsearchError
from hpsearch.studies.machines import Preempted


@hydra.main(config_path=str(entry.CONF), config_name="search", version_base="1.3")
def main(config: DictConfig) -> float:
    """Run one search; as a Hydra job it returns the best value."""
    console = Console(highlight=False)
    try:
        result = Search(config, HydraConfig.get().overrides.task).run(console)
    except (HpsearchError, KeyboardInterrupt, Preempted) as error:
        raise entry.ending(error) from None
    result.show(console)
    return result.value


if __name__ == "__main__":
    entry.run("search", main)
