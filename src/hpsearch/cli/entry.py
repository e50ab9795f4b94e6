"""Start a job from a command line, and end it with an exit status; all jobs share this.

A command line is composed twice: by `command_line.check`, which answers a mistake at once, and then
by Hydra itself, which also starts sweeps.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hpsearch.backend import check_backend, choose_backend
from hpsearch.cli.building import built, check_partials
from hpsearch.cli.command_line import (
    MULTIRUN,
    as_overrides,
    check,
    default_choice,
)
from hpsearch.cli.config_files import CONF, ConfigFiles
from hpsearch.cli.refused import refuse
from hpsearch.cli.terminal import Terminal
from hpsearch.command_form import Project
from hpsearch.errors import HpsearchError, Preempted, UserError
from hpsearch.jobs.composed import Composed, Plain
from hpsearch.study.worker_process import this_process

# Not empty once Ctrl-C has reached this process, which then starts no other job of its sweep.
_was_interrupted: list[bool] = []


def prepare_environment() -> None:
    """Set the environment before TensorFlow, JAX and MLflow are imported.

    Variables that are set already stay as they are. Keras gets the backend that is installed, where
    nobody has chosen one. Messages that a person cannot act on are
    silenced. A process takes the GPU's memory as it needs it, so that several workers can share a
    GPU; by default JAX takes three quarters at its start and TensorFlow all of it.
    """
    defaults = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # It is off on some CPUs; convolutions are 1.5 times as fast with it.
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        # MLflow would print two lines for each trial.
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    choose_backend()
    warnings.filterwarnings("ignore", category=FutureWarning)
    # Optuna warns of its QMCSampler.
    warnings.filterwarnings("ignore", message=".* is experimental")
    for name in ("mlflow", "mlflow.pyfunc", "alembic", "mlflow.store.db.utils", "absl", "optuna"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # MLflow warns where an environment has no pip, such as one that uv has made.
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)
    # TensorFlow warns of each model that it compiles again.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def _usage(root: str) -> str:
    """Return what `--help` prints.

    Hydra's own help copies the whole configuration for each group, which takes a second in all.
    """
    name = default_choice(root, "override hydra/help")
    given = OmegaConf.load(CONF / "hydra" / "help" / f"{name}.yaml")
    # The template refers to keys of hydra.help.
    config = OmegaConf.create({"hydra": {"help": given}})
    text = str(config.hydra.help.template)
    listed = "\n".join(_choices(root)) + "\n"
    return text.replace("$APP_CONFIG_GROUPS", listed)


def _choices(root: str) -> Iterator[str]:
    """Yield a line for each group of a job that has several choices, with the default first."""
    config = OmegaConf.load(CONF / f"{root}.yaml")
    for item in cast("list[object]", OmegaConf.to_container(config.defaults)):
        if not isinstance(item, dict):
            continue
        ((group, default),) = item.items()
        name = group.removeprefix("optional ")
        names = ConfigFiles().choices(name)
        if name.startswith("override ") or len(names) < 2:
            continue
        # There is no default where a choice must be given, or where the group may be left out.
        names.sort(key=lambda choice: choice != default)
        yield f"  {name}: {', '.join(names)}"


def run(root: str, script: Callable[[], object]) -> None:
    """Check the command line of a job, run the job under Hydra, and end with its exit status.

    Args:
        root: The name of the job and of its configuration, `conf/<root>.yaml`.
        script: The job's `main`, which Hydra has decorated.
    """
    prepare_environment()
    typed = Terminal.take_flags(sys.argv[1:])
    sys.argv[1:] = as_overrides(typed)
    words = set(sys.argv[1:])
    if not words.isdisjoint(MULTIRUN):
        # One run of `mlflow run` cannot be the parent of several studies.
        os.environ.pop("MLFLOW_RUN_ID", None)
    if not words.isdisjoint({"-h", "--help"}):
        print(_usage(root))
        return
    # With these options Hydra starts no job, so the command line need not be complete.
    without_job = {"--hydra-help", "--version", "--info", "-i", "--shell-completion", "-sc"}
    try:
        if words.isdisjoint(without_job):
            check(root, sys.argv[1:])
            check_backend()
        _start(script)
    except (HpsearchError, KeyboardInterrupt) as error:
        raise _exit(error) from None


def _start(script: Callable[[], object]) -> None:
    if "hydra/launcher=local" in sys.argv[1:]:
        signal.signal(signal.SIGINT, _leave_it_to_the_workers)
    try:
        script()
    finally:
        if _was_interrupted:
            raise KeyboardInterrupt


def _leave_it_to_the_workers(_number: int, _frame: object) -> None:
    """Note a first Ctrl-C, which reaches the workers of a local sweep too.

    If joblib saw it, joblib would kill the workers before they give their trials back.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _was_interrupted.append(True)


