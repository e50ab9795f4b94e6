"""A digest of all that a built model is, beside the numbers that a compiled program takes from
outside.

A model's config does not hold all of it: attributes that were set after a layer was made, arrays
that a layer adapted to data, flags of sublayers, functions, what an optimizer was told after it was
made. So the objects themselves are walked, with all their attributes. Two models with one digest
differ in nothing but the values of their variables and in learning rate, momentum and dropout
rates, so one program can train both.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import re
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from hpsearch.models.loss_and_optimizer import MOMENTUMS
from hpsearch.models.own_code import names_of_distributions
from hpsearch.training.programs.inputs import dropouts, is_momentum

# Attributes that Keras, TensorFlow and JAX keep for themselves and that follow from the others; see
# `_follows`.
_SKIPPED = frozenset({
    "name", "_name", "path", "_path", "_parent_path", "_auto_config", "_tracker", "_inbound_nodes", "_outbound_nodes",
    "_lock", "_called", "_nodes", "_nodes_by_depth", "_operations_by_depth", "_operations", "_compile_config",
    "history",
    "train_function", "test_function", "predict_function", "_compiled_trainable_state", "_trainable_variables_indices",
    "_trainable_variables", "_obj_type", "_default_value_builder", "_build_shapes_dict", "_call_has_context_arg",
    "_call_context_args", "_jax_state", "_jax_state_synced", "_losses", "_loss_ids", "_losses_override", "_seed",
    "_distribute_strategy", "_tracked", "_initial_seed", "_init_seed", "_self_setattr_tracking", "_layers_cache",
})  # fmt: skip
_SKIPPED_BEGINNINGS = ("_self_", "_saved_model_", "_keras_api_", "_obj_reference_counts")
HEAP_TYPE = 1 << 9  # Python's flag of classes that a `class` statement made
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), np.generic)


class UnknownStateError(Exception):
    """A model holds something whose state cannot be compared."""


def fingerprint(model: keras.Model) -> str:
    """Return the digest of a built and compiled model; it is the same in every process.

    Raises:
        UnknownStateError: The model holds something whose state cannot be compared, such as a
            variable that Keras does not know of, or an open file.
    """
    return _Walk(model).digest()


class _Walk:
    """One walk over the objects of a model; each is described once, and by its number afterwards."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.hash = hashlib.sha256()
        self.numbers: dict[int, int] = {}
        self.modules: set[tuple[int, tuple[str, ...]]] = (
            set()
        )  # with the names that were looked for
        self.kept: list[Any] = []  # temporary objects must live, or another one would get their id
        known = [
            *model.variables,
            *getattr(model.optimizer, "variables", []),
            *model.metrics_variables,
        ]
        self.known_variables = {id(v) for v in known}
        self.input_layers = {id(layer) for layer in dropouts(model)}
        self.names = self._names()

    def _names(self) -> dict[str, str]:
        """Keras numbers its names on and on; what counts is which object a name stands for."""
        layers = [layer for layer in self.model._flatten_layers() if isinstance(layer, keras.Layer)]
        operations = [op for layer in layers for op in getattr(layer, "_operations", ())]
        named = [*layers, *operations, self.model.optimizer, *self.model.metrics]
        return {thing.name: f"@{place}" for place, thing in reversed(list(enumerate(named)))}

    def digest(self) -> str:
        """Describe the model and what it was compiled with."""
        self.add(keras.config.floatx(), keras.config.epsilon(), keras.config.image_data_format())
        self.visit(self.model)
        return self.hash.hexdigest()

    def add(self, *words: object) -> None:
        """Add words to the digest."""
        self.hash.update(repr(words).encode())

    def visit(self, value: Any) -> None:
        """Describe `value` and all that it holds."""
        if isinstance(value, str):
            self.add(self.names.get(value, value))
        elif isinstance(value, _PLAIN):
            self.add(type(value).__name__, value)
        elif id(value) in self.numbers:
            self.add("again", self.numbers[id(value)])
        else:
            self.numbers[id(value)] = len(self.numbers)
            self.kept.append(value)
            self._describe(value)

    def _describe(self, value: Any) -> None:
        for kinds, describe in _KINDS:
            if isinstance(value, kinds):
                describe(self, value)
                return
        if keras.ops.is_tensor(value):
            self.array(keras.ops.convert_to_numpy(value))
        else:
            self.thing(value)

    def array(self, value: np.ndarray) -> None:
        """Describe an array by its content."""
        if value.dtype == object:
            self.items(value.ravel().tolist())
        else:
            content = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
            self.add("array", str(value.dtype), value.shape, content)

    def items(self, values: Iterable[Any]) -> None:
        """Describe a sequence."""
        values = list(values)
        self.add("items", len(values))
        for value in values:
            self.visit(value)

    def mapping(self, values: Mapping[Any, Any]) -> None:
        """Describe a mapping."""
        self.add("mapping", len(values))
        for key, value in values.items():
            self.visit(key)
            self.visit(value)

    def unordered(self, values: Any) -> None:
        """Describe a set of plain values."""
        if not all(isinstance(value, _PLAIN) for value in values):
            raise UnknownStateError(f"it holds a {type(values).__name__} of objects")
        self.add("set", sorted(map(repr, values)))

    def variable(self, value: Any) -> None:
        """Describe a variable; its value is loaded into the program, so it does not count."""
        if id(value) not in self.known_variables:
            raise UnknownStateError(f"it holds a variable that Keras does not track: {value.name}")
        self.add(
            "variable", tuple(value.shape), str(value.dtype), value.trainable, value.aggregation
        )
        for extra in ("constraint", "regularizer", "overwrite_with_gradient"):
            self.visit(getattr(value, extra, None))

    def symbol(self, value: Any) -> None:
        """Describe a symbolic tensor by where it comes from."""
        self.add("symbol", tuple(value.shape), str(value.dtype))
        origin = getattr(value, "_keras_history", None)
        if origin is None:
            return
        self.visit(origin.operation)
        self.add(origin.node_index, origin.tensor_index)
        if origin.node_index < len(origin.operation._inbound_nodes):
            node = origin.operation._inbound_nodes[origin.node_index]
            if id(node) not in self.numbers:
                self.numbers[id(node)] = len(self.numbers)
                self.items(node.arguments.args)
                self.mapping(node.arguments.kwargs)

    def function(self, value: types.FunctionType) -> None:
        """Describe a function: a library's by its name, another by its code and all that it reads."""
        self.add("function", value.__module__, value.__qualname__)
        if _is_of_library(value):
            return
        self.code(value.__code__)
        self.visit(value.__defaults__)
        self.visit(value.__kwdefaults__)
        for cell in value.__closure__ or ():
            self.visit(_content(cell))
        self.read(tuple(_names_in(value.__code__)), value.__globals__)

    def read(self, names: tuple[str, ...], namespace: Mapping[str, Any]) -> None:
        """Describe what code reads in a namespace by the names that it mentions, and in modules by
        the same names.
        """
        for name in names:
            found = (
                namespace[name] if name in namespace else sys.modules.get(name)
            )  # which the code may import
            if isinstance(found, types.ModuleType):
                self.module(names, found)
            elif name in namespace:
                self.visit(found)

    def module(self, names: tuple[str, ...], value: types.ModuleType) -> None:
        """Describe what code reads in a module: in a library's, plain data alone may change between
        two trials.
        """
        if (id(value), names) in self.modules:
            return
        self.modules.add((id(value), names))
        if not is_library(value.__name__):
            self.read(names, vars(value))
            return
        for name in names:
            if _is_plain(vars(value).get(name)):
                self.visit(vars(value)[name])

    def own_module(self, value: types.ModuleType) -> None:
        """Describe a module that an object holds: a library's by its name, another by all that it
        has.
        """
        self.add("module", value.__name__)
        if not is_library(value.__name__):
            self.mapping(
                {name: found for name, found in vars(value).items() if not name.startswith("__")}
            )

    def code(self, value: types.CodeType) -> None:
        """Describe what a function does."""
        self.add(value.co_code, value.co_names, value.co_varnames)
        for constant in value.co_consts:
            if isinstance(constant, types.CodeType):
                self.code(constant)
            else:
                self.add(constant)

    def method(self, value: types.MethodType) -> None:
        """Describe a method with the object that it belongs to."""
        self.visit(value.__func__)
        self.visit(value.__self__)

    def part(self, value: functools.partial[Any]) -> None:
        """Describe a partial."""
        self.visit(value.func)
        self.items(value.args)
        self.mapping(value.keywords)

    def kind(self, value: type) -> None:
        """Describe a class: a library's by its name, another by its code too."""
        self.add("class", value.__module__, value.__qualname__)
        if _is_of_library(value):
            return
        for base in value.__bases__:
            self.visit(base)
        for name, member in sorted(vars(value).items()):
            if name not in ("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__"):
                self.add(name)
                self.visit(member)

    def named(self, value: Any) -> None:
        """Describe what its name tells wholly."""
        self.add(
            type(value).__name__,
            getattr(value, "__module__", ""),
            getattr(value, "__qualname__", value.__name__),
        )

    def wrapped(self, value: Any) -> None:
        """Describe a property, a class method or a static method."""
        self.add(type(value).__name__)
        for name in ("fget", "fset", "__func__"):
            self.visit(getattr(value, name, None))

    def pattern(self, value: re.Pattern[Any]) -> None:
        """Describe a regular expression."""
        self.add("pattern", value.pattern, value.flags)

    def policy(self, value: Any) -> None:
        """Describe a dtype policy."""
        self.add("policy", type(value).__name__, value.name)

    def nothing(self, value: Any) -> None:
        """Pass over what has no state that training could see; an initializer has done its work."""
        self.add(type(value).__name__)

    def thing(self, value: Any) -> None:
        """Describe an object by its class and all its attributes."""
        self.visit(type(value))
        if isinstance(
            value, keras.Metric
        ):  # which is built with the first batch, and reset before each epoch
            self.known_variables.update(id(v) for v in value.variables)
        if _is_native(type(value)):
            self.reduced(value)
            return
        attributes = _attributes(value)
        inputs = self._inputs(value)
        self.add("inputs", sorted(inputs))
        for name in sorted(attributes.keys() - inputs):
            if not _follows(type(value), name):
                self.add(name)
                self.visit(attributes[name])

    def reduced(self, value: Any) -> None:
        """Describe an object without attributes by what `copy` would make it from."""
        try:
            made_of = value.__reduce_ex__(4)
        except TypeError as error:
            raise UnknownStateError(
                f"it holds a {type(value).__name__}, whose state cannot be compared"
            ) from error
        if isinstance(made_of, str):
            self.add(made_of)
            return
        for part in made_of:
            self.items(part) if isinstance(part, Iterator) else self.visit(part)

    def _inputs(self, value: Any) -> set[str]:
        """Return the attributes of `value` that a program takes from outside."""
        if id(value) in self.input_layers:
            return {"rate", "seed_generator", "_seed_generators", "seed"}
        if isinstance(value, keras.Optimizer):
            inputs = {name for name in MOMENTUMS if is_momentum(value, name)}
            rate = getattr(value, "_learning_rate", None)
            return inputs | ({"_learning_rate"} if isinstance(rate, keras.Variable) else set())
        return {"seed"} if isinstance(value, keras.random.SeedGenerator) else set()


