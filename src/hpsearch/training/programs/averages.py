"""Average the weights of a model over a window that grows with the number of training steps."""

from __future__ import annotations

import keras
from keras import ops


def average_weights(optimizer: keras.Optimizer, most: float) -> None:
    """Let an optimizer average the weights over a window that grows with its steps.

    In step t = 0, 1, ... the averages keep min(most, t / (t + 5)) of themselves. With a constant
    share, the initial weights would still count for 37 per cent after a whole window. That would
    spoil the first epochs, and pruning looks at these. With the growing share, the initial weights
    fade with t ** -5 (the power function averages of Karras et al. 2024, "Analyzing and Improving
    the Training Dynamics of Diffusion Models").

    Args:
        optimizer: An optimizer without averages, which is built already where the proof of a
            program has failed, or one with `use_ema=True`.
        most: The share that the averages keep once the window has its full size, in (0, 1).
    """
    if optimizer.built and not optimizer.use_ema:
        weights = optimizer._trainable_variables
        averages = optimizer.add_optimizer_variables(weights, "average")
        optimizer._model_variables_moving_average = averages
    optimizer.use_ema = True
    optimizer.ema_momentum = most

    class Growing(type(optimizer)):  # type: ignore[misc]
        @property
        def ema_momentum(self) -> keras.KerasTensor:
            steps = ops.cast(self.iterations, "float32")
            return ops.minimum(most, steps / (steps + 5))  # a fifth of the steps so far

        @ema_momentum.setter
        def ema_momentum(self, value: float) -> None:
            """Ignore the share that Keras sets from the optimizer's configuration."""

    optimizer.__class__ = Growing


def averages_of(optimizer: keras.Optimizer) -> list[keras.Variable]:
    """Return the variables of the averages, in the order of the trainable variables."""
    averages: list[keras.Variable] = optimizer._model_variables_moving_average
    return averages
