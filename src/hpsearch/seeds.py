"""Derive a seed for each trial, layer and Monte Carlo pass from one root seed."""

from __future__ import annotations

import hashlib
import threading

# Keras's layers draw their seeds from one global generator. A thread holds this lock while it seeds
# the generator and builds or clones a model, so that no other thread draws from its seed.
GLOBAL_GENERATOR = threading.Lock()


def derive(root: int, *path: str | int) -> int:
    """Return the seed at a path below the root seed.

    The seed depends only on the arguments. A resumed or a parallel search therefore never repeats a
    draw. Similar paths (trial 7 and trial 8) have unrelated seeds.

    Args:
        root: The seed that the user chose.
        path: The names and numbers of the path, such as `"trial", 7, "weights"`.

    Returns:
        An integer in [0, 2**31).
    """
    text = repr((int(root), *path))
    digest = hashlib.sha256(text.encode()).digest()
    # Keras, JAX and TensorFlow all accept a non-negative int32.
    return int.from_bytes(digest[:4], "big") >> 1
