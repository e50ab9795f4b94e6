"""A change of a person's code that can change a model changes the digest, and no other change does.

Each test writes modules as a person would, in a folder of its own.
"""

import importlib
import itertools
import subprocess
import sys
from functools import partial
from pathlib import Path

import keras
import keras_tuner
import pytest

from hpsearch.models.code_digest import code_digest as _code_digest

BUILD = """
import keras
from keras import layers

WIDTHS = [16, 32]
KINDS = {"relu", "elu", "selu", "gelu"}

def block(width, activation="relu"):
    return layers.Dense(width, activation)

def build_model(hp):
    parts = [block(width) for width in WIDTHS]
    if hp.Choice("kind", ["a", "b"]) in {"b", "c", "d", "e"}:
        parts.append(layers.Dropout(hp.Float("rate", 0.0, 0.5)))
    names = ["relu" for part in parts if part.name in KINDS]
    model = keras.Sequential([*parts, layers.Dense(10, "softmax")])
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return model
"""
TUNED = """
import keras_tuner

class Base(keras_tuner.HyperModel):
    def optimizer(self):
        return "adam"

class Tuned(Base):
    depth = 3

    def __init__(self, width=8):
        super().__init__()
        self.width = width

    def build(self, hp):
        return self.width * self.depth * hp.Int("n", 1, 3)

    def fit(self, hp, model, *args, **more):
        return model.fit(*args, **more)
"""


def code_digest(maker):
    """Return the digest of what builds models without changing any value."""
    return _code_digest(maker, lambda: None)


@pytest.fixture(name="module")
def module_of(tmp_path, monkeypatch):
    """Return a function that imports a text as a module of a person's own."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # it is compared by seconds
    numbers = itertools.count()

    def imported(text, name=None):
        name = name or f"own_{tmp_path.name}_{next(numbers)}".replace("-", "_")
        (tmp_path / f"{name.replace('.', '/')}.py").write_text(text)
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    return imported


def changed(text, old, new):
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[16, 32]", "[16, 64]"),  # a global variable
        ('"elu"', '"tanh"'),  # one in a set
        ('activation="relu"', 'activation="elu"'),  # a default of a function that is called
        ("Dense(width, activation)", "Dense(width, activation, use_bias=False)"),
        ("layers.Dropout", "layers.AlphaDropout"),  # an attribute of a library's module
        ("0.0, 0.5", "0.0, 0.6"),  # a bound
        ('"rate"', '"dropout_rate"'),  # the name of a hyperparameter
        ('["relu" for', '["elu" for'),  # a constant of a list comprehension
        ('{"b", "c", "d", "e"}', '{"b", "c", "d", "f"}'),
        ("layers.Dense(10", "layers.Dense(9"),
    ],
)
def test_what_can_change_a_model_changes_the_digest(module, old, new):
    before = code_digest(partial(module(BUILD).build_model))
    assert before is not None
    assert code_digest(partial(module(changed(BUILD, old, new)).build_model)) != before


@pytest.mark.parametrize(
    "text",
    [
        changed(BUILD, "    parts = ", "    # Some blocks.\n\n    parts = "),
        changed(BUILD, "def block", "print\n\n\ndef block"),
        changed(BUILD, "(hp):\n", '(hp):\n    """Return the model."""\n'),
        changed(BUILD, "names = ", "others = "),  # a local variable
        BUILD + "\nN_TRIALS = 100\n\ndef main():\n    return N_TRIALS\n",  # it uses neither
    ],
)
def test_what_cannot_change_a_model_does_not_change_the_digest(module, text):
    before = code_digest(partial(module(BUILD).build_model))
    assert code_digest(partial(module(text).build_model)) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("depth = 3", "depth = 4"),  # an attribute of the class
        ('"adam"', '"sgd"'),  # a method of a base class
        ("self.width * self.depth", "self.width + self.depth"),
        ("model.fit(*args, **more)", "model.fit(*args, **more, shuffle=False)"),
    ],
)
def test_a_class_counts_with_its_methods_attributes_and_base_classes(module, old, new):
    before = module(TUNED)
    after = module(changed(TUNED, old, new))
    assert code_digest(before.Tuned) != code_digest(after.Tuned)
    assert code_digest(before.Tuned()) != code_digest(after.Tuned())


def test_an_object_counts_with_its_attributes(module):
    tuned = module(TUNED).Tuned
    assert code_digest(tuned(8)) == code_digest(tuned(8))
    assert code_digest(tuned(8)) != code_digest(tuned(9))
    assert code_digest(partial(tuned, width=8)) != code_digest(partial(tuned, width=9))


def test_a_docstring_does_not_count_where_the_function_returns_none(module):
    text = "class Net:\n    def __init__(self):\n        self.width = 3\n"
    documented = changed(text, "        self", '        """Make it."""\n        self')
    assert code_digest(module(text).Net) == code_digest(module(documented).Net)


@pytest.mark.parametrize(
    "build",
    [
        "import own_parts\n\ndef build_model(hp):\n    return own_parts.block(1)\n",
        "from own_parts import block\n\ndef build_model(hp):\n    return block(1)\n",
        "def build_model(hp):\n    import own_parts\n    return own_parts.block(1)\n",
        "def build_model(hp):\n    from own_parts import block\n    return block(1)\n",
    ],
)
def test_modules_that_the_code_imports_count_as_far_as_it_uses_them(module, build):
    def digest(used, unused):
        module(f"def block(n):\n    return n + {used}\n\nOTHER = {unused}\n", "own_parts")
        build_model = module(build, "own_model").build_model
        assert build_model(None) == 1 + used
        return code_digest(build_model)

    before = digest(1, 2)
    assert digest(1, 3) == before
    assert digest(2, 2) != before


@pytest.mark.parametrize("statement", ["from . import parts", "from .. import parts"])
def test_what_a_function_imports_from_its_package_counts(module, tmp_path, statement):
    package = f"own_{tmp_path.name}".replace("-", "_")
    inner = package
    if ".." in statement:
        inner = f"{package}.inner"
    (tmp_path / package / "inner").mkdir(parents=True)
    for folder in (package, f"{package}/inner"):
        (tmp_path / folder / "__init__.py").touch()
    build = f"def build(hp):\n    {statement}\n    return parts.block(1)\n"
    found = []
    for n in (1, 2):
        module(f"def block(n):\n    return n + {n}\n", f"{package}.parts")
        build_model = module(build, f"{inner}.nets").build
        assert build_model(None) == 1 + n
        found.append(code_digest(build_model))
    assert found[0] != found[1]


def test_values_of_pythons_containers_count_and_the_environment_does_not(module, monkeypatch):
    text = "from os import environ\nfrom types import SimpleNamespace\n"
    text += "SIZES = SimpleNamespace(width=3)\nDEPTHS = range(3)\n"
    text += "def build(hp):\n    return environ.get('OWN'), SIZES.width, DEPTHS\n"
    before = code_digest(module(text).build)
    monkeypatch.setenv("OWN_OTHER", "1")
    assert code_digest(module(text).build) == before
    assert code_digest(module(changed(text, "width=3", "width=4")).build) != before
    assert code_digest(module(changed(text, "range(3)", "range(4)")).build) != before


def test_modules_of_a_package_that_name_each_other_are_read_to_an_end(module, tmp_path):
    package = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").touch()
    (tmp_path / package / "sizes.py").touch()
    parts = f"import {package}.sizes\n\ndef block(n):\n    return n + 1\n"
    build = f"import {package}.parts\n\ndef build(hp):\n    return {package}.parts.block(1)\n"
    module(parts, f"{package}.parts")
    before = code_digest(module(build).build)
    module(changed(parts, "n + 1", "n + 2"), f"{package}.parts")
    assert code_digest(module(build).build) not in (None, before)


def test_closures_decorators_and_lambdas_count(module):
    text = """
