"""Run the job `ablate`: `python -m hpsearch ablate ablation=momentum data=digits`."""

from __future__ import annotations

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hpsearch.cli import entry
from hpsearch.cli.command_line import CONF
from hpsearch.cli.terminal import Terminal


@hydra.main(config_path=str(CONF), config_name="ablate", version_base="1.3")
def main(config: DictConfig) -> None:
    """Run one ablation."""
    terminal = Terminal(width=180)
    with entry.ending():
        parts = ["data", "tracking", "storage", "uncertainty", "range_test", "ablation"]
        job = entry.instantiate(OmegaConf.masked_copy(config, parts))

        # Importing this takes seconds, which a typo must not cost.
        from hpsearch.jobs.ablate import ablate  # noqa: PLC0415

        answer = ablate(
            entry.as_plain(config),
            job,
            HydraConfig.get().overrides.task,
            terminal.console,
            compose=lambda words: entry.as_plain(compose("ablate", list(words))),
            build=entry.instantiate,
        )
    terminal.result(answer.summary())
