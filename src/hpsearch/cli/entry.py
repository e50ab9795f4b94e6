"""What all entry scripts share: from a command line to a job that runs, and from its end to an exit
status.

A command line is composed twice: by `command_line.check`, which answers a mistake at once, then by
Hydra itself, which also starts sweeps.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hpsearch.cli.command_line import CONF, as_overrides, check
from hpsearch.cli.terminal import Terminal, take_flags
from hpsearch.errors import ConfigError, HpsearchError, UserError
from hpsearch.study import worker_process
from hpsearch.study.worker_process import Preempted

__all__ = [
    "CONF",
    "as_overrides",
    "check",
    "ending",
    "instantiate",
    "prepare_environment",
    "run",
    "usage",
]
INTERRUPTED = 130
AGAIN = "The same command goes on where this one stopped."
_was_interrupted: list[bool] = []  # this process, by Ctrl-C: it begins no other job of its sweep


def prepare_environment() -> None:
    """Set the environment before TensorFlow, JAX and MLflow are imported; what a person has set
    stays.

    Messages that a person cannot act on are silenced. A process takes the GPU's memory as it needs
    it, so that several workers can share a GPU; left to themselves, JAX takes three quarters at its
    start and TensorFlow all of it.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault(
        "TF_ENABLE_ONEDNN_OPTS", "1"
    )  # off on some CPUs; convolutions 1.5 times as fast
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault(
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"
    )  # two lines for each trial
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".* is experimental")  # Optuna of its QMCSampler
    for name in ("mlflow", "mlflow.pyfunc", "alembic", "mlflow.store.db.utils", "absl", "optuna"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("tensorflow").setLevel(
        logging.ERROR
    )  # it warns of each model that it compiles anew


def usage(root: str) -> str:
    """Return what `--help` prints; Hydra itself copies the whole configuration for each group, for
    a second in all.
    """
    composed: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{root}.yaml"))
    name = next(
        item["override hydra/help"]
        for item in composed["defaults"]
        if "override hydra/help" in item
    )
    given = OmegaConf.load(CONF / "hydra" / "help" / f"{name}.yaml")
    text = str(OmegaConf.create({"hydra": {"help": given}}).hydra.help.template)
    folders = sorted(path for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
    groups = [
        f"  {path.name}: {', '.join(sorted(p.stem for p in path.glob('*.yaml')))}"
        for path in folders
    ]
    return text.replace("$APP_CONFIG_GROUPS", "\n".join(groups) + "\n")


def run(root: str, script: Callable[[], Any]) -> None:
    """Check the command line of an entry script, run it under Hydra, and end with the right exit
    status.
    """
    prepare_environment()
    sys.argv[1:] = as_overrides(take_flags(sys.argv[1:]))
    if {"-m", "--multirun"} & set(sys.argv[1:]):
        os.environ.pop(
            "MLFLOW_RUN_ID", None
        )  # one run of `mlflow run` cannot be the parent of several studies
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(usage(root))
        return
    try:
        if not any(
            a in ("--hydra-help", "--version", "--info", "-i", "--shell-completion", "-sc")
            for a in sys.argv[1:]
        ):
            check(root, sys.argv[1:])
        _start(script)
    except (HpsearchError, KeyboardInterrupt) as error:
        raise _exit(error) from None


def _start(script: Callable[[], Any]) -> None:
    if "hydra/launcher=local" in sys.argv[1:]:
        signal.signal(signal.SIGINT, _leave_it_to_the_workers)
    try:
        script()
    finally:
        if _was_interrupted:
            raise KeyboardInterrupt


def _leave_it_to_the_workers(_number: int, _frame: Any) -> None:
    """A first Ctrl-C reaches the workers too: joblib, had it seen it, would kill them before they
    give trials back.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _was_interrupted.append(True)


@contextmanager
def _native_noise_held_back() -> Iterator[None]:
    """Hold back what native code writes to stderr, unless the block fails."""
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(stderr, held.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def instantiate(config: DictConfig) -> Any:
    """Build the job that `config` describes, where a wrong value is one sentence.

    Raises:
        ConfigError: A key that a part does not take, or a value that it refuses.
    """
    prepare_environment()  # a launcher's processes have not come through `run`
    if _was_interrupted:
        raise KeyboardInterrupt
    _prepare_restart()
    try:
        with _native_noise_held_back():
            import keras  # noqa: F401, PLC0415 (seconds that a typo must not cost; TensorFlow's libraries write to the terminal while they load)
        job = hydra.utils.instantiate(config, _convert_="all")
    except OmegaConfBaseException as error:
        raise ConfigError(
            f"The configuration cannot be resolved: {str(error).splitlines()[0]}."
        ) from error
    except InstantiationException as error:
        cause = error.__cause__
        while (
            cause is not None
            and cause.__cause__ is not None
            and not isinstance(cause, HpsearchError)
        ):
            cause = cause.__cause__
        if isinstance(cause, HpsearchError):
            raise cause from None
        path = re.search(r"full_key: (\S+)", str(error))
        place = path[1] if path else "The configuration"
        if isinstance(cause, ImportError | AttributeError):
            raise ConfigError(
                f"{place}._target_ cannot be imported: {cause}; a module of your own must lie in "
                f"the current folder or "
                "in one that PYTHONPATH names."
            ) from error
        lacking = re.search(
            r"missing \d+ required (?:positional|keyword-only) arguments?: (.+)", str(cause)
        )
        if lacking:
            raise ConfigError(f"{place} needs {lacking[1]}, which nothing sets.") from error
        raise ConfigError(f"{place} cannot be built: {cause or error}") from error
    _check_partials(job if isinstance(job, dict) else vars(job))
    return job


def _prepare_restart() -> None:
    """Let a process that takes this one's place write to the same folder; a job of a sweep has no
    such process.
    """
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.RUN:
        worker_process.forget()
    elif "'" not in (folder := HydraConfig.get().runtime.output_dir):
        worker_process.keep(f"hydra.run.dir='{folder}'")


def _check_partials(parts: Mapping[str, Any]) -> None:
    """Refuse what a part will not take when the job completes it; its class's own **keywords are
    its affair.
    """
    for name, part in parts.items():
        if isinstance(part, partial):
            try:
                inspect.signature(part.func).bind_partial(*part.args, **part.keywords)
            except TypeError as error:
                raise ConfigError(f"{name} cannot be built: {error}.") from error


def _forget() -> None:
    """Remove Hydra's record of a command that was a mistake, and the folders that it alone was in."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.RUN:
        return
    folder = Path(HydraConfig.get().runtime.output_dir)
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    for empty in (folder, *folder.parents[:2]):
        with suppress(OSError):
            empty.rmdir()


class JobEnded(CompactHydraException):
    """A job of a sweep has ended, and said why; the others go on, and Hydra then shows no
    traceback.
    """


def ending(error: BaseException) -> BaseException:
    """Return what a job ends with, after it has said why: an exit, or in a local sweep what lets
    the others go on.
    """
    end = _exit(error)
    if HydraConfig.initialized() and "joblib" in HydraConfig.get().launcher._target_:
        _was_interrupted.extend([True] if end.code == INTERRUPTED else [])
        return JobEnded(f"A job of this sweep ended with status {end.code}; see above.")
    return end


def _exit(error: BaseException) -> SystemExit:
    """Return the exit that a command ends with, after it has said why: Hydra would print a
    traceback.
    """
    terminal = Terminal()
    if isinstance(error, KeyboardInterrupt):
        return terminal.end(f"\nInterrupted. {AGAIN}", INTERRUPTED)
    if isinstance(error, Preempted):
        return terminal.end(f"{error}. {AGAIN}", error.exit_status)
    if isinstance(error, UserError):
        _forget()
    return terminal.end(
        f"Error: {error}", error.exit_status if isinstance(error, HpsearchError) else 1
    )
