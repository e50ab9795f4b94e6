"""The backend of Keras: the one that is installed, where nobody has chosen another.

Keras takes TensorFlow unless KERAS_BACKEND or its own file keras.json names a backend, also where
TensorFlow is not installed.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from hpsearch.command_form import installing
from hpsearch.errors import ConfigError

_BACKENDS = ("tensorflow", "jax")  # the first one that is installed is taken


def choose_backend() -> None:
    """Set KERAS_BACKEND to an installed backend where nothing names one that is installed.

    This must be called before Keras is imported, and changes nothing afterwards. A backend that
    KERAS_BACKEND names stays, and so does one of keras.json that is installed.
    """
    if "keras" in sys.modules or os.environ.get("KERAS_BACKEND"):
        return
    named = _of_keras_json()
    if named and _is_installed(named):
        return
    for name in _BACKENDS:
        if _is_installed(name):
            os.environ["KERAS_BACKEND"] = name
            return


def check_backend() -> None:
    """Raise ConfigError unless Keras has a backend on which hpsearch can train.

    Raises:
        ConfigError: No backend is installed, or the chosen one is not, or it is another one than
            TensorFlow and JAX.
    """
    if not any(_is_installed(name) for name in _BACKENDS):
        raise ConfigError(
            f"Keras needs a backend, and none is installed: {installing('tensorflow')} or "
            f"{installing('jax')}."
        )
    named = os.environ.get("KERAS_BACKEND") or _of_keras_json() or _BACKENDS[0]
    if named not in _BACKENDS:
        raise ConfigError(
            f"hpsearch runs Keras on tensorflow or jax, but Keras is set to {named} here: set "
            "KERAS_BACKEND=tensorflow or KERAS_BACKEND=jax."
        )
    if not _is_installed(named):
        raise ConfigError(
            f"KERAS_BACKEND={named} is not installed here: {installing(named)}, or "
            "unset KERAS_BACKEND to take the backend that is installed."
        )


def _is_installed(name: str) -> bool:
    if sys.modules.get(name) is not None:
        return True
    try:
        spec = find_spec(name)
    except ValueError:  # something has put None in its place
        return False
    # A folder of that name without code is no library.
    return spec is not None and spec.origin is not None


def _keras_json() -> Path:
    """Return the file in which Keras looks for its settings, found as Keras finds it."""
    folder = os.environ.get("KERAS_HOME")
    if folder is None:
        home = os.path.expanduser("~")
        if not os.access(home, os.W_OK):
            home = "/tmp"
        folder = os.path.join(home, ".keras")
    return Path(os.path.expanduser(folder), "keras.json")


def _of_keras_json() -> str | None:
    """Return the backend that Keras's own file names, or None."""
    try:
        known = json.loads(_keras_json().read_text())
    except (OSError, ValueError):  # Keras ignores a file that it cannot read
        return None
    if not isinstance(known, dict) or "backend" not in known:
        return None
    return str(known["backend"])
