"""Averaged weights whose window grows with the steps so far, up to its full size."""

from __future__ import annotations

from typing import Any

import keras

SHARE = 5  # the average looks back over a fifth of the steps so far


def grow_window(optimizer: keras.optimizers.Optimizer, most: float) -> None:
    """Let `optimizer` keep min(most, t / (t + 5)) of its averages in step t = 0, 1, ...

    With a constant share the initial weights would count for 37 per cent after a whole window,
    which spoils the first epochs, those that pruning looks at. Here they fade with t ** -5 (the
    power function averages of Karras et al. 2024, "Analyzing and Improving the Training Dynamics of
    Diffusion Models").

    Args:
        optimizer: With `use_ema`.
        most: What averages keep of themselves once the window has its size, in (0, 1).
    """

    class Growing(type(optimizer)):  # type: ignore[misc]
        @property
        def ema_momentum(self) -> Any:
            steps = keras.ops.cast(self.iterations, "float32")
            return keras.ops.minimum(most, steps / (steps + SHARE))

        @ema_momentum.setter
        def ema_momentum(self, value: float) -> None:
            """Keras sets what its configuration says."""

    optimizer.__class__ = Growing


def average_weights(optimizer: keras.optimizers.Optimizer, most: float) -> None:
    """Let an optimizer that is not built yet average the weights that it trains, as `grow_window`
    says.
    """
    optimizer.use_ema, optimizer.ema_momentum = True, most
    grow_window(optimizer, most)


def averages_of(optimizer: keras.optimizers.Optimizer) -> list[Any]:
    """Return the variables of the averages, in the order of the trainable variables."""
    averages: list[Any] = optimizer._model_variables_moving_average
    return averages
