"""What all entry scripts share: from a command line to a job that runs, and from its end to an exit status.

A command line is composed twice: here first, without TensorFlow, so that a typo is answered at once with one sentence,
then by Hydra itself, which also starts sweeps.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Transformer
from hydra.errors import CompactHydraException, HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hpsearch.errors import ConfigError, HpsearchError, did_you_mean

CONF = Path(__file__).resolve().parents[2] / "conf"
INTERRUPTED, GOES_ON = 130, "The same command goes on where this one stopped."
_was_interrupted: list[bool] = []  # this process, by Ctrl-C: it begins no other job of its sweep
UNDOTTED = {
    f"--{key}"
    for key in ("study", "seed", "level", "registered_model", "arch", "data", "space", "sampler", "pruner", "storage")
}


def as_overrides(arguments: Sequence[str]) -> list[str]:
    """Return Hydra's form of a command line on which `mlflow run` wrote `--a.b 1` for `-P a.b=1`."""
    overrides: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        if waiting and (re.fullmatch(r"--\+{0,2}[a-z_]+(\.[\w@/]+)+", word) or word in UNDOTTED):
            word = f"{word[2:]}={waiting.pop(0)}"
        overrides.append(word)
    return overrides


def check(root: str, overrides: Sequence[str]) -> None:
    """Compose `conf/<root>.yaml` with `overrides`.

    Raises:
        ConfigError: They name a key, a choice or a file that is not there.
    """
    flags = [o.startswith("-") and o not in ("-m", "--multirun", "-r", "--resolve") for o in overrides]
    follows = [False, *flags[:-1]]  # the word behind a flag is the flag's
    plain = [o for o, flag in zip(overrides, follows, strict=False) if not flag and not o.startswith(("-", "hydra"))]
    sweep = any(o in ("-m", "--multirun") for o in overrides)
    try:
        with initialize_config_dir(str(CONF), version_base="1.3", job_name=root):
            config = compose(root, [_first_choice(o) if sweep else o for o in plain])
        missing = list(_missing("", OmegaConf.to_container(config)))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_one_sentence(error, root)) from error
    finally:
        GlobalHydra.instance().clear()
    _refuse_passwords(plain)
    if missing:
        raise ConfigError(f"{missing[0]} must be given: {missing[0]}=VALUE.")


def _refuse_passwords(overrides: Sequence[str]) -> None:
    """A command line is seen in process lists, and Hydra writes it into files."""
    for override in overrides:
        if re.search(r"://[^:/@\s]*:[^@\s]+@", override):
            key = override.partition("=")[0]
            raise ConfigError(
                f"{key} must not hold a password, which everybody on this machine could see; put it into PGPASSWORD or "
                "~/.pgpass for PostgreSQL, into MLFLOW_TRACKING_PASSWORD for MLflow."
            )