import functools

def logged(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args)
    return inner

def made(width):
    @logged
    def build_model(hp):
        return width + 1
    return build_model

narrow, wide = made(8), made(9)
first = lambda hp: 1
second = lambda hp: 2
cached = functools.cache(made(8))
"""
    own = module(text)
    assert code_digest(own.narrow) == code_digest(own.made(8))
    assert code_digest(own.narrow) != code_digest(own.wide)
    assert code_digest(own.first) != code_digest(own.second)
    assert code_digest(own.cached) is not None
    other = module(changed(text, "width + 1", "width + 2"))
    assert code_digest(other.narrow) != code_digest(own.narrow)
    assert code_digest(other.cached) != code_digest(own.cached)


@pytest.mark.parametrize(
    ("before", "counting"),
    [
        ("COUNT = 0\n", "    global COUNT\n    COUNT += 1\n"),
        ("MADE = {}\n", "    MADE[len(MADE)] = hp\n"),
        ("LAST = None\n", "    global LAST\n    LAST = object()\n"),
    ],
)
def test_what_building_a_model_changes_does_not_count_and_the_rest_does(module, before, counting):
    text = f"{before}WIDTH = 3\n\ndef build_model(hp):\n{counting}    return WIDTH\n"

    def digest(text):
        own = module(text)
        own.build_model(1)
        found = _code_digest(own.build_model, lambda: own.build_model(2))
        assert _code_digest(own.build_model, lambda: own.build_model(2)) == found
        return found

    assert digest(text) == digest(text)
    assert digest(text) != digest(changed(text, "WIDTH = 3", "WIDTH = 4"))


def test_no_other_model_is_built_for_code_that_reads_no_values(module):
    own = module("from keras import layers\n\ndef build_model(hp):\n    return layers.Dense(3)\n")
    built = []
    assert _code_digest(partial(own.build_model), lambda: built.append(1)) is not None
    assert built == []


def test_a_hypermodel_that_counts_its_models_still_counts_with_its_width(module):
    counting = changed(
        TUNED, "        return self.width", "        self.n += 1\n        return self.width"
    )
    counting = changed(counting, "self.width = width", "self.width, self.n = width, 0")
    hp = keras_tuner.HyperParameters()

    def digest(width):
        made = module(counting).Tuned(width)
        made.build(hp)
        return _code_digest(made, lambda: made.build(hp))

    assert digest(8) == digest(8)
    assert digest(8) != digest(9)


def test_code_of_libraries_has_no_digest():
    assert code_digest(keras.optimizers.Adam) is None
    assert code_digest(partial(keras_tuner.applications.HyperResNet, classes=10)) is None


@pytest.mark.slow
def test_the_digest_is_the_same_in_every_process(tmp_path):
    """The first process compiles the module, the second loads it, and sets have other orders."""
    (tmp_path / "own_everywhere.py").write_text(BUILD + TUNED + "\nmade = Tuned(3)\n")
    code = (
        "import own_everywhere as own; from hpsearch.models.code_digest import code_digest;"
        "print([code_digest(maker, int) for maker in (own.build_model, own.Tuned, own.made)])"
    )
    source = Path(__file__).parents[2] / "src"
    found = set()
    for seed in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": f"{source}", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(ran.stdout.splitlines()[-1])
    assert len(found) == 1
    assert "None" not in found.pop()
