"""An experiment as a command line composes it, with the means to compose its arms.

This module imports neither Keras nor Optuna, so that a mistake in a command line is answered first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Plain = dict[str, Any]  # a configuration, or a part of it, as plain data


@dataclass(frozen=True)
class Composed:
    """What a command line says of an experiment.

    Attributes:
        config: The composed configuration as plain data.
        parts: The objects that the job itself needs, by the names of their groups.
        typed: The overrides of the command line.
        compose: Returns the configuration of an arm with some overrides, as plain data.
        build: Returns the objects that such a configuration describes.
        options: The options of the command line that a further command needs as well.
    """

    config: Plain
    parts: Plain
    typed: Sequence[str]
    compose: Callable[[list[str]], Plain]
    build: Callable[[Plain], Any]
    options: Sequence[str] = ()
