"""The result of one part of bench/gpu.py: rows that are on disk as soon as they are measured."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SMALL = "--small"


class Result:
    """Rows of numbers in a JSON file, which is written anew with each row.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = {"rows": []}

    def add(self, **row: Any) -> None:
        """Add a row."""
        self.content["rows"].append({name: _rounded(value) for name, value in row.items()})
        self.write()

    def set(self, **values: Any) -> None:
        """Add or replace values beside the rows."""
        self.content |= {name: _rounded(value) for name, value in values.items()}
        self.write()

    def write(self) -> None:
        """Write the file, so that a reader finds the old content or the new one, whole."""
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps(self.content, indent=1) + "\n")
        beside.replace(self.path)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def command_line(description: str | None) -> argparse.ArgumentParser:
    """Return the parser of the options that all parts take."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="where the result goes")
    parser.add_argument(
        "--limit-s", type=float, default=600.0, help="seconds after which it is killed"
    )
    parser.add_argument(SMALL, action="store_true", help="tiny models")
    return parser


def device() -> dict[str, Any]:
    """Return what JAX computes on."""
    import jax  # noqa: PLC0415 (a part sets its environment first)

    first = jax.devices()[0]
    return {"platform": first.platform, "kind": first.device_kind, "count": jax.device_count()}


def peak_bytes() -> int | None:
    """Return the most memory that this process has held on the device so far; None where nobody
    counts it.
    """
    import jax  # noqa: PLC0415 (a part sets its environment first)

    counted = jax.devices()[0].memory_stats()
    return counted["peak_bytes_in_use"] if counted else None


def seconds(run: Callable[[], object]) -> float:
    """Return the seconds that `run` takes; it must wait for the device itself."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
