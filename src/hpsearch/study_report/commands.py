"""The exact commands for what comes after a search, made from the one that started it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from hpsearch.study.storage import without_password
from hpsearch.study_report.searched import Searched
from hpsearch.study_report.version_page import PORT

WHERE = "From the folder of the search, after export PYTHONPATH=src."


def _overrides(searched: Searched) -> list[str]:
    """Return the settings that were given to the search on its command line.

    A search without a record of them returns the settings that tell its study from others.
    """
    given = searched.config.get("overrides")
    if given is not None:
        return [o for o in given if o != "data.path=null"]
    data: Mapping[str, Any] = searched.config.get("data", {})
    words = [f"data={data.get('name')}", f"arch={searched.name.rpartition('-')[2]}"]
    return words + ([f"data.path={data['path']}"] if data.get("path") else [])


def search(searched: Searched, n_trials: int, *changes: str) -> str:
    """Return the command that continues a study until it has `n_trials` trials.

    Args:
        searched: The study.
        n_trials: The budget.
        changes: Settings, `key=value`, that replace those of the search.
    """
    changes = (*changes, f"budget.n_trials={n_trials}")
    changed = {_key(change) for change in changes}
    kept = [word for word in _overrides(searched) if _key(word.lstrip("+")) not in changed]
    return _command("search", *kept, *changes)


def _key(word: str) -> str:
    return word.partition("=")[0]


def resume(searched: Searched) -> str:
    """Return the command of the search itself."""
    return _command("search", *_overrides(searched))


def evaluate(searched: Searched) -> str:
    """Return the command that evaluates the champion."""
    name = f"registered_model={searched.name}"
    return _command("evaluate", name, *_group(searched, "tracking"))


def report(searched: Searched) -> str:
    """Return the command that makes the report again."""
    storage = _group(searched, "storage")
    tracking = _group(searched, "tracking")
    return _command("report", f"study={searched.name}", *storage, *tracking)


def serve(searched: Searched) -> list[str]:
    """Return the commands that serve the champion."""
    uri = without_password(searched.tracking_uri)
    model = f"models:/{searched.name}@champion"
    return [
        f"export MLFLOW_TRACKING_URI={shlex.quote(uri)}",
        f"mlflow models serve -m {model} --env-manager local --port {PORT}",
    ]


def _group(searched: Searched, group: str) -> list[str]:
    """Return the settings of the search that are in a group of the configuration."""
    starts = (f"{group}=", f"{group}.")
    return [word for word in _overrides(searched) if word.lstrip("+").startswith(starts)]


def _command(script: str, *words: str) -> str:
    return shlex.join(["python", "-m", "hpsearch", script, *words])
