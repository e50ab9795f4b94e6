"""Compute a digest of a person's own code, to know whether it has changed since a study began.

The digest is taken of the code that runs, not of its text, so comments, formatting and names of
local variables do not count. It covers a function or class, what it uses of the person's own
functions, classes and modules, and the plain values and arrays that it reads. Code of Python, of
installed libraries and of hpsearch does not count.
"""

from __future__ import annotations

import dis
import hashlib
import inspect
import os
import sys
import types
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import keras_tuner
import numpy as np

from hpsearch.models.own_code import is_own

# It is raised when the digest of the same code changes.
_FORM = 1


def code_digest(maker: object, build: Callable[[], object]) -> str | None:
    """Return the digest of the code that makes models, and of the values that it reads.

    It is the same in every process of one version of Python. A value that building a model
    changes, such as a counter, does not count, since it differs between processes.

    Args:
        maker: A function, a class, a partial of one, an object that one has made, or a tuple. It
            has built a model in this process.
        build: Builds another model. It is called only where the code reads values.

    Returns:
        How the digest was made, such as `1-3.11`, a hyphen, and a SHA-256 digest of 64 hexadecimal
        digits; None where all the code is a library's. Digests that were made otherwise cannot be
        compared.
    """
    walk = _Walk.over(maker)
    if not walk.has_own_code:
        return None
    if walk.values:
        build()
        after = _Walk.over(maker)
        names = walk.values.keys() | after.values.keys()
        changed = {name for name in names if walk.values.get(name) != after.values.get(name)}
        walk = _Walk.over(maker, changed)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"{_FORM}-{python}-{walk.hash.hexdigest()}"


class _Walk:
    """One walk over functions and classes, each of which is described once."""

    PLAIN: ClassVar = (bool, int, float, complex, str, bytes, type(None), type(...), np.generic)
    DATA: ClassVar = (*PLAIN, tuple, set, frozenset, list, deque, range, Mapping, np.ndarray)

    def __init__(self, left_out: Container[str]) -> None:
        self.left_out = left_out
        # The digests of the values of each name.
        self.values: dict[str, list[str]] = {}
        self.hash = hashlib.sha256()
        self.has_own_code = False
        self._numbers: dict[int, int] = {}
        self._mentioned: set[tuple[int, str]] = set()
        # Visited objects are kept alive. Otherwise another object could get the id of one.
        self._kept: list[object] = []

    @classmethod
    def over(cls, maker: object, left_out: Container[str] = ()) -> _Walk:
        """Return a walk over what makes models, without the values of some names."""
        walk = cls(left_out)
        walk.visit(maker)
        return walk

    def _add(self, *words: object) -> None:
        self.hash.update(repr(words).encode("utf-8", "backslashreplace"))

    def visit(self, value: object) -> None:
        """Describe an object. Where it appears again, its number stands for it.

        A tuple may be one object or two equal ones, depending on whether Python has compiled the
        module or loaded it, so it is always described by what it holds.
        """
        if isinstance(value, tuple):
            self._items(value)
        elif isinstance(value, types.CodeType):
            self._code(value)
        elif isinstance(value, (*self.PLAIN, set, frozenset)):
            self._add(_as_text(value))
        elif id(value) in self._numbers:
            self._add("again", self._numbers[id(value)])
        else:
            self._numbers[id(value)] = len(self._numbers)
            self._kept.append(value)
            self._describe(value)

    def _describe(self, value: Any) -> None:
        """Describe an object that can hold others.

        The environment is another one in every process.
        """
        if isinstance(value, np.ndarray):
            self._array(value)
        elif isinstance(value, Mapping) and value is not os.environ:
            self._mapping(value)
        elif isinstance(value, (list, deque, range)):
            self._items(value)
        elif isinstance(value, partial):
            self._items([value.func, value.args, value.keywords])
        elif isinstance(value, types.MethodType):
            self._items([value.__func__, value.__self__])
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, type):
            self._class(value)
        else:
            self._object(value)

    def _object(self, value: Any) -> None:
        """Describe an object by its class, the functions that it wraps, and a person's attributes.

        What a library's object holds is left out: Keras, for example, numbers its names.
        """
        self._add("object", getattr(value, "__name__", ""))
        self.visit(type(value))
        # Of a property, a cached property, a static method, and a function with a cache.
        for name in ("fget", "fset", "func", "__func__", "__wrapped__"):
            function = getattr(value, name, None)
            if isinstance(function, types.FunctionType):
                self.visit(function)
        if isinstance(value, keras_tuner.HyperModel):
            self.has_own_code = True
            self._attributes(value)
        elif isinstance(value, types.SimpleNamespace) or _is_of_person(type(value)):
            self._attributes(value)

    def _attributes(self, value: object) -> None:
        for name, attribute in sorted(getattr(value, "__dict__", {}).items()):
            self._named(name, attribute)

    def _named(self, name: str, value: object) -> None:
        """Describe the value of a global variable, an attribute or a default.

        The digests of values are kept by their names, those of code and other objects are not.
        """
        if name in self.left_out:
            return
        if not isinstance(value, self.DATA):
            self._add(name)
            self.visit(value)
            return
        outer = self.hash
        self.hash = hashlib.sha256()
        self.visit(value)
        digest = self.hash.hexdigest()
        self.hash = outer
        self.values.setdefault(name, []).append(digest)
        self._add(name, digest)

    def _items(self, values: Iterable[object]) -> None:
        values = list(values)
        self._add("items", len(values))
        for value in values:
            self.visit(value)

    def _mapping(self, values: Mapping[Any, Any]) -> None:
        self._add("mapping", len(values))
        for key in sorted(values, key=_as_text):
            self.visit(key)
            self.visit(values[key])

    def _array(self, value: np.ndarray) -> None:
        self._add("array", str(value.dtype), value.shape)
        if value.dtype == object:
            self._items(value.ravel().tolist())
            return
        content = np.ascontiguousarray(value).tobytes()
        self._add(hashlib.sha256(content).hexdigest())

    def _class(self, value: type) -> None:
        """Describe a library's class by its name, another by its members and its base classes."""
        self._add("class", value.__qualname__)
        if not _is_of_person(value):
            self._add(value.__module__)
            return
        self.has_own_code = True
        self._items(value.__bases__)
        for name, member in sorted(vars(value).items()):
            # Python keeps more under such names, such as the line in which the class begins.
            is_pythons = name.startswith("__") and not isinstance(member, types.FunctionType)
            if not is_pythons and name != "_abc_impl":
                self._named(name, member)

    def _function(self, value: types.FunctionType) -> None:
        """Describe a library's function by its name, another by its code and what it reads."""
        self._add("function", value.__qualname__)
        if not _is_of_person(value):
            self._add(value.__module__)
            return
        self.has_own_code = True
        self._code(value.__code__)
        for name in ("__defaults__", "__kwdefaults__"):
            defaults = getattr(value, name)
            if defaults:
                self._named(f"{value.__qualname__} {name}", defaults)
        cells = value.__closure__ or ()
        for name, cell in zip(value.__code__.co_freevars, cells, strict=True):
            self._named(name, content_of(cell))
        for code in codes_in(value.__code__):
            for name, found in _read_from_outside(code, value.__globals__):
                self._read(name, found, code)
        # Under a decorator that keeps it, the function that a person wrote.
        self.visit(getattr(value, "__wrapped__", None))

    def _read(
        self,
        name: str,
        value: object,
        code: types.CodeType,
    ) -> None:
        """Describe what code reads; of a person's own module only what the code mentions.

        Modules can name each other, so each is described once for the same code.
        """
        if not isinstance(value, types.ModuleType):
            self._named(name, value)
            return
        self._add(value.__name__)
        if not _is_persons(value.__name__):
            return
        mentioned = (id(code), value.__name__)
        if mentioned in self._mentioned:
            return
        self._mentioned.add(mentioned)
        for mentioned_name in code.co_names:
            if mentioned_name in vars(value):
                self._read(mentioned_name, vars(value)[mentioned_name], code)

    def _code(self, value: types.CodeType) -> None:
        """Describe code without its place in a file and the names of local variables."""
        arguments = inspect.getargs(value)
        self._add(value.co_names, arguments)
        for item in dis.get_instructions(value):
            self._add(item.opname)
            # A docstring is a constant that no instruction of a function loads. The number of a
            # constant does not count, since adding a docstring can change it.
            if item.opcode not in dis.hasconst:
                self._add(item.arg)
            elif isinstance(item.argval, types.CodeType):
                self._code(item.argval)
            else:
                self._add(_as_text(item.argval))


