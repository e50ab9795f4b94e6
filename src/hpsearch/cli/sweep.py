"""The jobs of a sweep, with whatever launcher: how each ended, and Ctrl-C.

Each job writes how it ended into a file in its own folder, where the process that has launched the
sweep finds it, whether the job ran in that process, in another one or on another machine. A job
that died has written only that it began. No job ends with an exception, since Hydra would then
leave out the jobs that follow.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar, cast

import psutil
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hpsearch.cli.log import Log, note
from hpsearch.cli.one_override import jobs_of
from hpsearch.cli.terminal import Terminal
from hpsearch.study.worker_process import this_process

_FILE = "end.json"

# Not empty once Ctrl-C has reached this process, which then starts no other job of its sweep.
_interrupts: list[int] = []


@dataclass
class Job:
    """A job of a sweep and its end.

    Attributes:
        number: Its number in the sweep, from 0.
        overrides: Its overrides.
        folder: Its folder.
        end: How it ended, in words for people; None where it has not ended.
        exit_status: The exit status that it would have as a command of its own.
        result: What it has found, for `--json`.
    """

    number: int
    overrides: Sequence[str]
    folder: str = ""
    end: str | None = None
    exit_status: int = 1
    result: Mapping[str, object] | None = None

    @classmethod
    def of_this_process(cls) -> Job | None:
        """Return the job of a sweep that Hydra runs here now; None where it runs no sweep."""
        if not HydraConfig.initialized():
            return None
        hydra = HydraConfig.get()
        if hydra.mode != RunMode.MULTIRUN:
            return None
        return cls(hydra.job.num, list(hydra.overrides.task), hydra.runtime.output_dir)

    def begin(self) -> None:
        """Write that the job has begun, and let Ctrl-C interrupt it.

        Raises:
            KeyboardInterrupt: The sweep was interrupted before.
        """
        self._write()
        if _interrupts:
            raise KeyboardInterrupt
        if not _is_beside(HydraConfig.get().launcher):
            return
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, _interrupt)
            # A Ctrl-C that has waited is raised here.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def finish(
        self,
        end: str,
        exit_status: int,
        result: Mapping[str, object],
    ) -> None:
        """Write how the job has ended; Ctrl-C is only noted then, until the next job begins."""
        if _is_beside(HydraConfig.get().launcher):
            _note_interrupts()
        this_process.is_interrupted = False
        if exit_status == 130:
            _interrupts.append(signal.SIGINT)
        self.end = end
        self.exit_status = exit_status
        self.result = result
        self._write()

    def _write(self) -> None:
        text = json.dumps(asdict(self))
        path = Path(self.folder) / _FILE
        # On a full disk the end of the job is not known, which the list of jobs then says.
        with suppress(OSError):
            new = path.with_suffix(".new")
            new.write_text(text, encoding="utf-8")
            os.replace(new, path)


class Launched(Callback):
    """Remembers what Hydra starts in this process; the configuration names this class for Hydra.

    Attributes:
        folder: Where Hydra writes its record; empty before it starts.
        config: The configuration of the sweep; None where no sweep has begun.
        earlier: The files of an earlier sweep in the same folder, with their times.
    """

    folder: ClassVar[str] = ""
    config: ClassVar[DictConfig | None] = None
    earlier: ClassVar[Mapping[Path, int]] = {}

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Remember where a single job writes."""
        Launched.folder = config.hydra.run.dir

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Remember a sweep before its jobs are launched."""
        Launched.folder = config.hydra.sweep.dir
        Launched.config = config
        Launched.earlier = _written(config)
        if _is_beside(config.hydra.launcher):
            _leave_ctrl_c_to_the_jobs()


def has_launcher(name: str) -> bool:
    """Return whether the launcher of the running job has a name, such as `joblib`."""
    return name in HydraConfig.get().launcher._target_


def _is_beside(launcher: DictConfig) -> bool:
    """Return whether jobs run in other processes of this terminal, which Ctrl-C reaches too."""
    return not any(kind in launcher._target_ for kind in ("BasicLauncher", "SlurmLauncher"))


def run_and_list(script: Callable[[], object]) -> None:
    """Run what may launch a sweep, and list the jobs of the sweep at the end, however it ends.

    Raises:
        SystemExit: A job of the sweep has not finished; the status is the highest of its jobs.
        BaseException: What `script` raises where no job has begun.
    """
    Launched.config = None
    _interrupts.clear()
    failure: BaseException | None = None
    try:
        script()
    except BaseException as error:
        failure = error
    config = Launched.config
    if config is not None and _is_beside(config.hydra.launcher):
        # A Ctrl-C that has waited is noted here.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if config is None:
        if failure is not None:
            raise failure
        return
    is_interrupted = bool(_interrupts) or isinstance(failure, KeyboardInterrupt)
    if failure is not None and not is_interrupted:
        _wait_for_others(config)
    jobs = _jobs(config)
    if failure is not None and not any(job.folder for job in jobs):
        raise failure
    if isinstance(failure, Exception):
        path = Path(config.hydra.sweep.dir) / f"{config.hydra.job.name}.log"
        with Log(path, Terminal()).kept():
            note(failure)
    raise SystemExit(_show(jobs, config, is_interrupted))


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Interrupt the job, at the latest where its trials next ask; a library may lose the first."""
    this_process.is_interrupted = True
    signal.default_int_handler(number, frame)


