"""Compare the code that makes a study's models with that of the study's earlier trials.

Values of trials can be compared only where the same code has made their models. The study therefore
remembers a digest of a person's own code, and the trials before which it was changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import optuna

from hpsearch.errors import ConfigError
from hpsearch.study.study import SharedStudy, number_of
from hpsearch.study.trial_end import TrialEnd


@dataclass(frozen=True)
class OwnMaker:
    """A person's own code that makes the models of a search.

    Attributes:
        name: The name of the function or class.
        digest: The digest of its code, as `models.code_digest` returns it.
    """

    name: str
    digest: str
    _ATTR: ClassVar = "code"

    def check_unchanged(
        self,
        study: SharedStudy,
        may_change: bool,
        say: Callable[[str], None],
    ) -> None:
        """Raise an error where the code has changed since the study began.

        The code is recorded with a new study, and with one that has no trial to compare with.

        Args:
            study: The study, in which no other worker writes meanwhile.
            may_change: Whether the study goes on with changed code, which is recorded and said.
            say: Takes a sentence for the person.

        Raises:
            ConfigError: The code has changed, and `may_change` is false.
        """
        known = _recorded(study.optuna)
        trials = [t for t in study.trials() if not TrialEnd.has_failed(t)]
        if not known or not trials:
            study.optuna.set_user_attr(self._ATTR, {"digest": self.digest})
            return
        if known["digest"] == self.digest:
            return
        name = study.optuna.study_name
        if _how_made(known["digest"]) != _how_made(self.digest):
            say(
                f"Study {name} began with another version of Python or hpsearch, so nobody can "
                f"tell whether {self.name} has changed since."
            )
            return
        if not may_change:
            raise ConfigError(
                f"Study {name} was made with other code of {self.name} than it has now, or other "
                "values that it reads; give study.name=NAME to start another one, or "
                "study.changed_code=true to go on with this one."
            )
        first = 1 + max(map(number_of, trials))
        before = [*changed_before(study.optuna), first]
        record = {"digest": self.digest, "changed_before": before}
        study.optuna.set_user_attr(self._ATTR, record)
        say(f"The code of {self.name} has changed: trials from #{first} on are of the new code.")


def changed_before(study: optuna.Study) -> list[int]:
    """Return the numbers of the trials before which the code that makes models was changed."""
    return list(_recorded(study).get("changed_before", []))


def _how_made(digest: str) -> str:
    """Return how a digest was made; digests that were made otherwise cannot be compared."""
    return digest.rpartition("-")[0]


def _recorded(study: optuna.Study) -> Mapping[str, Any]:
    found: Mapping[str, Any] = study.user_attrs.get(OwnMaker._ATTR, {})
    return found
