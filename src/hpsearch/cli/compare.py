"""Run the job `compare`: `python -m hpsearch compare archs=[elu,selu] data=digits`."""

from __future__ import annotations

from collections.abc import Mapping
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

_PARTS_OF_JOB = ("data", "tracking", "storage", "uncertainty")


def _check_settings(config: DictConfig) -> None:
    """Raise ConfigError where a setting is out of range."""
    if config.missing not in ("say", "start"):
        raise ConfigError(f"missing must be say or start, but is {config.missing}.")
    if config.confirm.top_k < 1:
        raise ConfigError(f"confirm.top_k must be at least 1, but is {config.confirm.top_k}.")
    if not config.studies and not config.archs:
        raise ConfigError("archs must name at least one architecture, such as archs=[elu,selu].")


def _words_of_search(study: str, arch: str) -> list[str]:
    """Return the overrides of the search that makes a study of an architecture.

    Data set, storage, tracking and the settings of MC Dropout are those of this comparison.
    """
    words = []
    for word in HydraConfig.get().overrides.task:
        group = word.partition("=")[0].split(".")[0]
        if group in _PARTS_OF_JOB:
            words.append(word)
    return [*words, f"arch={arch}", f"study.name={study}"]


def _has_file(arch: str) -> bool:
    return (entry.CONF / "arch" / f"{arch}.yaml").is_file()


def _archs(config: DictConfig, recorded: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the architecture of each study, by the name of the study.

    Args:
        config: The configuration of this job.
        recorded: The configuration that was recorded of each search, by the name of the study.
    """
    if not config.studies:
        return {f"{config.data.name}-{arch}": arch for arch in config.archs}
    default = ""
    for item in OmegaConf.load(entry.CONF / "search.yaml").defaults:
        if isinstance(item, DictConfig) and "arch" in item:
            default = item["arch"]
    archs = {}
    for name, settings in recorded.items():
        archs[name] = default
        for word in settings.get("overrides", []):
            if word.startswith("arch="):
                archs[name] = word.removeprefix("arch=")
    return archs


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

    With `missing=start` the searches of missing architectures are run first.

    Raises:
        ConfigError: A study is missing or has no finished trial.
    """
    # Importing these takes seconds, which a typo must not cost.
    from hpsearch.experiments.finished_study import FinishedStudy  # noqa: PLC0415
    from hpsearch.trials.progress import Progress  # noqa: PLC0415

    if config.studies:
        return [FinishedStudy.find(name, storage) for name in config.studies]
    found = []
    for arch in config.archs:
        name = f"{config.data.name}-{arch}"
        try:
            found.append(FinishedStudy.find(name, storage))
        except ConfigError:
            if config.missing != "start" or not _has_file(arch):
                raise
            words = _words_of_search(name, arch)
            search = compose("search", words)
            job = entry.instantiate(search)
            plain = entry.as_plain(search)
            plain["overrides"] = words
            job.run(plain, partial(Progress, console=console))
            found.append(FinishedStudy.find(name, storage))
    return found


def _arms(
    studies: list[FinishedStudy],
    archs: Mapping[str, str],
    recorded: Mapping[str, Mapping[str, Any]],
    top_k: int,
) -> list[Arm]:
    """Return the best trials of each study, with the settings that they were searched with.

    Args:
        studies: The studies.
        archs: The architecture of each study, by the name of the study.
        recorded: The configuration that was recorded of each search, by the name of the study.
        top_k: The number of trials of each study.
    """
    from hpsearch.experiments.arms import Arm  # noqa: PLC0415

    arms = []
    for study in studies:
        searched = recorded[study.name]
        plain = _settings(study.name, archs[study.name], searched)
        parts = entry.instantiate_plain(plain)
        training = parts["training"]
        parts["training"] = replace(training, direction=study.direction)
        for rank, trial in enumerate(study.trials[:top_k]):
            name = study.name
            if top_k > 1:
                name = f"{study.name} #{trial.number}"
            values = study.hyperparameters(trial, searched)
            arms.append(Arm(name, parts, values, study.name, rank, plain))
    return arms


def _settings(study: str, arch: str, recorded: Mapping[str, object]) -> dict[str, object]:
    """Return the settings of an arm's parts, with the values that the study has recorded."""
    from hpsearch.experiments.arms import Arm  # noqa: PLC0415

    if not _has_file(arch):  # the record holds all settings of an architecture that is gone
        arch = "dense"
    composed = entry.as_plain(compose("search", _words_of_search(study, arch)))
    plain = {}
    for key in Arm.PARTS:
        if key in composed:
            today = composed[key]
            plain[key] = _as_recorded(today, recorded.get(key, today))
    return plain


@hydra.main(config_path=str(entry.CONF), config_name="compare", version_base="1.3")
def main(config: DictConfig) -> None:
    """Run one comparison."""
    terminal = Terminal(width=180)
    try:
        _check_settings(config)
        job = entry.instantiate(OmegaConf.masked_copy(config, list(_PARTS_OF_JOB)))

        # Importing these takes seconds, which a typo must not cost.
        from hpsearch.experiments.answers import Claim  # noqa: PLC0415
        from hpsearch.experiments.comparison import Compare  # noqa: PLC0415
        from hpsearch.experiments.session import Session  # noqa: PLC0415

        Session.check_seeds("confirm.n_seeds", config.confirm.n_seeds)
        studies = _found_studies(config, job["storage"](), terminal.console)
        tracking = job["tracking"]()
        recorded = {study.name: study.config(tracking) for study in studies}
        archs = _archs(config, recorded)
        compare = Compare(
            studies=studies,
            archs=archs,
            arms=_arms(studies, archs, recorded, config.confirm.top_k),
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
    terminal.result(answer.summary())
