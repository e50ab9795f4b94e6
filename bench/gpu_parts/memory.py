"""Whether two processes can share the GPU: with the settings that the product makes, and with JAX's
own.

Two workers of one study run at the same time, by the command that people type. For comparison, two
processes of plain JAX run at the same time, which by default take three quarters of the memory
each.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpu_parts.driver import ask
from gpu_parts.result import Result, command_line

SEARCH = ("data=digits", "arch=selu", "training.epochs=5", "budget.n_trials=6", "pruner=none")
SEARCH_SMALL = (
    "data=digits",
    "arch=selu",
    "training.epochs=1",
    "budget.n_trials=2",
    "pruner=none",
    "arch.n_hidden=1",
)
N_PROCESSES = 2
TAIL = 1500  # characters of a failed process's output that are kept
PLAIN = """
import jax.numpy as jnp, time
x = jnp.ones(({n}, {n}))
(x @ x).block_until_ready()
time.sleep({stay_s})
(x @ x).block_until_ready()
"""


def used_mib() -> int | None:
    """Return how much of the GPU's memory all processes hold, None where there is no GPU."""
    answer = ask(["memory.used"])
    return int(answer["memory.used"]) if answer else None


def together(command: list[str], folder: Path, variables: dict[str, str]) -> dict[str, Any]:
    """Run `command` in several processes at the same time; return how each ended and the most
    memory they held.
    """
    begin = time.perf_counter()
    before = used_mib()
    logs = [folder / f"log{number}" for number in range(N_PROCESSES)]
    processes = []
    for log in logs:
        with log.open("w") as file:
            processes.append(
                subprocess.Popen(
                    command, cwd=folder, env=variables, stdout=file, stderr=subprocess.STDOUT
                )
            )
    most = before
    while any(process.poll() is None for process in processes):
        most = max(most, used_mib() or 0) if most is not None else None
        time.sleep(0.5)
    ended = [process.returncode for process in processes]
    row = {
        "exit_statuses": ended,
        "seconds": time.perf_counter() - begin,
        "before_mib": before,
        "used_mib": most,
    }
    failed = [log.read_text()[-TAIL:] for log, status in zip(logs, ended, strict=True) if status]
    return row | ({"output": failed} if failed else {})


def trials(folder: Path) -> dict[str, int]:
    """Return how many runs of trials ended with each of MLflow's statuses; nothing where no run was
    made.
    """
    path = folder / "mlflow.db"
    if not path.exists():
        return {}
    query = (
        "select status, count(*) from runs join tags on runs.run_uuid = tags.run_uuid "
        "where tags.key = 'hpsearch.kind' and tags.value = 'trial' group by status"
    )
    with sqlite3.connect(path) as database:
        try:
            return dict(database.execute(query).fetchall())
        except sqlite3.OperationalError:  # the tables were never made
            return {}


def main() -> None:
    """Run the pairs one after the other."""
    given = command_line(__doc__).parse_args()
    result = Result(given.json)
    n, stay_s = (256, 1) if given.small else (8192, 5)
    plain = [sys.executable, "-c", PLAIN.format(n=n, stay_s=stay_s)]
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith("XLA_PYTHON_CLIENT")
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [
            sys.executable,
            "-m",
            "hpsearch",
            "search",
            *(SEARCH_SMALL if given.small else SEARCH),
        ]
        row = together(command, folder, inherited)
        result.add(
            what="two workers of one study, the product's settings", **row, trials=trials(folder)
        )
        for what, setting in (
            ("JAX's default", {}),
            ("no preallocation", {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}),
        ):
            result.add(
                what=f"two processes of plain JAX, {what}",
                **together(plain, folder, inherited | setting),
            )


if __name__ == "__main__":
    main()
