"""Check and use the settings that `DenseNet` and `ConvNet` have in common.

Such settings are counts of layers, activations, initializers and the kind of normalization. Each
error names the key as the user types it, such as `arch.n_units`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import keras

from hpsearch.errors import ConfigError, did_you_mean

ActivationSetting = str | Callable[[], keras.Layer]
_Setting = TypeVar("_Setting")


def check_count(key: str, value: object) -> int:
    """Return a setting that counts layers or units.

    Raises:
        ConfigError: `value` is not a whole number of at least 1.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"Expected {key} to be a whole number of at least 1; received {value!r}.")
    return value


def check_known(key: str, value: _Setting, get: Callable[[_Setting], object]) -> _Setting:
    """Return a setting that Keras can look up, such as the name of an initializer.

    Args:
        key: The key of the setting.
        value: The setting.
        get: The function of Keras that looks it up.

    Raises:
        ConfigError: Keras does not know the name.
    """
    try:
        get(value)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"Expected {key} to be a name that Keras knows; received {value!r}."
        ) from error
    return value


def make_activation(activation: ActivationSetting) -> keras.Layer:
    """Make an activation layer from a name, or from a partial of a layer with weights (PReLU)."""
    if isinstance(activation, str):
        return keras.layers.Activation(activation)
    return activation()


def check_activation(key: str, activation: ActivationSetting) -> ActivationSetting:
    """Return a setting that `make_activation` accepts.

    Raises:
        ConfigError: It is neither a name that Keras knows nor a partial of a layer.
    """
    if callable(activation):
        return activation
    return check_known(key, activation, keras.activations.get)


def check_normalization(value: object) -> str:
    """Return the kind of normalization, as `activated` accepts it.

    Raises:
        ConfigError: `value` is not a known kind.
    """
    kinds = ("none", "batch", "batch_after", "layer")
    if value not in kinds:
        wrong = f"Expected arch.normalization to be a known kind; received {value!r}."
        raise ConfigError(wrong + did_you_mean(str(value), kinds))
    return str(value)


def activated(
    weights: keras.Layer, normalization: str, activation: ActivationSetting
) -> list[keras.Layer]:
    """Return a layer with weights, followed by its activation and its normalization.

    Args:
        weights: The layer, such as a dense layer or a convolution.
        normalization: `batch` puts BatchNormalization before the activation (Ioffe and Szegedy
            2015), and `batch_after` behind it. `layer` puts LayerNormalization before the
            activation (Ba et al. 2016). `none` adds no normalization.
        activation: As `make_activation`.
    """
    activate = make_activation(activation)
    if normalization == "batch":
        return [weights, keras.layers.BatchNormalization(), activate]
    if normalization == "batch_after":
        return [weights, activate, keras.layers.BatchNormalization()]
    if normalization == "layer":
        return [weights, keras.layers.LayerNormalization(), activate]
    return [weights, activate]


def no_dropout(rate: float) -> keras.Layer:
    """Return a layer that replaces dropout and does nothing at any rate."""
    return keras.layers.Identity()
