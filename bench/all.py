"""Run all benchmarks of speed, each in a process of its own, and print every row in one table.

    python bench/all.py            some fifty minutes on two quiet cores
    python bench/all.py --quick    to see that all of it runs; its numbers mean nothing

A row that falls short says so. bench/output/all.json holds the rows with machine, versions and
seeds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from rows import ENVIRONMENT, Row, machine, show

HERE = Path(__file__).resolve().parent
ALL = ("start", "search", "memory", "tracking", "fused", "training")
QUICK_SEARCH = (
    "--record", "6", "--epochs", "4", "--seeds", "2",
    "--overrides", "data=digits", "arch=elu", "arch.n_hidden=1", "--curves",
)  # fmt: skip


def main() -> int:
    """Run what the command line names; 1 where a benchmark did not end well."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--only", nargs="+", choices=ALL, default=ALL, help="the others' rows stay as last measured"
    )
    parser.add_argument("--output", type=Path, default=HERE / "output")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    written, rows, failed = {"machine": machine(), "benchmarks": {}}, [], []
    for name in given.only:
        path = given.output / f"{name}.json"
        path.unlink(missing_ok=True)
        options = {
            "start": ["--repeats", "1"],
            "search": [*QUICK_SEARCH, str(given.output / "curves.json")],
        }
        more = options.get(name, ["--quick"]) if given.quick else []
        environment = {**ENVIRONMENT, "TF_CPP_MIN_LOG_LEVEL": "3"}
        if name == "fused":
            environment["KERAS_BACKEND"] = "jax"
        command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(path), *more]
        if subprocess.run(command, env=environment, check=False).returncode:
            failed.append(name)
    for name in ALL:
        if (path := given.output / f"{name}.json").exists():
            written["benchmarks"][name] = found = json.loads(path.read_text())
            rows += [
                Row(**{key: value for key, value in row.items() if key != "holds"})
                for row in found["rows"]
            ]
    print()
    show(rows)
    (given.output / "all.json").write_text(json.dumps(written, indent=1) + "\n")
    for name in failed:
        print(f"{name} did not end well; see above.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
