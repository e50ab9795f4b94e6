"""The exact commands for what comes after a search, made of the one that started it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from hpsearch.study.storage import without_password
from hpsearch.study_report.searched import Searched
from hpsearch.study_report.version_page import PORT

WHERE = "From the folder of the search, after export PYTHONPATH=src."


def overrides(searched: Searched) -> list[str]:
    """Return what the search was given; of one that has no record of it, what tells its study from
    others.
    """
    given = searched.config.get("overrides")
    if given is not None:
        return [o for o in given if o != "data.path=null"]
    data: Mapping[str, Any] = searched.config.get("data", {})
    words = [f"data={data.get('name')}", f"arch={searched.name.rpartition('-')[2]}"]
    return words + ([f"data.path={data['path']}"] if data.get("path") else [])


def search(searched: Searched, n_trials: int, *changes: str) -> str:
    """Return the command that goes on with a study until it has `n_trials`, with other settings
    where wanted.
    """
    changes = (*changes, f"budget.n_trials={n_trials}")
    changed = {change.partition("=")[0] for change in changes}
    kept = [o for o in overrides(searched) if o.lstrip("+").partition("=")[0] not in changed]
    return _command("search", *kept, *changes)


def resume(searched: Searched) -> str:
    """Return the command of the search itself."""
    return _command("search", *overrides(searched))


def evaluate(searched: Searched) -> str:
    """Return the command that examines the champion."""
    return _command("evaluate", f"registered_model={searched.name}", *_of(searched, "tracking"))


def report(searched: Searched) -> str:
    """Return the command that makes the report again."""
    return _command(
        "report", f"study={searched.name}", *_of(searched, "storage"), *_of(searched, "tracking")
    )


def serve(searched: Searched) -> list[str]:
    """Return the commands that serve the champion."""
    return [
        f"export MLFLOW_TRACKING_URI={shlex.quote(without_password(searched.tracking_uri))}",
        f"mlflow models serve -m models:/{searched.name}@champion --env-manager local --port "
        f"{PORT}",
    ]


def _of(searched: Searched, group: str) -> list[str]:
    return [o for o in overrides(searched) if o.lstrip("+").startswith((f"{group}=", f"{group}."))]


def _command(script: str, *words: str) -> str:
    return shlex.join(["python", "-m", "hpsearch", script, *words])
