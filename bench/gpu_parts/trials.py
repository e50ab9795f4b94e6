"""Trials an hour and the step against the chip's limits: all nets and batch sizes, measured one
after the other.

A net with a batch size has a process of its own (`trial_arms`). All of them compile at the same
time. Then each one measures alone, while the others are paused; one that has not compiled in time
goes on when its turn comes. The time that is left is shared equally among those whose turn is still
to come.
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
PREPARING_SHARE = 1 / 3  # of the time, at most
MARGIN_S = 5.0  # before the end of the time, to write the result
TAIL = 1500  # characters of a failed process's output that are kept


@dataclass
class Child:
    """The process of one net with one batch size.

    Args:
        arch: The net.
        batch_size: Examples of a step.
        path: Where it writes its result.
        log: Where its output goes.
        process: The running process; it begins to measure when it reads a line from its standard
            input.
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
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT
            )
        return cls(arch, batch_size, path, log, process)

    def content(self) -> dict[str, Any]:
        """Return what it has written so far."""
        return json.loads(self.path.read_text()) if self.path.exists() else {"rows": []}

    @property
    def is_ready(self) -> bool:
        """Whether it has compiled what it measures."""
        return bool(self.content().get("is_ready"))

    def pause(self) -> None:
        """Let it use neither the processor nor the GPU."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGSTOP)

    def measure(self, limit_s: float) -> str:
        """Let it go on, for `limit_s` seconds at most, and return how it ended."""
        if limit_s <= 0:
            self.process.kill()
            return "killed, the time of the part was over"
        try:
            self.process.send_signal(signal.SIGCONT)
            self.process.communicate(b"measure\n", timeout=limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return f"killed after its share of {limit_s:.0f} s"
        status = self.process.returncode
        return "finished" if status == 0 else f"failed with exit status {status}"

    def about(self, status: str, was_ready: bool) -> dict[str, Any]:
        """Return what is known of it beside its rows."""
        known = {
            "arch": self.arch,
            "batch_size": self.batch_size,
            "status": status,
            "was_ready": was_ready,
        }
        known |= {
            key: value for key, value in self.content().items() if key not in ("rows", "is_ready")
        }
        if status != "finished":
            known["output"] = self.log.read_text(errors="replace")[-TAIL:]
        return known


def prepare(children: list[Child], limit_s: float) -> float:
    """Wait until all are ready or have ended, for `limit_s` seconds at most; pause them and return
    the seconds.
    """
    begin = time.monotonic()
    while time.monotonic() - begin < limit_s:
        if all(child.is_ready or child.process.poll() is not None for child in children):
            break
        time.sleep(0.2)
    for child in children:
        child.pause()
    return time.monotonic() - begin


def main() -> None:
    """Prepare all, then measure each in turn."""
    given = command_line(__doc__).parse_args()
    deadline = time.monotonic() + given.limit_s - MARGIN_S
    result = Result(given.json)
    result.set(processes=[])
    batch_sizes = BATCH_SIZES[:1] if given.small else BATCH_SIZES
    with tempfile.TemporaryDirectory() as name:
        children = [
            Child.start(arch, size, given.small, Path(name))
            for arch in NETS
            for size in batch_sizes
        ]
        result.set(preparing_s=prepare(children, given.limit_s * PREPARING_SHARE))
        for n_before, child in enumerate(children):
            was_ready = child.is_ready
            status = child.measure((deadline - time.monotonic()) / (len(children) - n_before))
            for row in child.content()["rows"]:
                result.add(arch=child.arch, batch_size=child.batch_size, **row)
            result.set(processes=[*result.content["processes"], child.about(status, was_ready)])


if __name__ == "__main__":
    main()
