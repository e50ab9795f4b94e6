"""Trials an hour and the step against the chip's limits: all nets and batch sizes, measured one after the other.

A net with a batch size has a process of its own (`trial_arms`). All of them compile at the same time; then each
measures alone, while the others wait, and one that has not compiled yet is stopped.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_parts.result import SMALL, Result, command_line

NETS = ("elu", "cnn")
BATCH_SIZES = (32, 128, 1024)
PREPARING_S = 90.0  # for all together
MEASURING_S = 60.0  # for each
MARGIN_S = 3.0  # before the end of the time, to write the result


@dataclass
class Child:
    """The process of one net with one batch size.

    Args:
        arch: The net.
        batch_size: Examples of a step.
        path: Where it writes its result.
        log: Where its output goes.
        process: It; it measures when it reads a line.
    """

    arch: str
    batch_size: int
    path: Path
    log: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, arch: str, batch_size: int, small: bool, folder: Path) -> Child:
        """Start the process."""
        path = folder / f"{arch}-{batch_size}.json"
        command = [
            sys.executable,
            "-m",
            "gpu_parts.trial_arms",
            "--json",
            str(path),
            "--arch",
            arch,
        ]
        command += ["--batch-size", str(batch_size), *([SMALL] if small else [])]
        log = path.with_suffix(".log")
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT)
        return cls(arch, batch_size, path, log, process)

    def content(self) -> dict[str, Any]:
        """Return what it has written so far."""
        return json.loads(self.path.read_text()) if self.path.exists() else {"rows": []}

    def is_preparing(self) -> bool:
        """Return whether it has still to compile."""
        return self.process.poll() is None and not self.content().get("is_ready")

    def measure(self, limit_s: float) -> str:
        """Let it go on, for `limit_s` seconds at most, and return how it ended."""
        try:
            self.process.send_signal(signal.SIGCONT)
            self.process.communicate(b"measure\n", timeout=limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return f"stopped after {limit_s:.0f} s"
        status = self.process.returncode
        return "finished" if status == 0 else f"failed with exit status {status}"


def prepare(children: list[Child], limit_s: float) -> float:
    """Wait until all are prepared, for `limit_s` seconds at most; hold them all and return the seconds."""
    begin = time.monotonic()
    while time.monotonic() - begin < limit_s and any(child.is_preparing() for child in children):
        time.sleep(0.2)
    for child in children:
        if child.process.poll() is None:
            child.process.send_signal(signal.SIGSTOP)
    return time.monotonic() - begin


def measured(child: Child, limit_s: float, result: Result) -> dict[str, Any]:
    """Let a child measure, add its rows to `result`, and return what else is known of it."""
    was_ready = not child.is_preparing()
    status = child.measure(limit_s)
    content = child.content()
    for row in content["rows"]:
        result.add(arch=child.arch, batch_size=child.batch_size, **row)
    about = {"arch": child.arch, "batch_size": child.batch_size, "status": status}
    about |= {"was_ready": was_ready}
    about |= {key: value for key, value in content.items() if key not in ("rows", "is_ready")}
    if status != "finished":
        about["output"] = child.log.read_text(errors="replace")[-1500:]
    return about


def main() -> None:
    """Prepare all, then measure each in turn."""
    given = command_line(__doc__).parse_args()
    deadline = time.monotonic() + given.limit_s - MARGIN_S
    result = Result(given.json)
    processes: list[dict[str, Any]] = []
    batch_sizes = BATCH_SIZES[:1] if given.small else BATCH_SIZES
    with tempfile.TemporaryDirectory() as name:
        children = [Child.start(arch, size, given.small, Path(name)) for arch in NETS for size in batch_sizes]
        result.set(preparing_s=prepare(children, min(PREPARING_S, given.limit_s / 2)))
        for child in children:
            processes.append(measured(child, min(MEASURING_S, max(0.0, deadline - time.monotonic())), result))
            result.set(processes=processes)


if __name__ == "__main__":
    main()
