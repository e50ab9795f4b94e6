"""The exact commands for what comes after a search, made from the one that started it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import ClassVar

from hpsearch.study.storage import without_password
from hpsearch.study_report.searched import Searched
from hpsearch.study_report.version_page import serving


class Commands:
    """The commands that a person may run after a search.

    Args:
        searched: The study of the search.

    Attributes:
        WHERE: A sentence that says where the commands run.
    """

    WHERE: ClassVar[str] = "From the folder of the search, after export PYTHONPATH=src."

    def __init__(self, searched: Searched) -> None:
        self._searched = searched
        # The settings that were typed. Without a record of them only the study's name is known.
        typed: Sequence[str] = searched.config.get("overrides", [f"study.name={searched.name}"])
        self._typed = [word for word in typed if word != "data.path=null"]

    def search(self, n_trials: int, changes: Sequence[str] = ()) -> str:
        """Return the command that continues the study until it has `n_trials` trials.

        Args:
            n_trials: The budget.
            changes: Settings, `key=value`, that replace those of the search.
        """
        changes = [*changes, f"budget.n_trials={n_trials}"]
        keys = tuple(change.partition("=")[0] + "=" for change in changes)
        replaced = self._starting_with(keys)
        kept = [word for word in self._typed if word not in replaced]
        return self._command("search", *kept, *changes)

    def resume(self) -> str:
        """Return the command of the search itself."""
        return self._command("search", *self._typed)

    def evaluate(self) -> str:
        """Return the command that evaluates the champion."""
        name = f"registered_model={self._searched.name}"
        return self._command("evaluate", name, *self._group("tracking"))

    def report(self) -> str:
        """Return the command that makes the report again."""
        places = self._group("storage") + self._group("tracking")
        return self._command("report", f"study={self._searched.name}", *places)

    def serve(self) -> str:
        """Return the commands that serve the champion."""
        uri = without_password(self._searched.tracking_uri)
        return serving(f"models:/{self._searched.name}@champion", uri)

    def _group(self, group: str) -> list[str]:
        """Return the settings of the search that are in a group of the configuration."""
        return self._starting_with((f"{group}=", f"{group}."))

    def _starting_with(self, starts: tuple[str, ...]) -> list[str]:
        return [word for word in self._typed if word.lstrip("+").startswith(starts)]

    def _command(self, *words: str) -> str:
        return shlex.join(["python", "-m", "hpsearch", *words])
