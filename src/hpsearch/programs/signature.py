"""Which models one compiled program can train."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import keras

from hpsearch.architectures.compiling import MOMENTUMS
from hpsearch.programs.inputs import is_dropout


def signature(model: keras.Model) -> str | None:
    """Return a digest that two models share if and only if one program can train both; None where none can be made.

    It is the same in every process.
    """
    layers, compiled = model.get_config(), model.get_compile_config()
    if "layers" not in layers:  # neither Sequential nor Functional
        return None
    settings = compiled["optimizer"]["config"]
    for key in ("learning_rate", *MOMENTUMS):
        if isinstance(settings.get(key), float):
            settings[key] = "input"
    dropouts = {layer.name for layer in model.layers if is_dropout(layer)}
    for layer in layers["layers"]:
        if layer["config"]["name"] in dropouts:
            layer["config"]["rate"] = "input"
    places = {layer["config"]["name"]: f"@{place}" for place, layer in enumerate(layers["layers"])}
    places |= {model.name: "@model", model.optimizer.name: "@optimizer"}
    text = json.dumps(_renamed([layers, compiled], places), default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def _renamed(node: Any, places: dict[str, str]) -> Any:
    """Keras numbers its names on and on; what counts is which layer a name stands for."""
    if isinstance(node, dict):
        named = {key: places.get(value, value) for key, value in node.items() if key == "name" and _is_text(value)}
        return {key: _renamed(value, places) for key, value in node.items()} | named
    if isinstance(node, list | tuple):
        return [places.get(item, item) if _is_text(item) else _renamed(item, places) for item in node]
    return node


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
