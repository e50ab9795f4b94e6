"""Entry script: `python -m hpsearch ablate ablation=momentum data=digits`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hpsearch.cli import entry
from hpsearch.cli.terminal import Terminal
from hpsearch.errors import HpsearchError

WIDTH = 180  # of tables in a file or a pipe
JOB = ("data", "tracking", "storage", "uncertainty", "range_test", "ablation")


def arms(
    config: DictConfig, ablation: Any, champion: Mapping[str, Any]
) -> list[tuple[Any, dict[str, Any]]]:
    """Return each arm with its composed configuration: the person's overrides, then those of its
    level.
    """
    from hpsearch.experiments.arms import Arm  # noqa: PLC0415
    from hpsearch.experiments.session import PARTS  # noqa: PLC0415 (seconds that a typo must not cost)

    mine = [f"++hyperparameters.{name}={value}" for name, value in champion.items()]
    mine += [o for o in HydraConfig.get().overrides.task if not o.startswith("levels=")]
    found = []
    for name, level, across, overrides in ablation.cells(config.levels):
        composed = compose("ablate", [*mine, *overrides])
        parts = entry.instantiate(
            OmegaConf.masked_copy(composed, [part for part in PARTS if part in composed])
        )
        plain: Any = OmegaConf.to_container(composed, resolve=True)
        found.append((Arm(name, parts, plain["hyperparameters"], level, across), plain))
    return found


@hydra.main(config_path=str(entry.CONF), config_name="ablate", version_base="1.3")
def main(config: DictConfig) -> None:
    """Run one ablation."""
    terminal = Terminal(WIDTH)
    try:
        job = entry.instantiate(OmegaConf.masked_copy(config, list(JOB)))

        from hpsearch.experiments import finished_study  # noqa: PLC0415
        from hpsearch.experiments.ablation import Ablate  # noqa: PLC0415
        from hpsearch.experiments.session import check_seeds  # noqa: PLC0415

        check_seeds("n_seeds", config.n_seeds)
        tracking = job["tracking"]()
        champion: dict[str, Any] = {}
        if config.from_study is not None:
            study = finished_study.find(config.from_study, job["storage"]())
            champion = study.hyperparameters(study.trials[0], study.config(tracking))
        ablate = Ablate(
            job["ablation"],
            arms(config, job["ablation"], champion),
            job["data"],
            tracking,
            config.seed,
            config.n_seeds,
        )
        plain: Any = OmegaConf.to_container(config, resolve=True)
        plain["hyperparameters"] |= champion
        typed = [o for o in HydraConfig.get().overrides.task if not o.startswith("data.path=")]
        answer = ablate.run(
            plain, " ".join(["python -m hpsearch ablate", *typed]), terminal.console
        )
    except (HpsearchError, KeyboardInterrupt) as error:
        raise entry.ending(error) from None
    terminal.result(answer.facts())
