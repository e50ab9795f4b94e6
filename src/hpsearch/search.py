"""Entry script: `python -m hpsearch.search arch=selu data=digits`."""

from __future__ import annotations

from functools import partial
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hpsearch import entry
from hpsearch.errors import HpsearchError
from hpsearch.studies.machines import Preempted
from hpsearch.terminal import Terminal


@hydra.main(config_path=str(entry.CONF), config_name="search", version_base="1.3")
def main(config: DictConfig) -> float:
    """Run one search; as a Hydra job it returns the best value."""
    terminal = Terminal()
    try:
        job = entry.instantiate(config)

        from hpsearch.trials.progress import Progress  # noqa: PLC0415 (seconds that a typo must not cost)

        plain: Any = OmegaConf.to_container(config, resolve=True)
        plain["overrides"] = list(HydraConfig.get().overrides.task)  # the record says what was typed
        result = job.run(plain, partial(Progress, console=terminal.console))
    except (HpsearchError, KeyboardInterrupt, Preempted) as error:
        raise entry.ending(error) from None
    result.show(terminal.console)
    terminal.result(result.facts())
    return float(result.outcome.best.value)


if __name__ == "__main__":
    entry.run("search", main)
