"""Check that a value is of the kind that its setting has: a number, a switch or a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import get_args, get_type_hints

from hpsearch.errors import ConfigError

_WORDS: dict[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}


def check_kind(
    key: str,
    kind: object,
    value: object,
    text: str,
) -> None:
    """Raise ConfigError where a value is of another kind than its setting.

    Args:
        key: The key of the setting.
        kind: The kind of the setting; one that is not in the list above takes any value.
        value: The value.
        text: The value as the person has written it.
    """
    if isinstance(kind, type) and kind in _WORDS and not _is_a(kind, value):
        raise ConfigError(f"{key} must be {_WORDS[kind]}, but is {text or 'empty'}.")


def check_kinds(
    key: str,
    made: object,
    settings: Mapping[str, object],
) -> None:
    """Raise ConfigError where a setting of a part is not of the kind that its class names.

    Args:
        key: The key of the part.
        made: What makes the part; only the fields of dataclasses are known.
        settings: The settings of the part.
    """
    if not is_dataclass(made):
        return
    hints = get_type_hints(made)
    for name, value in settings.items():
        kinds = [hints.get(name)]
        if isinstance(kinds[0], UnionType):
            kinds = list(get_args(kinds[0]))
        is_part = isinstance(value, Mapping) and "_target_" in value
        if is_part or (value is None and NoneType in kinds):
            continue
        text = str(value)
        if value is None:
            text = "null"
        check_kind(f"{key}.{name}", kinds[0], value, text)


def _is_a(kind: type, value: object) -> bool:
    """Return whether a value is of a kind; an integer is of each."""
    if kind is str:
        return isinstance(value, str)
    if isinstance(value, int) and not isinstance(value, bool):
        return kind is not bool
    if kind is bool or isinstance(value, bool):
        return kind is type(value)
    if not isinstance(value, float):
        return False
    return kind is float or value.is_integer()
