"""Measure hpsearch on this machine's GPU, each part in a process of its own, and write a table.

    python bench/gpu.py              on a machine with a GPU; at most eight minutes
    python bench/gpu.py --small      the same parts with tiny models; on any machine
    python bench/gpu.py --table      write the table again from the results that are there

Results go to the folder that the environment variable OUT names, else to docs/results (with --small
to bench/output): one JSON file for each part, written while it runs, and gpu.md, which is made from
them.

The machine needs Python 3.12 and JAX with CUDA. Where packages that a search needs are missing,
they are installed from .gpu-wheels/, which `bash bench/gpu_wheels.sh` fills on a machine with a
network, into a temporary folder.
"""

from __future__ import annotations

import argparse
import compileall
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpu_parts.driver import ask
from gpu_parts.table import page

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
WHEELS = ROOT / ".gpu-wheels"
LIMIT_S = 480.0  # of all parts together
PRESENT = (
    "jax",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "sklearn",
    "matplotlib",
    "PIL",
    "h5py",
    "grpc",
    "psutil",
)
NEEDED = (
    "keras",
    "keras_tuner",
    "mlflow",
    "optuna",
    "hydra",
)  # come from the wheels where they are missing
INSTALL_LIMIT_S = 120.0
TAIL = 4000  # characters of a failed part's output that are kept
RUNNING: list[subprocess.Popen[bytes]] = []  # the processes that were started


@dataclass(frozen=True)
class Part:
    """A question that one process answers.

    Args:
        name: Its code is `gpu_parts/<name>.py`, its result `gpu_<name>.json`.
        limit_s: Seconds after which the process is killed, unless parts are named on the command
            line or are small.
    """

    name: str
    limit_s: float


# In the order in which they run: what matters most comes first, what may take longest comes last.
PARTS = (
    Part("chip", 60),
    Part("search", 120),
    Part("mc_dropout", 90),
    Part("memory", 90),
    Part("trials", 330),
)


def install(folder: Path) -> float:
    """Install the wheels into `folder` and return how many seconds that took; 0 where nothing is
    missing.

    Raises:
        SystemExit: Packages are missing, and there are no wheels that fit.
    """
    absent = [name for name in PRESENT if importlib.util.find_spec(name) is None]
    if absent:
        sys.exit(
            f"The machine's own Python must have {', '.join(absent)}; {sys.executable} does not."
        )
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not missing:
        return 0.0
    lacking = f"{sys.executable} lacks {', '.join(missing)}"
    wheels = sorted(map(str, WHEELS.glob("*.whl")))
    if not wheels:
        sys.exit(
            f"{lacking}, and {WHEELS.name}/ is empty: run bench/gpu_wheels.sh where there is a "
            f"network."
        )
    begin = time.perf_counter()
    options = [
        "-q",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--no-cache-dir",
        "--target",
        str(folder),
    ]
    command = [sys.executable, "-m", "pip", "install", *options, *wheels]
    if subprocess.run(command, check=False, timeout=INSTALL_LIMIT_S).returncode:
        sys.exit(
            f"{lacking}, and the wheels in {WHEELS.name}/ do not fit: they are for Python 3.12 on "
            f"x86-64."
        )
    compileall.compile_dir(
        folder, quiet=2, workers=0
    )  # so that no part pays for it when it imports them first
    return time.perf_counter() - begin


def environment(site: Path, cache: Path, small: bool) -> dict[str, str]:
    """Return the environment of the parts.

    Args:
        site: A folder with installed packages, which may be empty.
        cache: Where JAX keeps what it has compiled, for all parts; only where they are small, whose
            times mean nothing.
        small: Whether they are.
    """
    paths = [str(ROOT / "src"), str(HERE), str(site), os.environ.get("PYTHONPATH", "")]
    cached = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **(cached if small else {}),
    }


