"""ARCHITECTURE.md's table of rooms is true: every file has its place, and imports only what stands
above it.
"""

import ast
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "hpsearch"
MAX_LINES, MAX_FUNCTION_LINES = 500, 50
# Import name of an outside library: how ARCHITECTURE.md writes it, where the two differ.
WRITTEN = {
    "keras": "Keras",
    "keras_tuner": "KerasTuner",
    "mlflow": "MLflow",
    "optuna": "Optuna",
    "numpy": "NumPy",
    "hydra": "Hydra",
    "omegaconf": "Hydra",
    "tensorflow": "TensorFlow",
    "jax": "JAX",
    "sklearn": "scikit-learn",
    "matplotlib": "Matplotlib",
    "scipy": "SciPy",
    "sqlalchemy": "SQLAlchemy",
    "yaml": "PyYAML",
    "mapie": "MAPIE",
    "PIL": "Pillow",
}


def rooms() -> list[tuple[str, str]]:
    """Return each room from bottom to top with what its row says of outside libraries."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    table = text[text.index("| room |") :].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return [
        (room.rstrip("/").replace("\\", ""), row[2]) for row in rows for room in row[0].split(", ")
    ]


def room_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Return the dotted names that a file imports, at whatever depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(path for path in SRC.rglob("*.py") if path.name != "__init__.py")
PLACES = {room: (place, libraries) for place, (room, libraries) in enumerate(rooms())}


def test_every_room_stands_in_the_table_once_and_no_other_does():
    assert sorted(room for room, _ in rooms()) == sorted({room_of(path) for path in FILES})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_a_room_imports_only_rooms_above_it_in_the_table(path):
    mine = PLACES[room_of(path)][0]
    own = {name.split(".")[1] for name in imports(path) if name.startswith("hpsearch.")}
    wrong = [room for room in own & PLACES.keys() if PLACES[room][0] > mine]
    assert not wrong, f"{path.name} imports {wrong}, which stand below it in ARCHITECTURE.md"


def test_no_two_files_import_each_other_however_far_around():
    dotted = {
        f"hpsearch.{'.'.join(path.relative_to(SRC).with_suffix('').parts)}": path for path in FILES
    }
    graph = {name: imports(path) & dotted.keys() for name, path in dotted.items()}
    assert set(TopologicalSorter(graph).static_order()) == dotted.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_a_room_uses_only_the_outside_libraries_of_its_row(path):
    outside = (
        {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names - {"hpsearch"}
    )
    row = PLACES[room_of(path)][1]
    unnamed = [name for name in outside if not re.search(rf"\b{WRITTEN.get(name, name)}\b", row)]
    assert not unnamed, f"the row of {room_of(path)} in ARCHITECTURE.md does not name {unnamed}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions}
    assert {name: n for name, n in long.items() if n > MAX_FUNCTION_LINES} == {}
