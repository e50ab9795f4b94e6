"""Settings that several architectures have: checked once, each error naming the key as a person
types it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from hpsearch.errors import ConfigError, did_you_mean

NORMALIZATIONS = ("none", "batch", "batch_after", "layer")
ActivationSetting = str | Callable[[], keras.Layer]
DropoutFactory = Callable[[float], keras.Layer]


def check_count(key: str, value: Any) -> int:
    """Return a setting that counts layers or units.

    Raises:
        ConfigError: It is not a whole number of at least 1.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"Expected {key} to be a whole number of at least 1; received {value!r}.")
    return value


def check_known(key: str, value: Any, get: Callable[[Any], Any]) -> Any:
    """Return a setting that Keras can look up, such as an initializer's name.

    Raises:
        ConfigError: Keras knows no such name.
    """
    try:
        get(value)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"Expected {key} to be a name that Keras knows; received {value!r}."
        ) from error
    return value


def make_activation(activation: ActivationSetting) -> keras.Layer:
    """Make an activation layer from a name, or from a partial of a layer where it has weights
    (PReLU).
    """
    return keras.layers.Activation(activation) if isinstance(activation, str) else activation()


def check_activation(key: str, activation: Any) -> ActivationSetting:
    """Return a setting that `make_activation` takes.

    Raises:
        ConfigError: It is neither a name that Keras knows nor a partial of a layer.
    """
    known: ActivationSetting = activation
    if not callable(activation):
        check_known(key, activation, keras.activations.get)
    return known


def check_normalization(value: Any) -> str:
    """Return what stands at each activation: one of NORMALIZATIONS.

    Raises:
        ConfigError: It is none of them.
    """
    if value not in NORMALIZATIONS:
        wrong = f"Expected arch.normalization to be a known kind; received {value!r}."
        raise ConfigError(wrong + did_you_mean(str(value), NORMALIZATIONS))
    return str(value)


def activated(
    weights: keras.Layer, normalization: str, activation: ActivationSetting
) -> list[keras.Layer]:
    """Return a layer of weights, its activation, and the normalization before or after that.

    `batch` and `layer` stand before the activation (Ioffe and Szegedy 2015; Ba et al. 2016),
    `batch_after` behind it.
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
    """Return a layer that does nothing in the place of dropout, whatever the rate."""
    return keras.layers.Identity()
