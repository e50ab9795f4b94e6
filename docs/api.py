"""Write the reference of the Python interface as HTML: `python docs/api.py FOLDER`.

pdoc makes the pages from the docstrings. A module, class or function without a docstring is an
error, and so is a warning of pdoc.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path

import pdoc
from pdoc.doc import Class, Doc, Function, Module, Namespace

import hpsearch

MODULES = (
    "hpsearch",
    "hpsearch.errors",
    "hpsearch.data.datasets",
    "hpsearch.data.split",
    "hpsearch.metrics",
    "hpsearch.mc_dropout.prediction",
    "hpsearch.mc_dropout.passes",
    "hpsearch.mc_dropout.certificate",
    "hpsearch.evaluation.evaluated_model",
    "hpsearch.evaluation.verdict",
    "hpsearch.jobs.search_result",
    "hpsearch.jobs.evaluate",
    "hpsearch.serving.served_model",
)


def without_docstring(found: Doc) -> Iterator[str]:
    """Return the full names of what is public and has no docstring, in and below an object."""
    if _wants_docstring(found) and not found.docstring.strip():
        yield found.fullname
    if isinstance(found, Namespace):
        for member in found.own_members:
            if not member.name.startswith("_") and not isinstance(member, Module):
                yield from without_docstring(member)


def _wants_docstring(found: Doc) -> bool:
    """A method that another one documents, and what is no code of ours, wants none."""
    if not isinstance(found, Module | Class | Function):
        return False
    if isinstance(found, Function) and found.is_inherited:
        return False
    return found.modulename.split(".")[0] == "hpsearch"


def write(out: Path) -> list[str]:
    """Write the pages into a folder and return the names of what has no docstring."""
    # Imported here, the libraries may warn and start processes, both of which pdoc would not allow.
    for name in MODULES:
        importlib.import_module(name)
    # `hpsearch` imports what it exports on first use, and pdoc only looks at what is there.
    for name in hpsearch.__all__:
        setattr(hpsearch, name, getattr(hpsearch, name))
    pdoc.render.configure(docformat="google", show_source=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc(*MODULES, output_directory=out)
        modules = [Module.from_name(name) for name in MODULES]
    return [name for module in modules for name in without_docstring(module)]


def main() -> None:
    """Write the pages into the folder that the command line names."""
    parser = argparse.ArgumentParser(description=inspect.getdoc(write))
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    missing = write(out)
    if missing:
        parser.error(f"These have no docstring: {', '.join(missing)}.")
    print(f"{out / 'index.html'}: {len(MODULES)} modules")


if __name__ == "__main__":
    main()
