"""Entry script: `python -m hpsearch compare archs=[elu,selu] data=digits`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from hpsearch.cli import entry
from hpsearch.cli.terminal import Terminal
from hpsearch.errors import ConfigError, HpsearchError

JOB = ("data", "tracking", "storage", "uncertainty")
WIDTH = 180  # of tables in a file or a pipe


def check_settings(config: DictConfig) -> None:
    """Raise ConfigError where a setting is out of range."""
    if config.missing not in ("say", "start"):
        raise ConfigError(f"missing must be say or start, but is {config.missing}.")
    if config.confirm.top_k < 1:
        raise ConfigError(f"confirm.top_k must be at least 1, but is {config.confirm.top_k}.")
    if not (config.studies or config.archs):
        raise ConfigError("archs must name at least one architecture, such as archs=[elu,selu].")


def search_config(config: DictConfig, study: str) -> DictConfig:
    """Compose the search that makes `study`, with the data set, storage and tracking of this
    comparison.
    """
    arch = study.partition("-")[2]
    shared = [
        o for o in HydraConfig.get().overrides.task if o.partition("=")[0].split(".")[0] in JOB
    ]
    known = (entry.CONF / "arch" / f"{arch}.yaml").is_file()
    return compose("search", [*shared, f"arch={arch if known else 'dense'}", f"study.name={study}"])


def as_recorded(today: Any, recorded: Any) -> Any:
    """Return today's settings with the values that a study has recorded, where they still exist."""
    if (
        isinstance(today, dict)
        and isinstance(recorded, dict)
        and today.get("_target_") == recorded.get("_target_")
    ):
        return {
            key: as_recorded(value, recorded[key]) if key in recorded else value
            for key, value in today.items()
        }
    return recorded if type(today) is type(recorded) or not isinstance(recorded, dict) else today


def found_studies(config: DictConfig, storage: Any, console: Console) -> list[Any]:
    """Return the studies; those that are missing are searched first where the person wants it."""
    from hpsearch.experiments import finished_study  # noqa: PLC0415
    from hpsearch.trials.progress import Progress  # noqa: PLC0415 (seconds that a typo must not cost)

    found = []
    for name in config.studies or [f"{config.data.name}-{arch}" for arch in config.archs]:
        try:
            found.append(finished_study.find(name, storage))
        except ConfigError:
            if config.missing != "start":
                raise
            search = search_config(config, name)
            job = entry.instantiate(search)
            job.run(
                OmegaConf.to_container(search, resolve=True), partial(Progress, console=console)
            )
            found.append(finished_study.find(name, storage))
    return found


def arms(config: DictConfig, studies: list[Any], tracking: Any) -> list[tuple[Any, Any]]:
    """Return the best trials of each study with the settings that they were searched with."""
    from hpsearch.experiments.arms import Arm  # noqa: PLC0415
    from hpsearch.experiments.session import PARTS  # noqa: PLC0415

    made = []
    for study in studies:
        composed: Any = OmegaConf.to_container(search_config(config, study.name), resolve=True)
        recorded = study.config(tracking)
        plain = {
            key: as_recorded(composed[key], recorded.get(key, composed[key]))
            for key in PARTS
            if key in composed
        }
        parts = entry.instantiate(OmegaConf.create(plain))
        parts["training"] = replace(parts["training"], direction=study.direction)
        for rank, trial in enumerate(study.trials[: config.confirm.top_k]):
            name = study.name if config.confirm.top_k == 1 else f"{study.name} #{trial.number}"
            made.append(
                (Arm(name, parts, study.hyperparameters(trial, recorded), study.name, rank), plain)
            )
    return made


@hydra.main(config_path=str(entry.CONF), config_name="compare", version_base="1.3")
def main(config: DictConfig) -> None:
    """Run one comparison."""
    terminal = Terminal(WIDTH)
    try:
        check_settings(config)
        job = entry.instantiate(OmegaConf.masked_copy(config, list(JOB)))

        from hpsearch.experiments.answers import Claim  # noqa: PLC0415
        from hpsearch.experiments.comparison import Compare  # noqa: PLC0415
        from hpsearch.experiments.session import check_seeds  # noqa: PLC0415

        check_seeds("confirm.n_seeds", config.confirm.n_seeds)
        studies = found_studies(config, job["storage"](), terminal.console)
        tracking = job["tracking"]()
        compare = Compare(
            studies=studies,
            arms=arms(config, studies, tracking),
            data=job["data"],
            tracking=tracking,
            uncertainty=job["uncertainty"],
            seed=config.seed,
            n_seeds=config.confirm.n_seeds,
            claims=[Claim(**claim) for claim in config.claims],
        )
        answer = compare.run(terminal.console)
    except (HpsearchError, KeyboardInterrupt) as error:
        raise entry.ending(error) from None
    terminal.result(answer.facts())
