"""Write any name as a key that MLflow takes for a parameter, a metric or a tag."""

from __future__ import annotations

import hashlib
import posixpath
import re

_LONGEST = 250  # characters of a key that MLflow's databases keep


def as_key(name: str) -> str:
    """Return a name as a key of MLflow; a name that MLflow takes stays as it is.

    In another name `_` takes the place of what MLflow refuses, and a digest of the whole name
    follows. So two names never become one key, and a name has the same key in all runs.
    """
    is_taken = re.fullmatch(r"[/\w.\- :]+", name) is not None
    # MLflow reads a key as a path, too.
    is_path = posixpath.normpath(name) == name and not name.startswith((".", "/"))
    if is_taken and is_path and len(name) <= _LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    plain = re.sub(r"[^/\w.\- :]", "_", name)
    path = posixpath.normpath(plain).lstrip("./")
    return f"{path[: _LONGEST - len(digest) - 1]}-{digest}"
