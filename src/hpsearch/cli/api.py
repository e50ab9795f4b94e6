"""Searches in notebooks and scripts: `from hpsearch import Search`, of the very parts that a
command line composes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from hpsearch.cli import entry
from hpsearch.cli.command_line import composed

if TYPE_CHECKING:
    from hpsearch.jobs.search_result import (
        SearchResult,
    )  # imports Keras, which a typo must not wait for


class Search:
    """A search that is ready to run.

    Args:
        config: The composed configuration of `conf/search.yaml`.
        overrides: What was typed, for the record.
    """

    def __init__(self, config: DictConfig, overrides: Sequence[str]) -> None:
        self.config, self.overrides = config, overrides

    @classmethod
    def compose(cls, *overrides: str) -> Search:
        """Return the search of a command line: `Search.compose("arch=selu", "data=digits")`.

        Raises:
            ConfigError: An override names a key, a choice or a file that is not there.
        """
        entry.prepare_environment()
        words = entry.as_overrides(overrides)
        return cls(composed("search", words), words)

    def run(self, console: Console | None = None) -> SearchResult:
        """Run the search, or what is missing of it, and return what it came to.

        Args:
            console: Where it says how far it is; by default where Python prints.

        Raises:
            UserError: A mistake that the person can put right, in one sentence.
            SearchError: The search ended without a usable model.
            KeyboardInterrupt: The person stopped it; the same search goes on.
        """
        job = entry.instantiate(self.config)

        from hpsearch.trials.progress import Progress  # noqa: PLC0415 (seconds that a typo must not cost)

        plain = cast("dict[str, Any]", OmegaConf.to_container(self.config, resolve=True))
        plain["overrides"] = list(self.overrides)
        result: SearchResult = job.run(
            plain, partial(Progress, console=console or Console(highlight=False))
        )
        return result
