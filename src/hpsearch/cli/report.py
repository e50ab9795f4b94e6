"""Run the job `report`: `python -m hpsearch report study=cifar10-selu`."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from hpsearch.cli import entry
from hpsearch.cli.terminal import Terminal
from hpsearch.errors import HpsearchError


@hydra.main(config_path=str(entry.CONF), config_name="report", version_base="1.3")
def main(config: DictConfig) -> None:
    """Write the report of one study."""
    terminal = Terminal()
    try:
        job = entry.instantiate(config)
        reported = job.run(entry.instantiate_plain)
    except (HpsearchError, KeyboardInterrupt) as error:
        raise entry.ending(error) from None
    reported.show(terminal.console)
    terminal.result(reported.summary())
