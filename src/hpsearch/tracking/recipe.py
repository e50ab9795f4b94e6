"""Record with the run of a trial what trains its model anew, beside the search's configuration.

MLflow keeps parameters as texts, in which 3 and "3" are the same, under names that it may have
changed. A recipe is one tag in JSON, so that names and types are those of the trial.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from hpsearch.space.bounds import Value


@dataclass(frozen=True)
class Recipe:
    """What trains a trial's model anew, beside the configuration of its search.

    Attributes:
        hyperparameters: All values that the trial drew or that were fixed, by name.
        code: The digest of the person's own code that made the model, as `models.code_digest`
            returns it; None where there is no such code.
        TAG: The tag of a trial's run that holds the recipe.
    """

    TAG: ClassVar = "hpsearch.recipe"

    hyperparameters: Mapping[str, Value]
    code: str | None

    def tags(self) -> dict[str, str]:
        """Return the tag that records the recipe; none where it is too long for MLflow."""
        text = json.dumps(asdict(self))
        longest = 8000
        if len(text) > longest:
            return {}
        return {self.TAG: text}

    @classmethod
    def read(cls, tags: Mapping[str, str]) -> Recipe | None:
        """Return the recipe that the tags of a run record; None where they record none."""
        text = tags.get(cls.TAG)
        if text is None:
            return None
        recorded: dict[str, Any] = json.loads(text)
        return cls(recorded["hyperparameters"], recorded["code"])
