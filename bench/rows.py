"""Rows that every benchmark prints and writes: what was measured, its limit, and the machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src"),
}  # of commands
PACKAGES = (
    "tensorflow",
    "keras",
    "jax",
    "jaxlib",
    "torch",
    "keras-tuner",
    "optuna",
    "mlflow",
    "numpy",
)


@dataclass(frozen=True)
class Row:
    """A line of a table: `value` must be at most (with `least`, at least) `must`; without `must` it
    is only told.
    """

    what: str
    value: float
    unit: str = ""
    must: float | None = None
    least: bool = False
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the row is as it must be; None where nothing was asked."""
        if self.must is None:
            return None
        return self.value >= self.must if self.least else self.value <= self.must

    def __str__(self) -> str:
        sign = ">=" if self.least else "<="
        asked = "" if self.must is None else f"{sign} {self.must:.3g}"
        verdict = {None: "", True: "yes", False: "FALLS SHORT"}[self.holds]
        return f"| {self.what} | {self.value:.3g} {self.unit} | {asked} | {verdict} | {self.note} |"


def versions() -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return where and with what was measured; a load above 0.5 says that the machine was not
    quiet.
    """
    model = [
        line
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    cpu = model[0].partition(": ")[2] if model else platform.processor()
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **versions(),
    }


def show(rows: list[Row]) -> None:
    """Print rows as a table of Markdown."""
    print("| what | measured | must be | holds | note |\n|---|---|---|---|---|")
    for row in rows:
        print(row)


def run(
    name: str,
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], Iterator[Row]],
) -> None:
    """Measure what the command line asks for, print each row as it comes, and write all as JSON."""
    parser.add_argument(
        "--json", type=Path, default=Path("bench/output") / f"{name}.json", help="where to write"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    where = machine() | {"seed": given.seed}
    print(f"{name}: {json.dumps(where)}", flush=True)
    rows = []
    for row in measure(given):
        print(row, flush=True)
        rows.append(row)
    settings = {
        k: v.name if isinstance(v, Path) else str(v) for k, v in vars(given).items() if k != "json"
    }
    written = {
        "machine": where,
        "settings": settings,
        "rows": [asdict(r) | {"holds": r.holds} for r in rows],
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(written, indent=1) + "\n")
