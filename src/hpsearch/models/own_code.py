"""Code of a person's own that a model needs: found from the model's classes, copied to where a
version is saved.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import site
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hpsearch.models.moved_names import with_current_names

OURS = Path(__file__).parents[1]
CODE_SUFFIXES = {".py", ".so", ".pyd"}
DATA_SUFFIXES = {".json", ".yaml", ".yml", ".toml", ".txt", ".csv", ".npy", ".npz"}
MAX_DATA_BYTES = 2**20  # of one file: what a package reads beside its code is small
SKIPPED = {"__pycache__", "node_modules", "mlruns", "mlartifacts"}


@dataclass(frozen=True)
class OwnCode:
    """What a model needs beside Keras.

    Attributes:
        modules: To be imported before the model is loaded; their classes register themselves with
            Keras then.
        places: Of a person's own code, by the name that it is imported by: files, or folders of
            packages.
        requirements: Installed distributions that the model's classes or that code come from,
            `name==version`.
    """

    modules: Sequence[str] = ()
    places: dict[str, list[Path]] = field(default_factory=dict)
    requirements: Sequence[str] = ()

    def copy(self, folder: Path) -> list[str]:
        """Copy the code to `folder`, and return the path of each file or package there.

        Of a package go code, and small files of data of common kinds; hidden files, caches and
        large files stay.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name, places in self.places.items():
            for place in places:
                if place.is_file():
                    shutil.copyfile(place, folder / place.name)
                else:
                    _copy_package(place, folder / name)
        return [str(path) for path in sorted(folder.iterdir())]


def own_code(config: Any, makers: Iterable[object] = ()) -> OwnCode:
    """Return what a model needs beside Keras.

    Args:
        config: The model's configuration as Keras writes it, which names the module of each class.
        makers: Classes or functions that made it; where they are a person's own, their module
            registers its classes.
    """
    named = sorted(set(_named_modules(config)))
    made_by = [str(getattr(maker, "__module__", "")) for maker in makers]
    named += [
        name for name in dict.fromkeys(made_by) if name and name not in named and _is_own(name)
    ]
    found: dict[str, Path | None] = {}
    waiting = list(named)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = file = _source(name) if _is_own(name) else None
            waiting += _imports(name, file) if file else []
    tops = sorted({_top(name) for name, file in found.items() if file})
    files = [file for file in found.values() if file]
    places = {top: _holding(_places(top), files) for top in tops}
    others = sorted({_top(name) for name in found} - set(tops))
    requirements = [line for top in others for line in _distributions(top)]
    return OwnCode([name for name in named if name != "__main__"], places, requirements)


def config_of(file: Path) -> Any:
    """Return the configuration in a file that `model.save` has written."""
    with zipfile.ZipFile(file) as saved:
        return json.loads(saved.read("config.json"))


def bring(folder: Path, flavor: dict[str, Any]) -> None:
    """Import the modules that a version's model needs, from the code that the version has brought.

    Args:
        folder: Of the version, as MLflow has saved it.
        flavor: Of the version's file MLmodel.
    """
    if modules := flavor.get("modules"):
        code = str(folder / flavor["code"])
        sys.path[:] = [code, *(path for path in sys.path if path != code)]
        import_all(modules)


def import_all(modules: Iterable[str]) -> None:
    """Import modules for what they register."""
    for name in with_current_names(list(modules)):
        importlib.import_module(name)