def _missing(path: str, node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _missing(f"{path}.{key}" if path else str(key), value)
    elif node == "???":
        yield path


def _first_choice(override: str) -> str:
    """Return the first job's form of an override that sweeps: `arch=elu,selu` is `arch=elu`."""
    parsed = OverridesParser.create().parse_override(override)
    if not parsed.is_sweep_override():
        return override
    return f"{parsed.get_key_element()}={next(parsed.sweep_iterator(transformer=Transformer.encode))}"


def _one_sentence(error: Exception, root: str) -> str:
    """Return what a person needs of an error of Hydra's."""
    text = str(error.__cause__ or error) if isinstance(error.__cause__, OmegaConfBaseException) else str(error)
    group = re.search(r"Could not find '([\w/]+)/([^/']+)'", text)
    if group and (CONF / group[1]).is_dir():
        names = [p.stem for p in (CONF / group[1]).glob("*.yaml")]
        return f"There is no {group[1]}={group[2]}.{did_you_mean(group[2], names)}"
    key = re.search(r"Key '([^']+)' is not in struct\s*full_key: (\S+)", text)
    if key:
        return _unknown_key(key[2], root)
    unknown = re.search(r"Could not override '([^']+)'", text)
    if unknown:
        return _unknown_key(unknown[1], root)
    return re.sub(r"\s+", " ", text.split("See https://")[0].split("Set the environment")[0]).strip()


def _unknown_key(path: str, root: str) -> str:
    parent, _, last = path.rpartition(".")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(root)
    node = OmegaConf.select(config, parent) if parent else config
    if isinstance(node, DictConfig):
        near = did_you_mean(last, [str(k) for k in node if not str(k).startswith("_")])
        return f"There is no key {path}.{near} A setting that conf does not list is added with ++{path}=VALUE."
    return f"There is no key {path}; see --cfg job for all keys."


def quiet() -> None:
    """Silence what a person cannot act on, before TensorFlow and MLflow are imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".* is experimental")  # Optuna of its QMCSampler
    for name in ("mlflow", "mlflow.pyfunc", "alembic", "mlflow.store.db.utils", "absl", "optuna"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of each model that it compiles anew


def usage(root: str) -> str:
    """Return what `--help` prints; Hydra itself copies the whole configuration for each group, for a second in all."""
    composed: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{root}.yaml"))
    name = next(item["override hydra/help"] for item in composed["defaults"] if "override hydra/help" in item)
    given = OmegaConf.load(CONF / "hydra" / "help" / f"{name}.yaml")
    text = str(OmegaConf.create({"hydra": {"help": given}}).hydra.help.template)
    folders = sorted(path for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
    groups = [f"  {path.name}: {', '.join(sorted(p.stem for p in path.glob('*.yaml')))}" for path in folders]
    return text.replace("$APP_CONFIG_GROUPS", "\n".join(groups) + "\n")


def run(root: str, script: Callable[[], Any]) -> None:
    """Check the command line of an entry script, run it under Hydra, and end with the right exit status."""
    quiet()
    sys.argv[1:] = as_overrides(sys.argv[1:])
    if {"-m", "--multirun"} & set(sys.argv[1:]):
        os.environ.pop("MLFLOW_RUN_ID", None)  # one run of `mlflow run` cannot be the parent of several studies
    if {"-h", "--help"} & set(sys.argv[1:]):
        return print(usage(root))
    try:
        if not any(a in ("--hydra-help", "--version", "--info", "-i") for a in sys.argv[1:]):
            check(root, sys.argv[1:])
        _start(script)
    except HpsearchError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        print(f"Interrupted. {GOES_ON}", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _start(script: Callable[[], Any]) -> None:
    if "hydra/launcher=local" in sys.argv[1:]:
        signal.signal(signal.SIGINT, _leave_it_to_the_workers)
    try:
        script()
    finally:
        if _was_interrupted:
            raise KeyboardInterrupt


def _leave_it_to_the_workers(_number: int, _frame: Any) -> None:
    """A first Ctrl-C reaches the workers too: joblib, had it seen it, would kill them before they give trials back."""
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
    quiet()  # a launcher's processes have not come through `run`
    if _was_interrupted:
        raise KeyboardInterrupt
    try:
        with _native_noise_held_back():
            import keras  # noqa: F401, PLC0415 (seconds that a typo must not cost; TensorFlow's libraries write to the terminal while they load)
        return hydra.utils.instantiate(config, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        while cause is not None and cause.__cause__ is not None and not isinstance(cause, HpsearchError):
            cause = cause.__cause__
        if isinstance(cause, HpsearchError):
            raise cause from None
        path = re.search(r"full_key: (\S+)", str(error))
        raise ConfigError(f"{path[1] if path else 'The configuration'} cannot be built: {cause or error}") from error


class JobEnded(CompactHydraException):  # type: ignore[misc]
    """A job of a sweep has ended, and said why; the others go on, and Hydra then shows no traceback."""


def ending(error: BaseException) -> BaseException:
    """Return what a job ends with, after it has said why: an exit, or in a sweep what lets the other jobs go on."""
    back = f"the running trial is given back. {GOES_ON}"
    status, said = getattr(error, "exit_status", 1), f"Error: {error}"
    if isinstance(error, KeyboardInterrupt):
        status, said = INTERRUPTED, f"\nInterrupted: {back}"
    elif status > 128:
        said = f"{error}: {back}"
    print(said, file=sys.stderr)
    if HydraConfig.initialized() and "joblib" in HydraConfig.get().launcher._target_:
        _was_interrupted.extend([True] if status == INTERRUPTED else [])
        return JobEnded(f"A job of this sweep ended with status {status}; see above.")
    return SystemExit(status)
