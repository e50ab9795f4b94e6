"""Look up classes and functions that a configuration names in their files, which are not run.

Importing a person's module may import Keras, which takes seconds. Its file says at once whether a
name is there, and which arguments it takes. What the file does not say for sure is left to the job.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from hpsearch.errors import ConfigError, did_you_mean


class _Place(NamedTuple):
    """Where a dotted name leads.

    Attributes:
        module: The name of the module.
        file: The file of the module.
        names: The names below the module.
    """

    module: str
    file: Path
    names: Sequence[str]


def check_code(key: str, part: object) -> None:
    """Raise ConfigError where code that a part names is not there or does not take its settings.

    Args:
        key: The key of the part.
        part: The part as plain data; parts within it are checked too.
    """
    if isinstance(part, Mapping):
        check_settings(key, part)
        for name, value in part.items():
            check_code(f"{key}.{name}", value)
    elif isinstance(part, list):
        for value in part:
            check_code(key, value)


def check_settings(key: str, part: Mapping[str, object]) -> None:
    """Raise ConfigError as `check_code` does, but not for the parts within a part."""
    target = part.get("_target_")
    if isinstance(target, str):
        _check_target(key, target, part)


def _check_target(
    key: str,
    target: str,
    part: Mapping[str, object],
) -> None:
    first = target.partition(".")[0]
    if not first.isidentifier():
        return
    place = _place_of(target)
    if place is None:
        if first not in sys.modules and find_spec(first) is None:
            raise ConfigError(
                f"{key}._target_ cannot be imported: No module named {first!r}; a module of your "
                "own must lie in the current folder or in one that PYTHONPATH names."
            )
        return
    if place.module in sys.modules or len(place.names) != 1:
        return
    found = _named(_parsed(key, place))
    if found is None:
        return
    name = place.names[0]
    if name not in found:
        known = [word for word, node in found.items() if node is not None and word[0] != "_"]
        hint = ""
        if known:
            hint = did_you_mean(name, known)
        raise ConfigError(f"{key}._target_ cannot be imported: {place.module} has no {name}.{hint}")
    _check_settings(key, part, _arguments(found[name]))


def _check_settings(
    key: str,
    part: Mapping[str, object],
    taken: set[str] | None,
) -> None:
    """Raise ConfigError for a setting that is none of the arguments, where these are known."""
    for setting in part:
        if taken is not None and not setting.startswith("_") and setting not in taken:
            raise ConfigError(
                f"{key} cannot be built: got an unexpected keyword argument {setting!r}."
            )


def _place_of(target: str) -> _Place | None:
    """Return the innermost module of a dotted name that has a file; None where there is none."""
    words = target.split(".")
    found = None
    path: Sequence[str] | None = None
    for depth in range(1, len(words) + 1):
        spec = _spec(".".join(words[:depth]), path)
        if spec is None:
            break
        if spec.origin is not None and spec.origin.endswith(".py"):
            found = _Place(".".join(words[:depth]), Path(spec.origin), words[depth:])
        path = spec.submodule_search_locations
        if path is None:
            break
    return found


def _spec(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    """Return how a module would be imported, without importing the packages around it."""
    if path is not None:
        return PathFinder.find_spec(name, path)
    if "." in name:
        return None
    try:
        return find_spec(name)
    except ValueError:  # such as __main__
        return None


def _parsed(key: str, place: _Place) -> ast.Module:
    """Return what a module has; nothing where its file cannot be read.

    Raises:
        ConfigError: The file is no Python.
    """
    try:
        return ast.parse(place.file.read_bytes(), str(place.file))
    except SyntaxError as error:
        raise ConfigError(
            f"{key}._target_ cannot be imported: {place.file.name} has a mistake in line "
            f"{error.lineno} ({error.msg})."
        ) from error
    except (OSError, ValueError):
        return ast.parse("from . import *")


def _named(module: ast.Module) -> dict[str, ast.stmt | None] | None:
    """Return the names of a module, with the class or function that bears each.

    They are None where the file does not say them all.
    """
    found: dict[str, ast.stmt | None] = {}
    for node in _statements(module):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found.update(
                (alias.asname or alias.name.partition(".")[0], None) for alias in node.names
            )
        else:
            found.update(
                (inner.id, None) for inner in ast.walk(node) if isinstance(inner, ast.Name)
            )
    # A module may take its names from elsewhere by any of these.
    if not found.keys().isdisjoint({"*", "__getattr__", "globals", "exec"}):
        return None
    return found


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements of a module, those in `if`, `try`, `with` and loops too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If | ast.Try | ast.With | ast.For | ast.While | ast.ExceptHandler):
            yield from _statements(child)
        else:
            yield child


def _arguments(node: ast.stmt | None) -> set[str] | None:
    """Return the names of the arguments that a function or a class takes; None if it is not sure.

    A decorator, a base class or `**keywords` may bring further ones.
    """
    if isinstance(node, ast.ClassDef):
        own = [item for item in node.body if isinstance(item, ast.FunctionDef)]
        makers = [item for item in own if item.name == "__init__"]
        if _is_dataclass(node):
            fields = [item.target for item in node.body if isinstance(item, ast.AnnAssign)]
            return {field.id for field in fields if isinstance(field, ast.Name)}
        if node.decorator_list or node.keywords or len(makers) != 1:
            return None
        node = makers[0]
    if not isinstance(node, ast.FunctionDef) or node.decorator_list or node.args.kwarg:
        return None
    return {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}


def _is_dataclass(node: ast.ClassDef) -> bool:
    """Return whether a class is a dataclass that takes no arguments of another class."""
    decorators = [ast.unparse(item).partition("(")[0] for item in node.decorator_list]
    return decorators == ["dataclass"] and not node.bases