def _named_modules(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        module = config.get("module")
        if (
            "class_name" in config
            and isinstance(module, str)
            and _top(module) not in ("keras", "builtins", "")
        ):
            yield module
        config = list(config.values())
    if isinstance(config, list):
        for part in config:
            yield from _named_modules(part)


def _top(name: str) -> str:
    return name.partition(".")[0]


@cache
def _is_own(name: str) -> bool:
    """Return whether a module is neither Python's, nor installed from elsewhere, nor of this
    project.
    """
    top = _top(name)
    if top == "__main__" or top in sys.stdlib_module_names:
        return False
    places = _places(top)
    if not places or any(place == OURS for place in places):
        return False
    if any(not _is_installed(place) for place in places):
        return True
    return any(_is_of_a_folder(distribution) for distribution in _distributions_of(top))


def _places(top: str) -> list[Path]:
    """Return the file of a module, or the folders of a package: one, but for a namespace package."""
    known = sys.modules.get(top)
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # a module that somebody has put together by hand
        spec = getattr(known, "__spec__", None)
    if spec is not None and spec.submodule_search_locations is not None:
        folders = [Path(place).resolve() for place in spec.submodule_search_locations]
        return [folder for folder in folders if folder.is_dir()]
    origin = getattr(spec, "origin", None) or getattr(known, "__file__", None)
    return [Path(origin).resolve()] if origin and Path(origin).is_file() else []


def _is_installed(place: Path) -> bool:
    roots = {*site.getsitepackages(), site.getusersitepackages()}
    roots |= {sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib", "platstdlib")}
    in_root = any(place.is_relative_to(Path(root).resolve()) for root in roots)
    return in_root or any(place.parent.glob("*.dist-info"))


@cache
def names_of_distributions() -> dict[str, list[str]]:
    """Return the installed distributions, wherever they lie, by the module that each gives."""
    return {
        top: sorted(set(names))
        for top, names in importlib.metadata.packages_distributions().items()
    }


def _distributions_of(top: str) -> list[importlib.metadata.Distribution]:
    return [importlib.metadata.distribution(name) for name in names_of_distributions().get(top, [])]


def _is_of_a_folder(distribution: importlib.metadata.Distribution) -> bool:
    """Return whether it was installed from a folder of this machine, so that no other one can
    install it.
    """
    origin = distribution.read_text("direct_url.json")
    return origin is not None and str(json.loads(origin).get("url", "")).startswith("file:")


def _distributions(top: str) -> list[str]:
    if top in sys.stdlib_module_names or top in ("__main__", "hpsearch"):
        return []
    return [f"{one.metadata['Name']}=={one.version}" for one in _distributions_of(top)]


def _holding(places: list[Path], files: list[Path]) -> list[Path]:
    """Return the parts of a namespace package that hold a needed file; other packages have one
    part.
    """
    held = [place for place in places if any(file.is_relative_to(place) for file in files)]
    return held or places


def _source(name: str) -> Path | None:
    """Return a module's file, without importing anything."""
    top, *parts = name.split(".")
    for place in _places(top):
        if place.is_file():
            return place if not parts else None
        path = place.joinpath(*parts)
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if file.is_file():
                return file
        if path.is_dir():  # a namespace package has no file of its own
            return path
    return None


def _imports(name: str, file: Path) -> list[str]:
    """Return the modules that a module's source may import, and the packages that it lies in."""
    parts = name.split(".")
    found = [".".join(parts[:n]) for n in range(1, len(parts))]
    if file.suffix != ".py":
        return found
    package = parts if file.name == "__init__.py" else parts[:-1]
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            found += [source, *(f"{source}.{alias.name}" for alias in node.names)]
    return [name for name in found if name]


def _copy_package(package: Path, target: Path) -> None:
    seen: set[str] = set()
    for folder, folders, files in os.walk(package, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = (
            [] if real in seen else [name for name in folders if _travels(Path(folder, name))]
        )
        for file in (Path(folder, name) for name in files if real not in seen):
            if _travels(file):
                copied = target / file.relative_to(package)
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copied)
        seen.add(real)


def _travels(path: Path) -> bool:
    if path.name.startswith(".") or path.name in SKIPPED:
        return False
    if path.is_dir():
        return not (path / "pyvenv.cfg").exists()
    small = (
        path.suffix in DATA_SUFFIXES and path.is_file() and path.stat().st_size <= MAX_DATA_BYTES
    )
    return path.is_file() and (path.suffix in CODE_SUFFIXES or small)
