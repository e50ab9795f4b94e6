"""Search from a notebook or script with `from hpsearch import Search`.

A search is composed from the same parts as on the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig
from rich.console import Console

from hpsearch.cli import entry
from hpsearch.cli.command_line import as_overrides, composed

if TYPE_CHECKING:
    # This module imports Keras, and a typo must be answered before that.
    from hpsearch.jobs.search_result import SearchResult


class Search:
    """A search that is ready to run.

    Args:
        config: The composed configuration of `conf/search.yaml`.
        overrides: The overrides as they were typed, which are recorded with the study.
    """

    def __init__(self, config: DictConfig, overrides: Sequence[str]) -> None:
        self.config = config
        self.overrides = overrides

    @classmethod
    def compose(cls, *overrides: str) -> Search:
        """Return the search of a command line: `Search.compose("arch=selu", "data=digits")`.

        Raises:
            ConfigError: An override names a key, a choice or a file that does not exist.
        """
        entry.prepare_environment()
        words = as_overrides(overrides)
        return cls(composed("search", words), words)

    def run(self, console: Console | None = None) -> SearchResult:
        """Run the search, or the part of it that is missing, and return its result.

        Args:
            console: Where progress is shown; None takes standard output.

        Raises:
            UserError: A mistake that the person can put right, in one sentence.
            SearchError: The search ended without a usable model.
            KeyboardInterrupt: The person stopped it. The same search continues when it is run
                again.
        """
        job = entry.instantiate(self.config)
        plain = entry.as_plain(self.config)
        plain["overrides"] = list(self.overrides)
        result: SearchResult = job.run(plain, console or Console(highlight=False))
        return result