@contextmanager
def native_noise_held_back() -> Iterator[None]:
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


def instantiate(config: Plain | DictConfig) -> Any:
    """Build the job or the parts that a configuration, or a part of it as plain data, describes.

    Raises:
        ConfigError: A part does not take a key, or refuses a value. The message is one sentence.
    """
    prepare_environment()  # a launcher's processes have not come through `run`
    if _was_interrupted:
        raise KeyboardInterrupt
    _prepare_restart()
    check_backend()
    with native_noise_held_back():
        # Importing this takes seconds, which a typo must not cost. TensorFlow's libraries write
        # to the terminal while they load.
        import keras  # noqa: F401, PLC0415
    job = built(config)
    if isinstance(job, dict):
        check_partials(job)
    else:
        check_partials(vars(job))
    return job


def check_studies(config: DictConfig, names: Iterable[str]) -> None:
    """Raise ConfigError where a storage lacks one of some studies, before Keras is imported.

    Args:
        config: The composed configuration of a job that reads studies.
        names: The names of the studies.
    """
    # Importing these takes a second, which a typo must not cost.
    import optuna  # noqa: PLC0415

    from hpsearch.study.storage import to_read  # noqa: PLC0415
    from hpsearch.study.study import check_known  # noqa: PLC0415

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = to_read(built(config.storage))
    for name in names:
        check_known(name, storage)


def config_dir() -> list[str]:
    """Return the option that names the person's own folder of configuration, if it was given."""
    found = []
    for source in HydraConfig.get().runtime.config_sources:
        if source.provider == "command-line":
            found.append(f"--config-dir={source.path}")
    return found


def experiment(
    config: DictConfig,
    parts: list[str],
    root: str,
) -> Composed:
    """Return an experiment with its own parts, whose arms are composed from `conf/<root>.yaml`."""
    own = instantiate(OmegaConf.masked_copy(config, parts))
    typed = HydraConfig.get().overrides.task

    def composed(words: list[str]) -> Plain:
        return as_plain(hydra.compose(root, words))

    plain = as_plain(config)
    return Composed(plain, own, typed, composed, instantiate, config_dir())


def as_plain(config: DictConfig) -> Plain:
    """Return a configuration as plain data, with its interpolations resolved."""
    plain = OmegaConf.to_container(config, resolve=True)
    return cast("Plain", plain)


def _prepare_restart() -> None:
    """Let a process that replaces this one write to the same folder.

    A process that runs a job of a sweep cannot be replaced.
    """
    if not _is_single_job():
        this_process.forget()
        return
    folder = HydraConfig.get().runtime.output_dir
    if "'" not in folder:
        this_process.keep(f"hydra.run.dir='{folder}'")


def _is_no_sweep() -> bool:
    return not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN


def _is_single_job() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.RUN


def _forget() -> None:
    """Remove Hydra's record of a mistaken command, and the folders that are empty then."""
    if not _is_single_job():
        return
    folder = Path(HydraConfig.get().runtime.output_dir)
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    for empty in (folder, *folder.parents[:2]):
        with suppress(OSError):
            empty.rmdir()


class _JobEnded(CompactHydraException):
    """A job of a sweep has ended and has printed why.

    The other jobs continue, and Hydra prints no traceback for this class.
    """


@contextmanager
def ending() -> Iterator[None]:
    """Print why a job ends early in the block, and exit.

    A job of a local sweep raises an exception instead that lets the other jobs continue.
    """
    try:
        yield
    except (HpsearchError, KeyboardInterrupt, Preempted) as error:
        raise _end(error) from None


def _end(error: BaseException) -> BaseException:
    """Print why a job ends, and return the exception that ends it."""
    end = _exit(error)
    if not HydraConfig.initialized():
        return end
    if "joblib" not in HydraConfig.get().launcher._target_:
        return end
    if end.code == 130:  # as after Ctrl-C
        _was_interrupted.append(True)
    return _JobEnded(f"A job of this sweep ended with status {end.code}; see above.")


def _exit(error: BaseException) -> SystemExit:
    """Print why a command ends, and return its exit; Hydra would print a traceback."""
    terminal = Terminal()
    again = "The same command goes on where this one stopped."
    if isinstance(error, KeyboardInterrupt):
        # A shell reports 130 after Ctrl-C.
        return terminal.end(f"\nInterrupted. {again}", 130)
    if isinstance(error, Preempted):
        return terminal.end(f"{error}. {again}", error.exit_status)
    exit_status = 1
    if isinstance(error, HpsearchError):
        exit_status = error.exit_status
    end = terminal.end(f"Error: {error}", exit_status)
    if isinstance(error, UserError):
        _forget()
        project = Project.of_this_process()
        if project is not None and _is_no_sweep():
            refuse(project, str(error))
    return end
