"""Compute the fingerprint of a model: a digest of all that decides how the model trains.

Two models with the same fingerprint differ only in the values of their variables and in learning
rate, momentum and dropout rates. A compiled program reads these from outside, so one program can
train both models.

A model's config does not hold everything that counts. It lacks attributes that were set after a
layer was made, arrays that a layer adapted to data, flags of sublayers, functions, and what an
optimizer was told after it was made. The digest is therefore taken of the objects themselves: of
the model and of all objects that it reaches through attributes.
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

from hpsearch.models.code_digest import codes_in, content_of
from hpsearch.models.loss_and_optimizer import MOMENTUMS
from hpsearch.models.own_code import is_library
from hpsearch.training.programs.inputs import dropouts, is_momentum


class UnknownStateError(Exception):
    """A model holds something whose state cannot be compared."""


def fingerprint(model: keras.Model) -> str:
    """Return the digest of a model; it is the same in every process.

    Args:
        model: A model that is built and compiled.

    Returns:
        A SHA-256 digest of 64 hexadecimal digits.

    Raises:
        UnknownStateError: The model holds something whose state cannot be compared, such as a
            variable that Keras does not know of, or an open file.
    """
    return _Walk(model).digest()


class _Walk:
    """One walk over the objects of a model, each of which is described once.

    Where an object appears again, its number stands for it.
    """

    # Keras, TensorFlow and JAX keep these attributes for themselves. They follow from other
    # attributes, so `_can_be_left_out` leaves them out.
    _skipped = frozenset({
        "_auto_config", "_build_shapes_dict", "_call_context_args", "_call_has_context_arg",
        "_called", "_compile_config", "_compiled_trainable_state", "_default_value_builder",
        "_distribute_strategy", "_inbound_nodes", "_init_seed", "_initial_seed", "_jax_state",
        "_jax_state_synced", "_layers_cache", "_lock", "_loss_ids", "_losses", "_losses_override",
        "_name", "_nodes", "_nodes_by_depth", "_obj_type", "_operations", "_operations_by_depth",
        "_outbound_nodes", "_parent_path", "_path", "_seed", "_self_setattr_tracking", "_tracked",
        "_tracker", "_trainable_variables", "_trainable_variables_indices", "history", "name",
        "path", "predict_function", "test_function", "train_function",
    })  # fmt: skip
    _skipped_beginnings = ("_self_", "_saved_model_", "_keras_api_", "_obj_reference_counts")

    _plain = (bool, int, float, complex, str, bytes, type(None), type(...), np.generic)

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.hash = hashlib.sha256()
        self.numbers: dict[int, int] = {}
        # Ids of the modules that were described, with the names that were looked up in them.
        self.modules: set[tuple[int, tuple[str, ...]]] = set()
        # Visited objects are kept alive. Otherwise another object could get the id of one.
        self.kept: list[object] = []
        known = [*model.variables, *model.metrics_variables]
        known += getattr(model.optimizer, "variables", [])
        self.known_variables = {id(v) for v in known}
        self.input_layers = {id(layer) for layer in dropouts(model)}
        self.names = self._names()

    def _names(self) -> dict[str, str]:
        """Return a place for each name, because Keras goes on numbering the names that it gives.

        Only the object that a name stands for counts.
        """
        layers = [t for t in self.model._flatten_layers() if isinstance(t, keras.Layer)]
        operations = [op for layer in layers for op in getattr(layer, "_operations", ())]
        named = [*layers, *operations, self.model.optimizer, *self.model.metrics]
        names: dict[str, str] = {}
        for place, thing in enumerate(named):
            names.setdefault(thing.name, f"@{place}")
        return names

    def digest(self) -> str:
        """Describe Keras's settings and the model, and return the digest."""
        config = keras.config
        self.add(config.floatx(), config.epsilon(), config.image_data_format())
        self.visit(self.model)
        return self.hash.hexdigest()

    def add(self, *words: object) -> None:
        """Add words to the digest."""
        self.hash.update(repr(words).encode())

    def visit(self, value: object) -> None:
        """Describe an object and all that it holds."""
        if isinstance(value, str):
            self.add(self.names.get(value, value))
        elif isinstance(value, self._plain):
            self.add(type(value).__name__, value)
        elif id(value) in self.numbers:
            self.add("again", self.numbers[id(value)])
        else:
            self.numbers[id(value)] = len(self.numbers)
            self.kept.append(value)
            self._describe(value)

    def _describe(self, value: object) -> None:
        """Describe an object by the first entry of `_kinds` that fits it."""
        for kinds, describe in self._kinds:
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
            return
        content = np.ascontiguousarray(value).tobytes()
        digest = hashlib.sha256(content).hexdigest()
        self.add("array", str(value.dtype), value.shape, digest)

    def items(self, values: Iterable[object]) -> None:
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

    def unordered(self, values: Iterable[object]) -> None:
        """Describe a set of plain values."""
        if not all(isinstance(value, self._plain) for value in values):
            raise UnknownStateError(f"it holds a {type(values).__name__} of objects")
        self.add("set", sorted(map(repr, values)))

    def variable(self, value: keras.Variable) -> None:
        """Describe a variable without its value, which is loaded into the program."""
        if id(value) not in self.known_variables:
            raise UnknownStateError(f"it holds a variable that Keras does not track: {value.name}")
        shape = tuple(value.shape)
        self.add("variable", shape, str(value.dtype), value.trainable, value.aggregation)
        for extra in ("constraint", "regularizer", "overwrite_with_gradient"):
            self.visit(getattr(value, extra, None))

    def symbol(self, value: keras.KerasTensor) -> None:
        """Describe a symbolic tensor by the operation that it comes from."""
        self.add("symbol", tuple(value.shape), str(value.dtype))
        origin = getattr(value, "_keras_history", None)
        if origin is None:
            return
        self.visit(origin.operation)
        self.add(origin.node_index, origin.tensor_index)
        nodes = origin.operation._inbound_nodes
        if origin.node_index >= len(nodes):
            return
        node = nodes[origin.node_index]
        if id(node) not in self.numbers:
            self.numbers[id(node)] = len(self.numbers)
            self.items(node.arguments.args)
            self.mapping(node.arguments.kwargs)

    def function(self, value: types.FunctionType) -> None:
        """Describe a function of a library by its name, another by its code and all it reads."""
        self.add("function", value.__module__, value.__qualname__)
        if _is_of_library(value):
            return
        code = value.__code__
        self.code(code)
        self.visit(value.__defaults__)
        self.visit(value.__kwdefaults__)
        for cell in value.__closure__ or ():
            self.visit(content_of(cell))
        self.read(_names_in(code), value.__globals__)

    def read(self, names: tuple[str, ...], namespace: Mapping[str, object]) -> None:
        """Describe what code reads in a namespace.

        Args:
            names: The names that the code mentions. They are looked up in the namespace, and in
                the modules that it holds.
            namespace: The globals of a function, or the content of a module.
        """
        for name in names:
            found: object = sys.modules.get(name)  # the code may import it
            if name in namespace:
                found = namespace[name]
            if isinstance(found, types.ModuleType):
                self.module(names, found)
            elif name in namespace:
                self.visit(found)

    def module(self, names: tuple[str, ...], value: types.ModuleType) -> None:
        """Describe what code reads in a module by these names.

        In a library's module, only plain data may change between two trials.
        """
        key = (id(value), names)
        if key in self.modules:
            return
        self.modules.add(key)
        content = vars(value)
        if not is_library(value.__name__):
            self.read(names, content)
            return
        for name in names:
            if _is_plain(content.get(name)):
                self.visit(content[name])

    def own_module(self, value: types.ModuleType) -> None:
        """Describe a library's module by its name, another by all that it holds."""
        self.add("module", value.__name__)
        if is_library(value.__name__):
            return
        self.mapping({name: v for name, v in vars(value).items() if not name.startswith("__")})

    def code(self, value: types.CodeType) -> None:
        """Describe the code of a function, with the functions inside it."""
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

    def part(self, value: functools.partial[object]) -> None:
        """Describe a `functools.partial`."""
        self.visit(value.func)
        self.items(value.args)
        self.mapping(value.keywords)

    def kind(self, value: type) -> None:
        """Describe a library's class by its name, another by its code too."""
        self.add("class", value.__module__, value.__qualname__)
        if _is_of_library(value):
            return
        for base in value.__bases__:
            self.visit(base)
        skipped = ("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__")
        for name, member in sorted(vars(value).items()):
            if name not in skipped:
                self.add(name)
                self.visit(member)

    def named(self, value: Any) -> None:
        """Describe an object that its name identifies, such as a built-in function."""
        module = getattr(value, "__module__", "")
        name = getattr(value, "__qualname__", value.__name__)
        self.add(type(value).__name__, module, name)

    def wrapped(self, value: object) -> None:
        """Describe a property, a class method or a static method."""
        self.add(type(value).__name__)
        for name in ("fget", "fset", "__func__"):
            self.visit(getattr(value, name, None))

    def pattern(self, value: re.Pattern[Any]) -> None:
        """Describe a regular expression."""
        self.add("pattern", value.pattern, value.flags)

    def policy(self, value: keras.DTypePolicy) -> None:
        """Describe a dtype policy."""
        self.add("policy", type(value).__name__, value.name)

    def nothing(self, value: object) -> None:
        """Describe an object by its class alone, because training cannot see its state.

        Locks and weak references are such objects. So are initializers of a model that is built.
        """
        self.add(type(value).__name__)

    def thing(self, value: object) -> None:
        """Describe an object by its class and all its attributes."""
        self.visit(type(value))
        if isinstance(value, keras.Metric):
            # Its variables are made with the first batch, and reset before each epoch.
            self.known_variables.update(id(v) for v in value.variables)
        if _is_native(type(value)):
            self.reduced(value)
            return
        attributes = _attributes(value)
        inputs = self._inputs(value)
        self.add("inputs", sorted(inputs))
        for name in sorted(attributes.keys() - inputs):
            if not self._can_be_left_out(type(value), name):
                self.add(name)
                self.visit(attributes[name])

    def reduced(self, value: object) -> None:
        """Describe an object without attributes by what `copy` would make it from."""
        try:
            made_of = value.__reduce_ex__(4)
        except TypeError as error:
            kind = type(value).__name__
            message = f"it holds a {kind}, whose state cannot be compared"
            raise UnknownStateError(message) from error
        if isinstance(made_of, str):
            self.add(made_of)
            return
        for part in made_of:
            if isinstance(part, Iterator):
                self.items(part)
            else:
                self.visit(part)

    def _inputs(self, value: object) -> set[str]:
        """Return the attributes of an object that a program takes from outside."""
        if id(value) in self.input_layers:
            return {"rate", "seed_generator", "_seed_generators", "seed"}
        if isinstance(value, keras.Optimizer):
            inputs = {name for name in MOMENTUMS if is_momentum(value, name)}
            if isinstance(getattr(value, "_learning_rate", None), keras.Variable):
                inputs.add("_learning_rate")
            return inputs
        if isinstance(value, keras.random.SeedGenerator):
            return {"seed"}
        return set()

    def _can_be_left_out(self, kind: type, name: str) -> bool:
        """Return whether an attribute of this name follows from the others.

        It does where only a library's code sets it.
        """
        if name not in self._skipped and not name.startswith(self._skipped_beginnings):
            return False
        setters = [cls for cls in kind.__mro__ if name in _set_by(cls)]
        return all(is_library(cls.__module__) for cls in setters or [kind])

    # The kinds of objects that are not described by their attributes, and the methods that
    # describe them. The first entry that fits an object counts.
    _kinds: tuple[tuple[type | tuple[type, ...], Callable[[_Walk, Any], None]], ...] = (
        (np.ndarray, array),
        (keras.Variable, variable),
        (keras.KerasTensor, symbol),
        (keras.Initializer, nothing),
        (keras.DTypePolicy, policy),
        (re.Pattern, pattern),
        (types.FunctionType, function),
        (types.MethodType, method),
        (functools.partial, part),
        (types.ModuleType, own_module),
        (type, kind),
        ((types.BuiltinFunctionType, types.MethodDescriptorType), named),
        ((types.WrapperDescriptorType, np.ufunc), named),
        ((types.GetSetDescriptorType, types.MemberDescriptorType), named),
        ((property, classmethod, staticmethod), wrapped),
        ((threading.local, type(threading.Lock()), type(threading.RLock())), nothing),
        (weakref.ref, nothing),
        (Mapping, mapping),
        ((list, tuple), items),
        ((set, frozenset), unordered),
    )


