"""Run the job `compare`: `python -m hpsearch compare archs=[elu,selu] data=digits`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import hydra
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from hpsearch.cli import entry
from hpsearch.cli.terminal import Terminal
from hpsearch.errors import ConfigError, HpsearchError

if TYPE_CHECKING:
    # These modules import Keras and Optuna, and a typo must be answered before that.
    from optuna.storages import BaseStorage

    from hpsearch.experiments.arms import Arm
    from hpsearch.experiments.finished_study import FinishedStudy
    from hpsearch.tracking.tracking import Tracking

_PARTS_OF_JOB = ("data", "tracking", "storage", "uncertainty")
_WIDTH = 180  # columns of tables where stdout is not a terminal


def _check_settings(config: DictConfig) -> None:
    """Raise ConfigError where a setting is out of range."""
    if config.missing not in ("say", "start"):
        raise ConfigError(f"missing must be say or start, but is {config.missing}.")
    if config.confirm.top_k < 1:
        raise ConfigError(f"confirm.top_k must be at least 1, but is {config.confirm.top_k}.")
    if not config.studies and not config.archs:
        raise ConfigError("archs must name at least one architecture, such as archs=[elu,selu].")


def _search_config(study: str) -> DictConfig:
    """Return the configuration of the search that makes a study.

    Data set, storage and tracking are those of this comparison.
    """
    overrides = []
    for word in HydraConfig.get().overrides.task:
        group = word.partition("=")[0].split(".")[0]
        if group in _PARTS_OF_JOB:
            overrides.append(word)
    arch = study.partition("-")[2]
    if not (entry.CONF / "arch" / f"{arch}.yaml").is_file():
        arch = "dense"
    return compose("search", [*overrides, f"arch={arch}", f"study.name={study}"])


def _as_recorded(today: object, recorded: object) -> object:
    """Return today's settings with the values that a study has recorded, where they still exist."""
    if not isinstance(recorded, dict):
        return recorded
    if not isinstance(today, dict):
        return today
    if today.get("_target_") != recorded.get("_target_"):
        return recorded
    merged = {}
    for key, value in today.items():
        merged[key] = value
        if key in recorded:
            merged[key] = _as_recorded(value, recorded[key])
    return merged


def _found_studies(
    config: DictConfig, storage: BaseStorage, console: Console
) -> list[FinishedStudy]:
    """Return the studies that are compared.

    With `missing=start` the searches of missing studies are run first.

    Raises:
        ConfigError: A study is missing or has no finished trial.
    """
    # Importing these takes seconds, which a typo must not cost.
    from hpsearch.experiments import finished_study  # noqa: PLC0415
    from hpsearch.trials.progress import Progress  # noqa: PLC0415

    names = config.studies
    if not names:
        names = [f"{config.data.name}-{arch}" for arch in config.archs]
    found = []
    for name in names:
        try:
            found.append(finished_study.find(name, storage))
        except ConfigError:
            if config.missing != "start":
                raise
            search = _search_config(name)
            job = entry.instantiate(search)
            progress = partial(Progress, console=console)
            job.run(entry.as_plain(search), progress)
            found.append(finished_study.find(name, storage))
    return found


def _arms(
    config: DictConfig, studies: list[FinishedStudy], tracking: Tracking
) -> list[tuple[Arm, dict[str, Any]]]:
    """Return the best trials of each study, and the settings that they were searched with."""
    from hpsearch.experiments.arms import Arm  # noqa: PLC0415

    top_k = config.confirm.top_k
    arms = []
    for study in studies:
        recorded = study.config(tracking)
        plain = _settings(study, recorded)
        parts = entry.instantiate_plain(plain)
        training = parts["training"]
        parts["training"] = replace(training, direction=study.direction)
        for rank, trial in enumerate(study.trials[:top_k]):
            name = study.name
            if top_k > 1:
                name = f"{study.name} #{trial.number}"
            values = study.hyperparameters(trial, recorded)
            arm = Arm(name, parts, values, study.name, rank)
            arms.append((arm, plain))
    return arms


def _settings(study: FinishedStudy, recorded: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of an arm's parts, with the values that the study has recorded."""
    from hpsearch.experiments.session import PARTS  # noqa: PLC0415

    composed = entry.as_plain(_search_config(study.name))
    plain = {}
    for key in PARTS:
        if key in composed:
            today = composed[key]
            plain[key] = _as_recorded(today, recorded.get(key, today))
    return plain


@hydra.main(config_path=str(entry.CONF), config_name="compare", version_base="1.3")
def main(config: DictConfig) -> None:
    """Run one comparison."""
    terminal = Terminal(_WIDTH)
    try:
        _check_settings(config)
        job = entry.instantiate(OmegaConf.masked_copy(config, list(_PARTS_OF_JOB)))

        # Importing these takes seconds, which a typo must not cost.
        from hpsearch.experiments.answers import Claim  # noqa: PLC0415
        from hpsearch.experiments.comparison import Compare  # noqa: PLC0415
        from hpsearch.experiments.session import check_seeds  # noqa: PLC0415

        check_seeds("confirm.n_seeds", config.confirm.n_seeds)
        studies = _found_studies(config, job["storage"](), terminal.console)
        tracking = job["tracking"]()
        compare = Compare(
            studies=studies,
            arms=_arms(config, studies, tracking),
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
