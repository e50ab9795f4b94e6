"""Find and copy the user's own code that a saved model needs.

A model may contain layers, losses or metrics of the user's own. Keras names their modules in the
model's configuration. `own_code` finds these modules and everything they import, `OwnCode.copy`
copies them beside a version of the model, and `import_own_code` imports them before the version is
loaded.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import re
import shutil
import site
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, packages_distributions
from pathlib import Path
from typing import Any

import keras

from hpsearch.models.moved_names import with_current_names


@dataclass(frozen=True)
class OwnCode:
    """The code that a model needs besides Keras.

    Attributes:
        modules: The modules to import before the model is loaded. They register their classes with
            Keras when they are imported.
        places: Files, or folders of packages, of the user's own code, by the name that imports
            them.
        requirements: The installed distributions that the model's classes or the own code come
            from, as `name==version`.
    """

    modules: list[str]
    places: dict[str, list[Path]]
    requirements: list[str]

    def copy(self, folder: Path) -> list[str]:
        """Copy the code to `folder`, and return the path of each file or package there.

        Of a package, code and small data files of common kinds are copied. Hidden files, caches
        and large files are not.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name, places in self.places.items():
            for place in places:
                if place.is_file():
                    shutil.copyfile(place, folder / place.name)
                else:
                    _copy_package(place, folder / name)
        return [str(path) for path in sorted(folder.iterdir())]


def own_code(config: object, makers: Iterable[object] = ()) -> OwnCode:
    """Return the code that a model needs besides Keras.

    Args:
        config: The model's configuration as Keras writes it, which names the module of each class.
        makers: Classes or functions that made the model. If they are the user's own, importing
            their modules registers the model's classes.
    """
    modules = sorted(set(_named_modules(config)))
    for maker in makers:
        name = str(getattr(maker, "__module__", ""))
        if name not in modules and is_own(name):
            modules.append(name)
    places: dict[str, list[Path]] = {}
    requirements = []
    needed_files = _needed_files(modules)
    for top, files in sorted(needed_files.items()):
        if not files:
            requirements += _requirements(top)
            continue
        # A namespace package has several folders, of which those with a needed file are kept.
        places[top] = []
        for place in _places(top):
            if any(file.is_relative_to(place) for file in files):
                places[top].append(place)
    if "__main__" in modules:
        modules.remove("__main__")
    return OwnCode(modules, places, requirements)


def _needed_files(modules: list[str]) -> dict[str, list[Path]]:
    """Return the own files of modules and of all that they import, by the first part of the name.

    A module that is not the user's own has no files.
    """
    files: dict[str, list[Path]] = {}
    seen = set()
    waiting = modules.copy()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        found = files.setdefault(_top(name), [])
        file = _own_file(name)
        if file is not None:
            found.append(file)
            waiting += _imports(name, file)
    return files


def _requirements(top: str) -> list[str]:
    if top in ("__main__", "hpsearch") or top in sys.stdlib_module_names:
        return []
    found = []
    for distribution in _distributions(top):
        name = distribution.metadata["Name"]
        found.append(f"{name}=={distribution.version}")
    return found


def config_of(file: Path) -> dict[str, object]:
    """Return the configuration in a file that `model.save` has written."""
    with zipfile.ZipFile(file) as saved:
        config: dict[str, object] = json.loads(saved.read("config.json"))
    return config


def import_own_code(folder: Path, flavor: Mapping[str, Any]) -> None:
    """Import the modules that the model of a version needs, from the code saved with the version.

    Args:
        folder: The folder of the version, as MLflow has saved it.
        flavor: The entry `keras` of the file MLmodel in that folder.
    """
    modules = flavor.get("modules")
    if not modules:
        return
    code = str(folder / flavor["code"])
    with _first_on_path(code):
        import_modules(modules)


