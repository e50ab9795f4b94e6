"""One root seed grows into a seed for each trial, layer and Monte Carlo pass."""

from __future__ import annotations

import hashlib
import threading

# Keras's layers draw their seeds from one global generator: held while it is seeded and a model is
# built, or cloned, so that threads do not draw from each other's.
GLOBAL_GENERATOR = threading.Lock()
SEED_BITS = 31  # Keras, JAX and TensorFlow all take a non-negative int32.


def derive(root: int, *path: str | int) -> int:
    """Return the seed that stands at `path` below `root`.

    The seed depends on its arguments alone, so a resumed or a parallel search never repeats a draw,
    and neighbours in the tree (trial 7 and trial 8) have unrelated seeds.

    Args:
        root: The seed that a person chose.
        path: Names and numbers that lead to the place, such as `"trial", 7, "weights"`.

    Returns:
        An integer in [0, 2**31).
    """
    text = repr((int(root), *path))
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS)
