"""The compare job: find the studies of several architectures and compare their best trials.

A study that is missing is searched first where a person asks for that. `experiments.comparison`
trains the trials again and compares them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from optuna.storages import BaseStorage
from rich.console import Console

from hpsearch.command_form import as_text
from hpsearch.errors import ConfigError
from hpsearch.experiments.answers import Answer, Claim
from hpsearch.experiments.arms import Arm
from hpsearch.experiments.comparison import Compare
from hpsearch.experiments.finished_study import FinishedStudy
from hpsearch.jobs.composed import Composed, Plain
from hpsearch.jobs.settings import check_job
from hpsearch.study.storage import to_read


@dataclass(frozen=True)
class CompareStudies:
    """Compare the studies that a configuration names.

    Attributes:
        job: The comparison; its parts are data, storage, tracking and uncertainty.
        known_archs: The architectures that conf describes.
        default_arch: The architecture of a search that names none.
    """

    job: Composed
    known_archs: Collection[str]
    default_arch: str

    def run(self, console: Console) -> Answer:
        """Train what is missing, print the tables and return the answer.

        Raises:
            ConfigError: A study is missing, has no finished trial, or was searched on other data.
        """
        config = self.job.config
        check_job("compare", config)
        parts = self.job.parts
        n_seeds = config["confirm"]["n_seeds"]
        storage = to_read(parts["storage"])
        if config["studies"]:
            studies = [FinishedStudy.find(name, storage) for name in config["studies"]]
        else:
            if config["missing"] == "start":
                storage = parts["storage"]()
            studies = [self._found(arch, storage, console) for arch in config["archs"]]
        tracking = parts["tracking"](must_exist=True)
        recorded = {study.name: study.config(tracking) for study in studies}
        archs = {}
        arms = []
        for study in studies:
            settings = recorded[study.name]
            arch = self._arch(study.name, settings)
            archs[study.name] = arch
            arms += self._arms(study, arch, settings)
        compare = Compare(
            studies,
            archs,
            arms,
            parts["data"],
            tracking,
            parts["uncertainty"],
            config["seed"],
            n_seeds,
            [Claim(**claim) for claim in config["claims"]],
        )
        return compare.run(console)

    @property
    def _prefix(self) -> str:
        """What stands before the architecture in the name of a study."""
        return f"{self.job.config['data']['name']}-"

    def _found(
        self,
        arch: str,
        storage: BaseStorage,
        console: Console,
    ) -> FinishedStudy:
        """Return the study of an architecture; with `missing=start` run its search first.

        Raises:
            ConfigError: The study is missing or has no finished trial.
        """
        name = self._prefix + arch
        try:
            return FinishedStudy.find(name, storage)
        except ConfigError:
            may_start = self.job.config["missing"] == "start"
            if not may_start or arch not in self.known_archs:
                raise
        self._search(name, arch, console)
        return FinishedStudy.find(name, storage)

    def _search(self, study: str, arch: str, console: Console) -> None:
        """Run the search that makes a study."""
        words = self._words_of_search(study, arch)
        plain = self.job.compose(words)
        search = self.job.build(plain)
        search.run({**plain, "overrides": words}, console)

    def _words_of_search(self, study: str, arch: str) -> list[str]:
        """Return the overrides of the search that makes a study of an architecture.

        Data set, storage, tracking and the settings of MC Dropout are those of this comparison.
        """
        words = []
        for word in self.job.typed:
            key = word.partition("=")[0]
            group = key.split(".")[0]
            if group in self.job.parts:
                words.append(word)
        return [*words, f"arch={arch}", f"study.name={as_text(study)}"]

    def _arch(self, study: str, recorded: Plain) -> str:
        """Return the architecture of a study, of whose search `recorded` is the configuration."""
        if not self.job.config["studies"]:
            return study.removeprefix(self._prefix)
        if "overrides" not in recorded:
            return study  # Its architecture is not recorded, so no claim speaks of it.
        arch = self.default_arch
        for word in recorded["overrides"]:
            if word.startswith("arch="):
                arch = word.removeprefix("arch=")
        return arch

    def _arms(
        self,
        study: FinishedStudy,
        arch: str,
        recorded: Plain,
    ) -> list[Arm]:
        """Return the best trials of a study, with the settings that they were searched with."""
        plain = self._settings(study.name, arch, recorded)
        parts = self.job.build(plain)
        parts["training"] = replace(parts["training"], direction=study.direction)
        top_k = self.job.config["confirm"]["top_k"]
        arms = []
        for rank, trial in enumerate(study.trials[:top_k]):
            name = study.name
            if top_k > 1:
                name = f"{study.name} #{trial.number}"
            values = study.hyperparameters(trial, recorded)
            bounded = list(recorded["space"]["bounds"])
            arm = Arm(name, parts, values, study.name, rank, plain, bounded)
            arms.append(arm)
        return arms

    def _settings(
        self,
        study: str,
        arch: str,
        recorded: Plain,
    ) -> dict[str, object]:
        """Return the settings of an arm's parts, with the values that the study has recorded."""
        if arch not in self.known_archs:
            arch = "dense"  # the record holds all settings of an architecture that is gone
        words = self._words_of_search(study, arch)
        composed = self.job.compose(words)
        plain = {}
        for key in Arm.PARTS:
            if key in composed:
                today = composed[key]
                then = recorded.get(key, today)
                plain[key] = _as_recorded(today, then)
        return plain


def _as_recorded(today: object, recorded: object) -> object:
    """Return today's settings with the values that a study has recorded, where they still exist."""
    if not isinstance(recorded, dict):
        return recorded
    if not isinstance(today, dict):
        return today
    if today.get("_target_") != recorded.get("_target_"):
        return recorded
    settings = {}
    for key, value in today.items():
        then = recorded.get(key, value)
        settings[key] = _as_recorded(value, then)
    return settings
