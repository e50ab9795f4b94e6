"""Compare the bounds of a search with those of its study's earlier trials.

Each trial records the bounds within which it was drawn, so a study may go on with other ones. It
does so only where a person asks for it, and it remembers before which trials they were changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import optuna
from optuna.distributions import BaseDistribution

from hpsearch.errors import ConfigError
from hpsearch.study.study import SharedStudy, number_of
from hpsearch.study.trial_end import TrialEnd

_Flat = Mapping[str, object]
_Drawn = Mapping[str, BaseDistribution]


@dataclass(frozen=True)
class Bounds:
    """The bounds of a search, as settings by their dotted keys.

    Attributes:
        settings: Such as `space.bounds.momentum.low`; a plain `space.bounds.momentum` is fixed.
    """

    settings: _Flat
    _ATTR: ClassVar = "bounds"

    def check_unchanged(
        self,
        study: SharedStudy,
        may_change: bool,
        say: Callable[[str], None],
    ) -> bool:
        """Raise an error where the study was made with other bounds; return whether they are new.

        Bounds are recorded with a new study, with one that has no trial to compare with, and with
        one of an earlier version of hpsearch, which has not recorded them.

        Args:
            study: The study, in which no other worker writes meanwhile.
            may_change: Whether the study goes on with other bounds, which is recorded and said.
            say: Takes a sentence for the person.

        Raises:
            ConfigError: The bounds have changed, and `may_change` is false or they have changed
                otherwise than by `low` and `high`.
        """
        known = _recorded(study.optuna)
        trials = [t for t in study.trials() if not TrialEnd.has_failed(t)]
        if not known or not trials:
            study.optuna.set_user_attr(self._ATTR, {"settings": dict(self.settings)})
            return bool(known) and known["settings"] != self.settings
        theirs: _Flat = known["settings"]
        if not _differing(theirs, self.settings):
            return False
        drawn = {name: found for t in trials for name, found in t.distributions.items()}
        self._check_change(study.optuna.study_name, theirs, drawn, may_change)
        first = 1 + max(map(number_of, trials))
        before = [*bounds_changed_before(study.optuna), first]
        record = {"settings": dict(self.settings), "changed_before": before}
        study.optuna.set_user_attr(self._ATTR, record)
        say(f"The bounds have changed: trials from #{first} on are drawn within the new ones.")
        return True

    def _check_change(
        self,
        name: str,
        theirs: _Flat,
        drawn: _Drawn,
        may_change: bool,
    ) -> None:
        """Raise ConfigError where a study of a name must not go on with these bounds."""
        different = _differing(theirs, self.settings)
        never = [key for key in different if not self._may_change(key, theirs, drawn)]
        key = (never or different)[0]
        made = f"{_with(key, theirs)}, not {_with(key, self.settings)}"
        if never:
            raise ConfigError(
                f"Study {name} was made {made}, and a study can change bounds only by low and "
                "high; give study.name=NAME to start another one, or the earlier bounds to go on "
                "with this one."
            )
        if not may_change:
            raise ConfigError(
                f"Study {name} was made {made}; give study.name=NAME to start another one, "
                "study.changed_bounds=true to go on with this one within the new bounds, or the "
                "earlier bounds."
            )

    def _may_change(
        self,
        key: str,
        before: _Flat,
        drawn: _Drawn,
    ) -> bool:
        """Return whether a study whose settings were `before` may go on with this value of a key.

        Optuna lets neither choices nor scales change, and no trial records a value that was fixed.

        Args:
            key: A setting that has changed.
            before: The earlier settings.
            drawn: What trials have drawn, also without a bound, as the model proposes it.
        """
        name = ".".join(key.split(".")[:3])  # space.bounds.NAME
        if any(other == name or other.startswith(f"{name}.") for other in before):
            return key.endswith((".low", ".high"))
        distribution = drawn.get(name.rpartition(".")[2])
        if distribution is None:
            return True
        scale = "linear"
        if getattr(distribution, "log", False):
            scale = "log"
        is_range = f"{name}.low" in self.settings and hasattr(distribution, "log")
        return is_range and self.settings.get(f"{name}.scale", "linear") == scale


def bounds_changed_before(study: optuna.Study) -> list[int]:
    """Return the numbers of the trials before which the bounds were changed."""
    return list(_recorded(study).get("changed_before", []))


def _recorded(study: optuna.Study) -> Mapping[str, Any]:
    found: Mapping[str, Any] = study.user_attrs.get(Bounds._ATTR, {})
    return found


def _differing(some: _Flat, others: _Flat) -> list[str]:
    """Return the keys of the settings that differ or that only one has, sorted."""
    keys = some.keys() | others.keys()
    return sorted(key for key in keys if some.get(key) != others.get(key))


def _with(key: str, settings: _Flat) -> str:
    if key in settings:
        return f"with {key}={settings[key]}"
    return f"without {key}"