@contextmanager
def _first_on_path(folder: str) -> Iterator[None]:
    """Import from a folder first, and afterwards only what is found nowhere else.

    Functions of the saved code may import more of it later. The person's own modules of the same
    names come before it then.
    """
    others = [path for path in sys.path if path != folder]
    sys.path[:] = [folder, *others]
    try:
        yield
    finally:
        others = [path for path in sys.path if path != folder]
        sys.path[:] = [*others, folder]


def import_modules(modules: Iterable[str]) -> None:
    """Import modules, so that they register their classes with Keras."""
    for name in with_current_names(list(modules)):
        importlib.import_module(name)


def names_in_main(config: object) -> list[str]:
    """Return the names of a model's classes and functions that `__main__` has defined.

    That is a script that runs, or a notebook. No other process can import them.

    Args:
        config: The model's configuration as Keras writes it.
    """
    found = set()
    parts: Iterable[object] = ()
    if isinstance(config, list):
        parts = config
    if isinstance(config, dict):
        parts = config.values()
        name = _name_in_main(config)
        if name:
            found.add(name)
    for part in parts:
        found.update(names_in_main(part))
    return sorted(found)


def _name_in_main(config: Mapping[str, object]) -> str:
    """Return the name of what a configuration describes if `__main__` has defined it.

    Keras writes no module for a class of `__main__`, and no true one for functions.
    """
    registered_name = config.get("registered_name")
    if "class_name" not in config or not isinstance(registered_name, str):
        return ""
    known = keras.saving.get_registered_object(registered_name)
    is_in_main = getattr(known, "__module__", None) == "__main__"
    if config.get("module") is not None and not is_in_main:
        return ""
    return registered_name.rpartition(">")[2]


def _named_modules(config: object) -> Iterator[str]:
    """Yield the module of each class in a configuration that is not one of Keras's."""
    parts: Iterable[object] = ()
    if isinstance(config, list):
        parts = config
    if isinstance(config, dict):
        parts = config.values()
        module = config.get("module")
        if "class_name" in config and isinstance(module, str) and _is_named(module):
            yield module
    for part in parts:
        yield from _named_modules(part)


def _is_named(module: str) -> bool:
    return _top(module) not in ("keras", "builtins", "")


def _top(name: str) -> str:
    return name.partition(".")[0]


@cache
def is_own(name: str) -> bool:
    """Return whether a module is the user's own.

    It is not if it belongs to Python or to hpsearch, or is installed. A distribution installed
    from a folder of this machine is the user's own nevertheless.
    """
    top = _top(name)
    if top == "__main__" or top in sys.stdlib_module_names:
        return False
    places = _places(top)
    package = Path(__file__).parents[1]
    if not places or package in places:
        return False
    if not all(_is_installed(place) for place in places):
        return True
    distributions = _distributions(top)
    return any(_is_of_a_folder(distribution) for distribution in distributions)


def _places(top: str) -> list[Path]:
    """Return the file of a module, or the folder of a package; a namespace package has several."""
    known = sys.modules.get(top)
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # a module that a program has made without a file
        spec = getattr(known, "__spec__", None)
    if spec is not None and spec.submodule_search_locations is not None:
        folders = [Path(place).resolve() for place in spec.submodule_search_locations]
        return [folder for folder in folders if folder.is_dir()]
    origin = getattr(spec, "origin", None)
    if not origin:
        origin = getattr(known, "__file__", None)
    if not origin:
        return []
    file = Path(origin)
    if not file.is_file():
        return []
    return [file.resolve()]


def is_own_file(name: str) -> bool:
    """Return whether code of a file is the user's own, as a traceback names the file.

    A cell of a notebook has a name as if it were a file; it is the user's own, too.
    """
    if re.match(r"<ipython-input-|.*[/\\]ipykernel_\d+[/\\]", name):
        return True
    path = Path(name)
    if name.startswith("<") or "__autograph_generated_file" in path.name or not path.is_file():
        return False
    place = path.resolve()
    if place.is_relative_to(Path(__file__).parents[1]):
        return False
    return not any(place.is_relative_to(root) for root in _roots_of_libraries())