def _is_native(kind: type) -> bool:
    """Return whether objects of a class may hold more than their attributes.

    They do where the class, or one of its base classes, is not written in Python.
    """
    heap_type = 1 << 9  # the flag of classes that were made by a `class` statement
    return not all(cls.__flags__ & heap_type for cls in kind.__mro__ if cls is not object)


@functools.cache
def _set_by(cls: type) -> frozenset[str]:
    """Return the attributes that the methods of a class set."""
    found = set()
    for member in vars(cls).values():
        function = member
        for name in ("fset", "__func__", "__wrapped__"):  # of a property, a method, a wrapper
            function = getattr(function, name, None) or function
        if not isinstance(function, types.FunctionType):
            continue
        for code in codes_in(function.__code__):
            stored = [i.argval for i in dis.get_instructions(code) if i.opname == "STORE_ATTR"]
            found.update(stored)
    return frozenset(found)


def _is_plain(value: object) -> bool:
    """Return whether an object is plain data, or a collection of plain data."""
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    return value is not None and isinstance(value, (*_Walk._plain, np.ndarray))


def _attributes(value: object) -> dict[str, object]:
    """Return the attributes of an object by name, those in slots too."""
    found = dict(getattr(value, "__dict__", {}))
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        if isinstance(slots, str):
            slots = (slots,)
        for name in {*slots} - {"__weakref__", "__dict__"}:
            if hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def _names_in(code: types.CodeType) -> tuple[str, ...]:
    """Return the names that code mentions, sorted.

    They are the names of globals, attributes and imported modules, and all strings, because a
    string may name an attribute.
    """
    found: set[str] = set()
    for part in codes_in(code):
        found.update(part.co_names)
        found.update(constant for constant in part.co_consts if isinstance(constant, str))
    return tuple(sorted(found))


def _is_of_library(value: type | types.FunctionType) -> bool:
    """Return whether a class or function is a library's, which is the same in all trials."""
    return "<locals>" not in value.__qualname__ and is_library(value.__module__)
