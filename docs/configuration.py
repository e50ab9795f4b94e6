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
COMMENT = re.compile(r" # (.*)$")
GLOBAL = "# @package _global_"
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
    """Return each setting of a file: its dotted key, its default and what is said of it."""
    text = path.read_text()
    yield from _settings(yaml.compose(text), "", text)


def _settings(node: yaml.MappingNode, prefix: str, text: str) -> Iterator[tuple[str, str, str]]:
    doc = docstring(next((v.value for k, v in node.value if k.value == "_target_"), ""))
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        if key.value in HIDDEN or name in ("defaults", "hydra"):
            continue
        found = COMMENT.search(text.splitlines()[key.start_mark.line])
        words = told(doc, key.value)
        if found:
            words = found[1]
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            if words:
                yield name, "", words
            yield from _settings(value, f"{name}.", text)
        elif key.value == "claims":
            yield name, "", f"{words.rstrip('.')}: {', '.join(_claims(value))}"
        else:
            yield name, _written(value, text), words


def _claims(node: yaml.SequenceNode) -> Iterator[str]:
    for claim in node.value:
        yield from (f'"{value.value}"' for key, value in claim.value if key.value == "says")


def _written(node: yaml.Node, text: str) -> str:
    """Return a value on one line, as it is written in the file or, from a list of lines, joined."""
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        return f"[{', '.join(_written(item, text) for item in node.value)}]"
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        pairs = (f"{key.value}: {_written(value, text)}" for key, value in node.value)
        return f"{{{', '.join(pairs)}}}"
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        return str(node.value).strip()
    return " ".join(text[node.start_mark.index : node.end_mark.index].split())


def head(path: Path) -> str:
    """Return the comment at the top of a file, as one line, without Hydra's `@package` line."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if line != GLOBAL:
            lines.append(line.lstrip("# "))
    return " ".join(lines)


def docstring(target: str) -> str:
    """Return the docstring of one of our own classes or functions, read without importing it; else
    nothing. That of a class whose settings stand in `settings.py` of its room comes with theirs.
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
    doc = next((ast.get_docstring(n) or "" for n in nodes if n.name == name), "")
    room = module.rpartition(".")[0]
    if "`describes its settings" in doc.replace("settings` describes", "`describes"):
        doc += "\n" + docstring(f"{room}.settings.{name}")
    return doc


def told(doc: str, key: str) -> str:
    """Return what a docstring says of an argument or attribute."""
    found = re.search(rf"^ +{re.escape(key)}: (.+(?:\n {{8,}}.+)*)", doc, re.MULTILINE)
    if found is None:
        return ""
    return re.sub(r"\bNone\b", "null", " ".join(found[1].split()))


def cell(text: str) -> str:
    """Return text that cannot break a table."""
    return text.replace("|", r"\|").replace("<", "&lt;")


def code(text: str) -> str:
    """Return a value as code in a table, or nothing where there is none."""
    if not text:
        return ""
    return f"`{text.replace('|', chr(92) + '|')}`"


def table(path: Path, prefix: str) -> list[str]:
    """Return the settings of a file as a table, or nothing where it has none."""
    rows = [
        f"| `{prefix}{key}` | {code(value)} | {cell(words)} |"
        for key, value, words in settings(path)
    ]
    if not rows:
        return []
    return ["", "| key | default | |", "|---|---|---|", *rows]


def about(path: Path) -> str:
    """Return what a choice is: its file's first comment, or its class's first sentence."""
    target = str(yaml.safe_load(path.read_text()).get("_target_", ""))
    words = head(path) or docstring(target).split("\n")[0]
    if target in ("", "???"):
        return words
    return f"{words} Builds `{target}`."


def group(folder: Path) -> list[str]:
    """Return the section of a group."""
    lines = ["", f"## `{folder.name}`"]
    for path in sorted(folder.glob("*.yaml")):
        prefix = f"{folder.name}."
        if path.read_text().startswith(GLOBAL):
            prefix = ""
        lines += [
            "",
            f"### `{folder.name}={path.stem}`",
            "",
            about(path),
            *table(path, prefix),
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
