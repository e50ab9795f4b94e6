"""Write docs/troubleshooting.md from the errors that src/ raises: `python docs/troubleshooting.py`.

The cures stand in troubleshooting.yaml, by the file that raises an error; the sentences are read
from the code.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
SRC, PAGE = ROOT / "src" / "hpsearch", ROOT / "docs" / "troubleshooting.md"
CURES, HEAD = PAGE.with_suffix(".yaml"), PAGE.with_suffix(".md.in")
ERRORS = {
    "ConfigError", "DataError", "SpaceError", "ModelError",
    "StorageError", "TrackingError", "UserError", "SearchError",
}  # fmt: skip


class Sentences:
    """The sentences that one file's errors read.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.tree = ast.parse(path.read_text())
        self.functions = {n.name: n for n in ast.walk(self.tree) if isinstance(n, ast.FunctionDef)}

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Return class and sentence of each error."""
        for function in self.functions.values():
            for node in ast.walk(function):
                if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                    name = getattr(node.exc.func, "id", "")
                    if name in ERRORS:
                        yield from ((name, text) for text in self.texts(node.exc.args[0], function))

    def texts(self, node: ast.expr, function: ast.FunctionDef) -> list[str]:
        """Return what an expression may read: what varies is …, a function's answers are followed
        into it.
        """
        if isinstance(node, ast.Constant):
            return [str(node.value)]
        if isinstance(node, ast.JoinedStr):
            parts = [
                str(v.value) if isinstance(v, ast.Constant) else self._value(v, function)
                for v in node.values
            ]
            return ["".join(parts)]
        if isinstance(node, ast.BinOp):
            return [
                left + right
                for left in self.texts(node.left, function)
                for right in self.texts(node.right, function)
            ]
        if isinstance(node, ast.Name):
            found = [
                a.value
                for a in ast.walk(function)
                if isinstance(a, ast.Assign) and _names(a, node.id)
            ]
            return self.texts(found[0], function) if found else ["…"]
        called = self.functions.get(_called(node))
        if called is not None:
            returns = [
                n.value
                for n in ast.walk(called)
                if isinstance(n, ast.Return) and n.value is not None
            ]
            return [text for value in returns for text in self.texts(value, called)]
        return ["…"]

    def _value(self, value: ast.expr, function: ast.FunctionDef) -> str:
        """A prefix that is a constant of the function is written out, such as `expected`."""
        inner = value.value if isinstance(value, ast.FormattedValue) else value
        found = self.texts(inner, function) if isinstance(inner, ast.Name) else ["…"]
        return found[0] if found and " " in found[0] else "…"


def _names(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)


def _called(node: ast.expr) -> str:
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "id", "") or getattr(function, "attr", "")


def sentences() -> dict[str, list[tuple[str, str]]]:
    """Return the errors of each file that raises any, by its path below src/hpsearch."""
    found = {
        str(path.relative_to(SRC)): list(dict.fromkeys(Sentences(path)))
        for path in sorted(SRC.rglob("*.py"))
    }
    return {name: errors for name, errors in found.items() if errors}


def topics() -> list[dict[str, Any]]:
    """Return the topics with their cures."""
    found: list[dict[str, Any]] = yaml.safe_load(CURES.read_text())["topics"]
    return found


def page() -> str:
    """Return the whole page."""
    by_file, lines = sentences(), []
    for part in topics():
        lines += [
            f"## {part['topic']}",
            "",
            *textwrap.wrap(part["cure"], 118, break_on_hyphens=False),
            "",
        ]
        texts = [text.strip() for name in part["files"] for _, text in by_file.get(name, [])]
        lines += [f"- {text}" for text in texts if text.strip("… .")] + [""]
    return HEAD.read_text().replace("<!-- topics -->\n", "\n".join([*lines, ""]))


def without_cure() -> set[str]:
    """Return the files whose errors have no cure here."""
    return sentences().keys() - {name for part in topics() for name in part["files"]}


if __name__ == "__main__":
    if without_cure():
        sys.exit(
            f"These files raise errors that have no cure in {Path(__file__).name}: "
            f"{sorted(without_cure())}"
        )
    PAGE.write_text(page())