def _note_interrupts() -> None:
    """Let Ctrl-C from now on be noted only, as nothing that it could interrupt runs here."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda number, _frame: _interrupts.append(number))


def _leave_ctrl_c_to_the_jobs() -> None:
    """Let Ctrl-C reach the jobs of a sweep in other processes alone.

    A launcher that saw it would kill its workers before they give their trials back. A worker
    inherits that Ctrl-C is blocked, so that it waits there until a job begins.
    """
    _note_interrupts()
    resource_tracker.ensure_running()  # its start would unblock Ctrl-C
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _wait_for_others(config: DictConfig) -> None:
    """Wait for all jobs that submitit has started; its launcher stops at the first that died."""
    if "submitit" not in config.hydra.launcher._target_:
        return
    submitit = import_module("submitit")  # an extra
    folder = Path(config.hydra.sweep.dir) / ".submitit"
    for place in sorted(folder.glob("*/*_submitted.pkl")):
        job_id = place.parent.name
        if "local" not in config.hydra.launcher._target_:
            submitit.SlurmJob(folder=place.parent, job_id=job_id).wait()
            continue
        with suppress(psutil.Error, ValueError):
            psutil.Process(int(job_id)).wait()


def _jobs(config: DictConfig) -> list[Job]:
    """Return all jobs of a sweep as they are known now; one that has not begun has no folder."""
    jobs = {}
    if "BasicSweeper" in config.hydra.sweeper._target_:
        words = OmegaConf.to_container(config.hydra.overrides.task)
        for number, overrides in enumerate(jobs_of(cast("list[str]", words))):
            jobs[number] = Job(number, overrides)
    for path, time_ns in _written(config).items():
        if Launched.earlier.get(path) == time_ns:
            continue
        with suppress(OSError, ValueError, TypeError):
            job = Job(**json.loads(path.read_text(encoding="utf-8")))
            if job.number in jobs:  # as they were typed
                job.overrides = jobs[job.number].overrides
            jobs[job.number] = job
    return [jobs[number] for number in sorted(jobs)]


def _written(config: DictConfig) -> dict[Path, int]:
    """Return the files of the jobs in the folder of a sweep, with the times of their writing."""
    files = {}
    for path in Path(config.hydra.sweep.dir).rglob(_FILE):
        with suppress(OSError):
            files[path] = path.stat().st_mtime_ns
    return files


def _show(
    jobs: Sequence[Job],
    config: DictConfig,
    is_interrupted: bool,
) -> int:
    """List how jobs have ended, and return the exit status of their sweep."""
    terminal = Terminal()
    status = 0
    if is_interrupted:
        status = 130
        said = "Interrupted. The same command goes on where this one stopped."
        if "Slurm" in config.hydra.launcher._target_:
            said = "Interrupted. Jobs that SLURM has begun go on there; scancel ends them."
        terminal.mistake(f"\n{said}")
    terminal.say(f"The jobs of this sweep, in {config.hydra.sweep.dir}:")
    shared = set.intersection(*(set(job.overrides) for job in jobs))
    for job in jobs:
        if job.end is None and job.folder:
            job.end = f"died without a word; {job.folder} may have a log"
        elif job.end is None:
            job.end = "did not start"
        if job.exit_status and not (is_interrupted and not job.folder):
            status = max(status, job.exit_status)
        own = [word for word in job.overrides if word not in shared]
        words = shlex.join(word.lstrip("+") for word in own or job.overrides)
        line = f"  job {job.number}, {words}: {job.end}"
        if job.exit_status and terminal.is_for_scripts:
            terminal.mistake(line.strip())
        terminal.say(line)
        terminal.result(
            {
                "job": job.number,
                "overrides": job.overrides,
                "end": job.end,
                "exit_status": job.exit_status,
                "result": job.result,
            }
        )
    return status