def run_part(
    part: Part, limit_s: float, output: Path, small: bool, variables: dict[str, str]
) -> dict[str, Any]:
    """Run a part for at most `limit_s` seconds; return its results and how it ended."""
    path = output / f"gpu_{part.name}.json"
    path.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        f"gpu_parts.{part.name}",
        "--json",
        str(path),
        "--limit-s",
        str(limit_s),
    ]
    command += ["--small"] if small else []
    begin = time.time()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        started = {**variables, "HPSEARCH_BENCH_BEGIN": str(begin)}
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=started,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        RUNNING.append(process)
        try:
            status = (
                "finished"
                if process.wait(limit_s) == 0
                else f"failed with exit status {process.returncode}"
            )
        except subprocess.TimeoutExpired:
            status = f"stopped after its limit of {limit_s:.0f} s"
        finally:
            end_group(process)
        log.seek(0)
        said = log.read().decode(errors="replace")
    written = json.loads(path.read_text()) if path.exists() else {"rows": []}
    written |= {
        "part": part.name,
        "status": status,
        "seconds": round(time.time() - begin, 1),
        "small": small,
    }
    if status != "finished":
        written["output"] = said if len(said) <= TAIL else said[-TAIL:].partition("\n")[2]
    return written


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started, and wait for it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def commit() -> str | None:
    """Return the commit that is checked out, and whether files differ from it; None where this is
    no checkout.
    """
    git = ["git", "-C", str(ROOT)]
    done = subprocess.run(
        [*git, "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return None
    changed = subprocess.run(
        [*git, "diff", "--quiet", "HEAD", "--", "src", "bench", "conf"], check=False
    ).returncode
    return done.stdout.strip() + (" with changes" if changed else "")


def measure(given: argparse.Namespace, output: Path) -> bool:
    """Run the parts one after the other (small ones two at a time); return whether all of them
    finished.
    """
    deadline = time.monotonic() + given.limit_s
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": given.commit or commit(),
        "gpu": ask(["name"]).get("name"),
    }
    with tempfile.TemporaryDirectory() as folder:
        site, cache = Path(folder) / "site", Path(folder) / "cache"
        about["install_s"] = round(install(site), 1)
        variables = environment(site, cache, given.small)

        def run(part: Part) -> bool:
            left_s = deadline - time.monotonic()
            limit_s = left_s if given.parts or given.small else min(part.limit_s, left_s)
            if limit_s < 1:
                print(
                    f"{part.name}: not run, the {given.limit_s:.0f} s of all parts were over",
                    flush=True,
                )
                return False
            written = run_part(part, limit_s, output, given.small, variables) | about
            (output / f"gpu_{part.name}.json").write_text(json.dumps(written, indent=1) + "\n")
            print(f"{part.name}: {written['status']}, {written['seconds']} s", flush=True)
            print(written.get("output", ""), end="", flush=True)
            return bool(written["status"] == "finished")

        wanted = [part for part in PARTS if not given.parts or part.name in given.parts]
        if not given.small:
            return all([run(part) for part in wanted])
        pool = ThreadPoolExecutor(2)
        try:
            return all(list(pool.map(run, wanted)))
        finally:
            pool.shutdown(cancel_futures=True)


def stop(_number: int, _frame: Any) -> None:
    """End all parts that run, and then this process, when it is interrupted or terminated.

    `run_part` waits for them: a signal may have come in the middle of its own waiting.
    """
    for process in RUNNING:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    sys.exit("Stopped; what was measured so far is in the folder of the results.")


def main() -> int:
    """Measure what the command line asks for and write the table; 1 where a part did not finish."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--small", action="store_true", help="tiny models; the numbers mean nothing"
    )
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument(
        "--parts", nargs="+", choices=[part.name for part in PARTS], help="run these alone"
    )
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="of all parts together")
    parser.add_argument("--commit", help="what the code is, where this is no git checkout")
    parser.add_argument("--output", type=Path, help="the folder of the results")
    given = parser.parse_args()
    usual = ROOT / "bench" / "output" if given.small else ROOT / "docs" / "results"
    output = (given.output or Path(os.environ.get("OUT") or usual)).resolve()
    output.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    all_finished = given.table or measure(given, output)
    found = {part.name: output / f"gpu_{part.name}.json" for part in PARTS}
    results = {name: json.loads(path.read_text()) for name, path in found.items() if path.exists()}
    text = page(results)
    (output / "gpu.md").write_text(text)
    if not given.table:
        print(text)
    return 0 if all_finished else 1


if __name__ == "__main__":
    sys.exit(main())
