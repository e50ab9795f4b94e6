"""What an evaluation asks of any way to predict with uncertainty, beside MC Dropout."""

from __future__ import annotations

from typing import Protocol

from hpsearch.data.forms import Images
from hpsearch.metrics import Floats

LABELS = {
    "plain": "plain",
    "mc": "MC Dropout",
    "laplace": "Laplace",
    "swag": "SWAG",
    "ensemble": "ensemble",
}


class Alternative(Protocol):
    """A way to predict with uncertainty."""

    @property
    def needs(self) -> str:
        """What it needs beside the model, in words, such as "the training examples"."""

    @property
    def how(self) -> str:
        """How it was made, in one or two sentences for people."""

    @property
    def made_in_s(self) -> float:
        """The seconds that it took to make it."""

    @property
    def is_random(self) -> bool:
        """Whether another seed gives another prediction."""

    def predict(self, inputs: Images, *, seed: int | None = None) -> Floats:
        """Return the distributions of inputs (N, ...), (N, C).

        Args:
            inputs: Model input.
            seed: Root of the random draws; None takes that of the settings.

        Raises:
            ModelError: The outputs are no distributions.
        """
