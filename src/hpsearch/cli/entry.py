"""Start a job from a command line, and end it with an exit status; all jobs share this.

A command line is composed twice: by `command_line.check`, which answers a mistake at once, and then
by Hydra itself, which also starts sweeps.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from hpsearch.backend import check_backend, choose_backend
from hpsearch.cli import sweep
from hpsearch.cli.building import as_plain, built, check_partials
from hpsearch.cli.command_line import (
    MULTIRUN,
    as_overrides,
    check,
    check_kinds_within,
    check_values,
    default_choice,
)
from hpsearch.cli.config_files import CONF, ConfigFiles
from hpsearch.cli.log import Log, note
from hpsearch.cli.no_secrets import refuse_secrets
from hpsearch.cli.refused import refuse
from hpsearch.cli.servers import check_servers
from hpsearch.cli.terminal import Terminal, write_readably
from hpsearch.command_form import Project
from hpsearch.errors import ConfigError, HpsearchError, Preempted, UserError, first_line
from hpsearch.jobs.composed import Composed, Plain
from hpsearch.standard_error import standard_error
from hpsearch.study.worker_process import this_process


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
        # Hydra would print a traceback, which now goes to the log.
        "HYDRA_FULL_ERROR": "1",
        # It is off on some CPUs; convolutions are 1.5 times as fast with it.
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        # MLflow would print two lines for each trial.
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    write_readably()
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    choose_backend()


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
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0")  # the log takes it
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
            check_values(root, sys.argv[1:])
            check_backend()
        sweep.run_and_list(script)
    except OSError as error:
        if not sweep.Launched.folder:
            raise _exit(error) from None
        # A job tells its own errors, so Hydra itself could not write.
        key = "hydra.run.dir"
        if not words.isdisjoint(MULTIRUN):
            key = "hydra.sweep.dir"
        refused = ConfigError(
            f"Hydra's record of this command cannot be written into {sweep.Launched.folder} "
            f"({error.strerror}); {key}=FOLDER names another folder."
        )
        raise _exit(refused) from None
    except (Exception, KeyboardInterrupt) as error:
        raise _exit(error) from None


def instantiate(config: Plain | DictConfig) -> Any:
    """Build the job or the parts that a configuration, or a part of it as plain data, describes.

    Raises:
        ConfigError: A part does not take a key, or refuses a value. The message is one sentence.
    """
    prepare_environment()  # a launcher's processes have not come through `run`
    _prepare_restart()
    check_backend()
    refuse_secrets(config)
    check_servers(cast("Mapping[str, Any]", config), Terminal().say)
    with standard_error.held_back():
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


def _forget(log: Log | None) -> None:
    """Remove the log and Hydra's record of a mistaken command, and folders that are empty then.

    They stay where trials have run, since the log may then say more.
    """
    if not _is_single_job() or this_process.has_worked:
        return
    if log is not None:
        log.remove()
    folder = Path(HydraConfig.get().runtime.output_dir)
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    for empty in (folder, *folder.parents[:2]):
        with suppress(OSError):
            empty.rmdir()


class Done(NamedTuple):
    """What a job has done.

    Attributes:
        value: What an optimizing sweeper of Hydra's minimizes.
        summary: The result for `--json`.
    """

    value: float
    summary: Mapping[str, object]


def carry_out(
    config: DictConfig,
    work: Callable[[DictConfig, Terminal], Done],
    width: int | None = None,
) -> float:
    """Do the work of a job that Hydra has started, and end the job.

    Args:
        config: The composed configuration.
        work: Does the work, given the configuration and the terminal.
        width: The columns of the output where stdout is no terminal.

    Returns:
        The value of the job; NaN for a job of a sweep that has failed, so that the others run.

    Raises:
        SystemExit: A job that is no part of a sweep has failed.
    """
    terminal = Terminal(width)
    hydra_config = HydraConfig.get()
    path = Path(hydra_config.runtime.output_dir) / f"{hydra_config.job.name}.log"
    with Log(path, terminal).kept() as log:
        job = sweep.Job.of_this_process()
        if job is not None:
            return _carried_out_in_sweep(job, partial(_checked, work, config, terminal), log)
        with ending(log):
            done = work(config, terminal)
            terminal.result(done.summary)
        return done.value


def _checked(
    work: Callable[[DictConfig, Terminal], Done],
    config: DictConfig,
    terminal: Terminal,
) -> Done:
    """Check the values of a job of a sweep, and do its work."""
    # Importing this takes half a second, which a typo must not cost.
    from hpsearch.cli.early import check_parts  # noqa: PLC0415

    hydra_config = HydraConfig.get()
    root = str(hydra_config.job.config_name)
    check_kinds_within(root, [*config_dir(), *hydra_config.overrides.task])
    check_parts(root, config)
    return work(config, terminal)


def _carried_out_in_sweep(
    job: sweep.Job,
    work: Callable[[], Done],
    log: Log,
) -> float:
    try:
        job.begin()
        done = work()
    except Preempted as error:
        job.finish(str(error), error.exit_status, {})
        if sweep.has_launcher("joblib"):
            return math.nan
        raise SystemExit(error.exit_status) from None
    except KeyboardInterrupt:
        job.finish("interrupted", 130, {})
        if sweep.has_launcher("basic"):
            raise
        return math.nan
    except Exception as error:
        sentence, exit_status = _sentence(error, log)
        terminal = Terminal()
        if not terminal.is_for_scripts:  # the list of jobs has it too
            terminal.mistake(f"Error: {sentence}")
        job.finish(f"failed: {sentence}", exit_status, {})
        return math.nan
    job.finish("finished", 0, done.summary)
    return done.value


@contextmanager
def ending(log: Log | None = None) -> Iterator[None]:
    """Print why a command ends early in the block, and exit."""
    try:
        yield
    except (Exception, KeyboardInterrupt, Preempted) as error:
        raise _exit(error, log) from None


def _exit(error: BaseException, log: Log | None = None) -> SystemExit:
    """Print why a command ends, and return its exit; Hydra would print a traceback."""
    terminal = Terminal()
    again = "The same command goes on where this one stopped."
    if isinstance(error, KeyboardInterrupt):
        # A shell reports 130 after Ctrl-C.
        return terminal.end(f"\nInterrupted. {again}", 130)
    if isinstance(error, Preempted):
        return terminal.end(f"{error}. {again}", error.exit_status)
    sentence, exit_status = _sentence(error, log)
    end = terminal.end(f"Error: {sentence}", exit_status)
    if isinstance(error, UserError):
        _forget(log)
        project = Project.of_this_process()
        if project is not None and _is_no_sweep():
            refuse(project, str(error))
    return end


def _sentence(error: BaseException, log: Log | None) -> tuple[str, int]:
    """Return an error in one sentence and its exit status; the log gets its traceback."""
    if isinstance(error, HpsearchError):
        if log is not None:
            note(error)
        return str(error), error.exit_status
    if log is None:
        with Log.without_folder(Terminal()).kept() as other:
            return _sentence(error, other)
    note(error)
    log.is_needed = True
    said = f"{type(error).__name__}: {first_line(error)}"
    return f"An unexpected error, {said}. {log.hint}", 1
