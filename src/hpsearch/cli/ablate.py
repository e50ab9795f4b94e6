"""Run the job `ablate`: `python -m hpsearch ablate ablation=momentum data=digits`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from hpsearch.cli import entry
from hpsearch.cli.terminal import Terminal
from hpsearch.errors import HpsearchError

if TYPE_CHECKING:
    # These modules import Keras and Optuna, and a typo must be answered before that.
    from hpsearch.experiments.ablation import Ablation
    from hpsearch.experiments.arms import Arm
    from hpsearch.space.bounds import Value


def _arms(config: DictConfig, ablation: Ablation, champion: Mapping[str, Value]) -> list[Arm]:
    """Return the arms of an ablation.

    The overrides of an arm's level follow the overrides that were typed, and so they win.

    Args:
        config: The configuration of the job.
        ablation: The question, which names the levels.
        champion: Hyperparameters of the best trial of another study; empty where there is none.
    """
    # Importing these takes seconds, which a typo must not cost.
    from hpsearch.experiments.arms import Arm  # noqa: PLC0415

    shared = [f"++hyperparameters.{name}={value}" for name, value in champion.items()]
    shared += _typed_without("levels=")
    arms = []
    for name, level, across, overrides in ablation.cells(config.levels):
        composed = compose("ablate", [*shared, *overrides])
        present = [part for part in Arm.PARTS if part in composed]
        parts = entry.instantiate(OmegaConf.masked_copy(composed, present))
        plain = entry.as_plain(composed)
        arms.append(Arm(name, parts, plain["hyperparameters"], level, across, plain))
    return arms


def _typed_without(prefix: str) -> list[str]:
    """Return the overrides of the command line that do not start with `prefix`."""
    typed = HydraConfig.get().overrides.task
    return [word for word in typed if not word.startswith(prefix)]


@hydra.main(config_path=str(entry.CONF), config_name="ablate", version_base="1.3")
def main(config: DictConfig) -> None:
    """Run one ablation."""
    terminal = Terminal(width=180)
    try:
        parts = ["data", "tracking", "storage", "uncertainty", "range_test", "ablation"]
        job = entry.instantiate(OmegaConf.masked_copy(config, parts))

        # Importing these takes seconds, which a typo must not cost.
        from hpsearch.experiments.ablation import Ablate  # noqa: PLC0415
        from hpsearch.experiments.finished_study import FinishedStudy  # noqa: PLC0415
        from hpsearch.experiments.session import Session  # noqa: PLC0415

        Session.check_seeds("n_seeds", config.n_seeds)
        tracking = job["tracking"]()
        champion: dict[str, Value] = {}
        if config.from_study is not None:
            study = FinishedStudy.find(config.from_study, job["storage"]())
            recorded = study.config(tracking)
            champion = study.hyperparameters(study.trials[0], recorded)
        ablate = Ablate(
            job["ablation"],
            _arms(config, job["ablation"], champion),
            job["data"],
            tracking,
            config.seed,
            config.n_seeds,
        )
        plain = entry.as_plain(config)
        plain["hyperparameters"].update(champion)
        typed = " ".join(_typed_without("data.path="))
        command = f"python -m hpsearch ablate {typed}"
        answer = ablate.run(plain, command, terminal.console)
    except (HpsearchError, KeyboardInterrupt) as error:
        raise entry.ending(error) from None
    terminal.result(answer.summary())
