"""The exact commands for what comes after a search, made from the one that started it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from hpsearch.command_form import as_text, command
from hpsearch.data.datasets import GIVEN_IN_PYTHON
from hpsearch.study_report.searched import Searched
from hpsearch.study_report.version_page import serving


class Commands:
    """The commands that a person may run after a search.

    Args:
        searched: The study of the search.

    Attributes:
        WHERE: A sentence that says where the commands run.
    """

    WHERE: ClassVar[str] = "From the folder of the search."

    def __init__(self, searched: Searched) -> None:
        self._searched = searched
        # The settings that were typed. Without a record of them only the study's name is known.
        named = [f"study.name={as_text(searched.name)}"]
        typed: Sequence[str] = searched.config.get("overrides", named)
        self._typed = list(typed)
        self._options = [word for word in self._typed if word.startswith("--")]
        self._has_arrays = any(GIVEN_IN_PYTHON in word for word in self._typed)

    def search(self, n_trials: int, changes: Sequence[str] = ()) -> str:
        """Return the command that continues the study until it has `n_trials` trials.

        Args:
            n_trials: The budget.
            changes: Settings, `key=value`, that replace those of the search.
        """
        if self._has_arrays:
            call = f"# call hpsearch.search again with n_trials={n_trials}"
            if changes:
                call += f" and with {', '.join(changes)} in config"
            return call
        changes = [*changes, f"budget.n_trials={n_trials}"]
        keys = []
        for change in changes:
            key, _, _ = change.partition("=")
            keys.append(f"{key}=")
        replaced = self._starting_with(tuple(keys))
        kept = [word for word in self._typed if word not in replaced]
        return command("search", *kept, *changes)

    def resume(self) -> str:
        """Return the command of the search itself."""
        if self._has_arrays:
            return "# call hpsearch.search again with the same arguments"
        return command("search", *self._typed)

    def evaluate(self, version: str | None = None) -> str:
        """Return the command that evaluates a version; None takes the champion."""
        words = [*self._options, f"registered_model={as_text(self._searched.name)}"]
        if version is not None:
            words.append(f"version={version}")
        if self._has_arrays:
            words.append("data_path=FILE.npz")  # the arrays are not stored
        words += self._group("tracking")
        return command("evaluate", *words)

    def report(self) -> str:
        """Return the command that makes the report again."""
        name = f"study={as_text(self._searched.name)}"
        storage = self._group("storage")
        tracking = self._group("tracking")
        return command("report", *self._options, name, *storage, *tracking)

    def sync(self) -> str:
        """Return the command that sends to MLflow what waits for it."""
        return command("doctor sync", *self._typed)

    def serve(self) -> str:
        """Return the commands that serve the champion."""
        model = f"models:/{self._searched.name}@champion"
        return serving(model, self._searched.tracking_uri)

    def _group(self, group: str) -> list[str]:
        """Return the settings of the search that are in a group of the configuration."""
        starts = (f"{group}=", f"{group}.")
        return self._starting_with(starts)

    def _starting_with(self, starts: tuple[str, ...]) -> list[str]:
        found = []
        for word in self._typed:
            setting = word.lstrip("+")
            if setting.startswith(starts):
                found.append(word)
        return found