def _is_native(kind: type) -> bool:
    """Return whether objects of a class hold more than their attributes: it, or a class below it,
    is no Python code.
    """
    return any(cls is not object and not cls.__flags__ & HEAP_TYPE for cls in kind.__mro__)


def _follows(kind: type, name: str) -> bool:
    """Return whether an attribute of this name follows from the others: a library's code sets it,
    and no other code.
    """
    if name not in _SKIPPED and not name.startswith(_SKIPPED_BEGINNINGS):
        return False
    setters = [cls for cls in kind.__mro__ if name in _set_by(cls)]
    return all(is_library(cls.__module__) for cls in setters or kind.__mro__[:1])


@functools.cache
def _set_by(cls: type) -> frozenset[str]:
    """Return the attributes that the methods of a class set."""
    codes = [
        member.__code__ for member in map(_plain_function, vars(cls).values()) if member is not None
    ]
    return frozenset(
        instruction.argval
        for code in codes
        for instruction in _instructions(code)
        if instruction.opname == "STORE_ATTR"
    )


def _plain_function(member: Any) -> types.FunctionType | None:
    for name in ("fset", "__func__", "__wrapped__"):
        member = getattr(member, name, None) or member
    return member if isinstance(member, types.FunctionType) else None


def _instructions(code: types.CodeType) -> Iterator[dis.Instruction]:
    yield from dis.get_instructions(code)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _instructions(constant)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    return value is not None and isinstance(value, (*_PLAIN, np.ndarray))


