"""Write docs/configuration.md from conf/ and from the docstrings of what it builds: `python
docs/configuration.py`.

A setting's words are the comment beside it; where it has none, what its constructor's docstring
says of it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
CONF, PAGE = ROOT / "conf", ROOT / "docs" / "configuration.md"
COMMANDS = ("search", "report", "evaluate", "compare", "ablate")
SETTING = re.compile(r"^(?P<indent> *)(?P<key>[\w@/]+):(?P<value>[^#]*?)(?: +# (?P<comment>.*))?$")
HIDDEN = ("_target_", "_partial_", "_self_")
INTRODUCTION = (
    "# Configuration\n"
    "\n"
    "Written by `python docs/configuration.py` from `conf/` and the constructors; not by hand.\n"
    "\n"
    "Every setting is a key, given as `KEY=VALUE` behind a command, or `-P KEY=VALUE` behind "
    "`mlflow run`. A group is chosen\n"
    "as `GROUP=CHOICE`, and its settings are `GROUP.KEY=VALUE`: "
    "`optimizer=sgd optimizer.weight_decay=1e-4`. A key that is\n"
    "not listed is added with `++KEY=VALUE`. `null` is none; `${key}` is the value of another "
    "key.\n"
    "Behind `mlflow run`, whose parameters have plain names, one parameter holds all other words: "
    "`-P overrides='++KEY=VALUE ~GROUP --config-dir=DIR'`.\n"
)


def settings(path: Path) -> Iterator[tuple[str, str, str]]:
    """Return each setting of a file: its dotted key, its default and the comment beside it."""
    parents: list[tuple[int, str]] = []
    for line in path.read_text().splitlines():
        found = SETTING.match(line)
        if found is None:
            continue
        indent, key, value = len(found["indent"]), found["key"], found["value"].strip()
        parents = [(depth, name) for depth, name in parents if depth < indent]
        dotted = ".".join([*(name for _, name in parents), key])
        if value in ("", ">-"):
            parents.append((indent, key))
        if (
            (value or found["comment"])
            and key not in HIDDEN
            and dotted.split(".")[0] not in ("defaults", "hydra")
        ):
            yield dotted, value, found["comment"] or ""


def head(path: Path) -> str:
    """Return the comment at the top of a file, as one line."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def docstring(target: str) -> str:
    """Return the docstring of one of our own classes or functions, read without importing it; else
    nothing.
    """
    module, _, name = target.rpartition(".")
    path = ROOT / "src" / f"{module.replace('.', '/')}.py"
    if not path.is_file():
        return ""
    nodes = [
        n
        for n in ast.parse(path.read_text()).body
        if isinstance(n, (ast.ClassDef, ast.FunctionDef))
    ]
    return next((ast.get_docstring(n) or "" for n in nodes if n.name == name), "")


def told(doc: str, key: str) -> str:
    """Return what a docstring says of an argument or attribute."""
    found = re.search(rf"^ +{re.escape(key)}: (.+(?:\n {{8,}}.+)*)", doc, re.MULTILINE)
    return re.sub(r"\s+", " ", found[1]) if found else ""


def cell(text: str) -> str:
    """Return text that cannot break a table."""
    return text.replace("|", r"\|").replace("<", "&lt;")


def table(path: Path, prefix: str) -> list[str]:
    """Return the settings of a file as a table, or nothing where it has none."""
    doc = docstring(str(yaml.safe_load(path.read_text()).get("_target_", "")))
    rows = [
        f"| `{prefix}{key}` | {f'`{cell(value)}`' if value else ''} | "
        f"{cell(comment or told(doc, key))} |"
        for key, value, comment in settings(path)
    ]
    return ["", "| key | default | |", "|---|---|---|", *rows] if rows else []


def about(path: Path) -> str:
    """Return what a choice is: its file's first comment, or its class's first sentence."""
    target = str(yaml.safe_load(path.read_text()).get("_target_", ""))
    first = docstring(target).split("\n")[0]
    return f"{head(path) or first}{f' Builds `{target}`.' if target else ''}"


def group(folder: Path) -> list[str]:
    """Return the section of a group."""
    lines = ["", f"## `{folder.name}`"]
    for path in sorted(folder.glob("*.yaml")):
        lines += [
            "",
            f"### `{folder.name}={path.stem}`",
            "",
            about(path),
            *table(path, f"{folder.name}."),
        ]
    return lines


def page() -> str:
    """Return the whole page."""
    lines = [INTRODUCTION, "## Commands"]
    for name in COMMANDS:
        path = CONF / f"{name}.yaml"
        groups = [
            key
            for item in yaml.safe_load(path.read_text())["defaults"]
            if isinstance(item, dict)
            for key in item
        ]
        chosen = ", ".join(
            f"`{key.removeprefix('optional ')}`" for key in groups if not key.startswith("override")
        )
        lines += [
            "",
            f"### `hpsearch {name}`",
            "",
            head(path),
            "",
            f"Groups: {chosen}.",
            *table(path, ""),
        ]
    for folder in sorted(path for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"):
        lines += group(folder)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