def _is_of_person(value: type | types.FunctionType) -> bool:
    """Return whether a class or function is a person's own."""
    return _is_persons(value.__module__)


def _is_persons(module: str | None) -> bool:
    """Return whether a module is a person's own: a script, a notebook, or what they import."""
    name = module or ""
    return name.partition(".")[0] == "__main__" or is_own(name)


def codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield code, and that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes_in(constant)


def _read_from_outside(
    code: types.CodeType,
    namespace: Mapping[str, Any],
) -> Iterator[tuple[str, object]]:
    """Yield the name and the value of each global variable and module that code reads.

    Args:
        code: The code of a function, without that of the functions inside it.
        namespace: The global variables of the function.
    """
    read = {(item.opname, item.argval) for item in dis.get_instructions(code)}
    for operation, name in sorted(read, key=_as_text):
        if operation in ("LOAD_GLOBAL", "LOAD_NAME") and name in namespace:
            yield name, namespace[name]
        elif operation == "IMPORT_NAME":
            for full_name in _full_names(name, namespace.get("__package__") or ""):
                if full_name in sys.modules:
                    yield full_name, sys.modules[full_name]


def _full_names(name: str, package: str) -> Iterator[str]:
    """Yield what an imported name may mean: a module, or one of a package around the code.

    Args:
        name: The name in the statement, without leading dots; empty in `from . import parts`.
        package: The package of the code; empty where it is in none.
    """
    if name:
        yield name
    while package:
        yield f"{package}.{name}".rstrip(".")
        package = package.rpartition(".")[0]


def _as_text(value: object) -> str:
    """Return a text of a value that is the same in every process."""
    if isinstance(value, _Walk.PLAIN):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_as_text, value))})"
    if isinstance(value, (set, frozenset)):
        # The order of a set differs between processes.
        return f"{{{', '.join(sorted(map(_as_text, value)))}}}"
    return type(value).__qualname__


def content_of(cell: types.CellType) -> object:
    """Return what a cell of a closure holds; None where it is empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return None