def _attributes(value: Any) -> dict[str, Any]:
    found = dict(getattr(value, "__dict__", {}))
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name) and name not in ("__weakref__", "__dict__"):
                found[name] = getattr(value, name)
    return found


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # it is empty
        return None


def _names_in(code: types.CodeType) -> list[str]:
    """Return the names that code mentions, those in strings included: of globals, attributes and
    imported modules.
    """
    found = {*code.co_names, *(c for c in code.co_consts if isinstance(c, str))}
    inner = [name for c in code.co_consts if isinstance(c, types.CodeType) for name in _names_in(c)]
    return sorted({*found, *inner})


def _is_of_library(value: Any) -> bool:
    """Return whether a class or function is an installed library's, which does not change between
    two trials.
    """
    return "<locals>" not in value.__qualname__ and is_library(value.__module__)


@functools.cache
def is_library(module: str | None) -> bool:
    """Return whether a module is part of Python, of an installed library or of this package."""
    root = (module or "").partition(".")[0]
    if root in sys.stdlib_module_names or root == "hpsearch":
        return True
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file or root in names_of_distributions()


_KINDS: list[tuple[Any, Callable[[_Walk, Any], None]]] = [
    (np.ndarray, _Walk.array),
    (keras.Variable, _Walk.variable),
    (keras.KerasTensor, _Walk.symbol),
    (keras.Initializer, _Walk.nothing),
    (keras.dtype_policies.DTypePolicy, _Walk.policy),
    (re.Pattern, _Walk.pattern),
    (types.FunctionType, _Walk.function),
    (types.MethodType, _Walk.method),
    (functools.partial, _Walk.part),
    (types.ModuleType, _Walk.own_module),
    (type, _Walk.kind),
    ((types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, np.ufunc,
      types.GetSetDescriptorType, types.MemberDescriptorType), _Walk.named),
    ((property, classmethod, staticmethod), _Walk.wrapped),
    ((threading.local, type(threading.Lock()), type(threading.RLock()), weakref.ref), _Walk.nothing),
    (Mapping, _Walk.mapping),
    ((list, tuple), _Walk.items),
    ((set, frozenset), _Walk.unordered),
]  # fmt: skip
