"""Entry script: `python -m hpsearch evaluate registered_model=cifar10-selu version=champion`."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig, OmegaConf

from hpsearch.cli import entry
from hpsearch.cli.terminal import Terminal
from hpsearch.errors import HpsearchError

WIDTH = 140  # columns where there is no terminal that has a width


@hydra.main(config_path=str(entry.CONF), config_name="evaluate", version_base="1.3")
def main(config: DictConfig) -> float:
    """Run one evaluation; as a Hydra job it returns the NLL of MC Dropout on test."""
    terminal = Terminal(WIDTH)
    try:
        job = entry.instantiate(config)
        plain = OmegaConf.to_container(config, resolve=True)
        result = job.run(
            plain, lambda settings: entry.instantiate(OmegaConf.create(dict(settings)))
        )
    except (HpsearchError, KeyboardInterrupt) as error:
        raise entry.ending(error) from None
    result.show(terminal.console)
    terminal.result(result.facts())
    return float(result.evaluation.mc["nll"])