def _is_installed(place: Path) -> bool:
    if any(place.is_relative_to(root) for root in _roots_of_libraries()):
        return True
    return any(place.parent.glob("*.dist-info"))


@cache
def _roots_of_libraries() -> list[Path]:
    """Return the folders of Python, of installed packages and of their commands."""
    roots = [*site.getsitepackages(), site.getusersitepackages()]
    for kind in ("purelib", "platlib", "stdlib", "platstdlib", "scripts"):
        roots.append(sysconfig.get_path(kind))
    return [Path(root).resolve() for root in roots]


@cache
def _names_of_distributions() -> Mapping[str, list[str]]:
    """Return the names of the installed distributions by the top-level module that they provide."""
    return packages_distributions()


def _distributions(top: str) -> list[Distribution]:
    names = _names_of_distributions().get(top, [])
    unique_names = sorted(set(names))
    return [Distribution.from_name(name) for name in unique_names]


def _is_of_a_folder(distribution: Distribution) -> bool:
    """Return whether it was installed from a folder, which another machine does not have."""
    origin = distribution.read_text("direct_url.json")
    if origin is None:
        return False
    recorded = json.loads(origin)
    url = recorded.get("url", "")
    return str(url).startswith("file:")


def _own_file(name: str) -> Path | None:
    """Return the file of an own module without importing it, or None for any other module.

    A namespace package has no file of its own; its folder is returned.
    """
    if not is_own(name):
        return None
    top, *parts = name.split(".")
    for place in _places(top):
        if place.is_file():
            if parts:
                return None
            return place
        path = place.joinpath(*parts)
        of_package = path / "__init__.py"
        of_module = path.with_name(f"{path.name}.py")
        for file in (of_package, of_module):
            if file.is_file():
                return file
        if path.is_dir():
            return path
    return None


def _imports(name: str, file: Path) -> list[str]:
    """Return the modules that a module's source may import, and the packages that contain it."""
    parts = name.split(".")
    found = []
    for n in range(1, len(parts)):
        found.append(".".join(parts[:n]))
    if file.suffix != ".py":
        return found
    package = parts
    if file.name != "__init__.py":
        package = parts[:-1]
    tree = ast.parse(file.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += _imported_from(node, package)
    return [name for name in found if name]


def _imported_from(node: ast.ImportFrom, package: list[str]) -> list[str]:
    """Return the module of a statement `from ... import ...`, and its names as if modules."""
    parts: list[str] = []
    if node.level:
        n_kept = len(package) + 1 - node.level
        parts += package[:n_kept]
    if node.module:
        parts.append(node.module)
    source = ".".join(parts)
    names = [f"{source}.{alias.name}" for alias in node.names]
    return [source, *names]


def _copy_package(package: Path, target: Path) -> None:
    seen = set()
    for folder, folders, files in os.walk(package, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if _is_copied(Path(folder, name))]
        for name in files:
            file = Path(folder, name)
            if _is_copied(file):
                copied = target / file.relative_to(package)
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copied)


def _is_copied(path: Path) -> bool:
    skipped = ("__pycache__", "node_modules", "mlruns", "mlartifacts")
    if path.name.startswith(".") or path.name in skipped:
        return False
    if path.is_dir():
        return not (path / "pyvenv.cfg").exists()
    if not path.is_file():
        return False
    if path.suffix in (".py", ".so", ".pyd"):
        return True
    data = (".json", ".yaml", ".yml", ".toml", ".txt", ".csv", ".npy", ".npz")
    if path.suffix not in data:
        return False
    return path.stat().st_size <= 2**20  # the data that a package reads beside its code is small


@cache
def is_library(module: str | None) -> bool:
    """Return whether a module is part of Python, of an installed library or of this package."""
    root = _top(module or "")
    if root in sys.stdlib_module_names or root == "hpsearch":
        return True
    loaded = sys.modules.get(root)
    file = getattr(loaded, "__file__", None) or ""
    if "site-packages" in file or "dist-packages" in file:
        return True
    return root in _names_of_distributions()
