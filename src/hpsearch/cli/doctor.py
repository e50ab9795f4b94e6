"""Entry script: look at a study, its runs and its suggestions.

    python -m hpsearch doctor [compare] [--repair] [KEY=VALUE ...]   do study, MLflow and SLURM
    agree? python -m hpsearch doctor sync [KEY=VALUE ...]                   send what dead workers
    have left in the spool python -m hpsearch doctor replay [KEY=VALUE ...]                 compute
    every suggestion again python -m hpsearch doctor explain NUMBER [KEY=VALUE ...]         why a
    trial had its values, and its end

KEY=VALUE are those of the search, such as arch=selu storage=postgres study.name=NAME. The exit
status is 1 where something disagrees.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import hydra
from omegaconf import DictConfig

from hpsearch.cli import entry
from hpsearch.cli.command_line import composed
from hpsearch.cli.terminal import Terminal, take_flags
from hpsearch.errors import ConfigError, HpsearchError, TrackingError, UserError, did_you_mean
from hpsearch.tracking.spool_file import Away


def main() -> None:
    """Run one command."""
    entry.prepare_environment()
    try:
        words = take_flags(sys.argv[1:])
        sys.exit(run(arguments(words), Terminal()))
    except (HpsearchError, KeyboardInterrupt) as error:
        raise entry.ending(error) from None


def arguments(words: list[str]) -> argparse.Namespace:
    """Return what a command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m hpsearch doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repair", action="store_true", help="make study and MLflow agree")
    parser.add_argument("words", nargs="*", metavar="COMMAND KEY=VALUE")
    parser.error = _refuse  # type: ignore[method-assign]
    given = parser.parse_args(words)
    plain = [word for word in given.words if "=" not in word] or ["compare"]
    given.command, given.overrides = (
        plain[0],
        entry.as_overrides([word for word in given.words if "=" in word]),
    )
    if given.command not in COMMANDS:
        raise ConfigError(
            f"There is no command {given.command!r}.{did_you_mean(given.command, COMMANDS)}"
        )
    given.number = None
    if given.command == "explain":
        if len(plain) != 2 or not plain[1].isdigit():
            raise ConfigError("explain needs the number of a trial, such as: explain 17.")
        given.number = int(plain[1])
    return given


def _refuse(message: str) -> NoReturn:
    """Take the place of argparse's own ending, which prints a page."""
    raise ConfigError(f"Expected COMMAND [--repair] [KEY=VALUE ...], but {message}; see --help.")


def run(given: argparse.Namespace, terminal: Terminal) -> int:
    """Do what is asked, print what comes out, and return the exit status."""
    return COMMANDS[given.command](composed("search", given.overrides), given, terminal)


def open_study(config: DictConfig) -> Any:
    """Open the study that a configuration names; it must be there."""
    import optuna  # noqa: PLC0415 (after a mistake on the command line has been answered)

    from hpsearch.study.direction import Direction  # noqa: PLC0415
    from hpsearch.study.study import SharedStudy  # noqa: PLC0415

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    built = {
        key: _build(config[key]) for key in ("space", "sampler", "pruner", "storage", "budget")
    }
    is_there = "path" not in config.storage or Path(config.storage.path).exists()
    storage = built["storage"]() if is_there else None  # which would make an empty one
    names = optuna.get_all_study_names(storage) if storage else []
    if storage is None or config.study.name not in names:
        raise UserError(
            f"There is no study {config.study.name} in this storage; it has: "
            f"{', '.join(names) or 'none'}."
        )
    known = optuna.load_study(study_name=config.study.name, storage=storage)
    study = SharedStudy.open(
        config.study.name,
        storage=storage,
        sampler=built["sampler"](root_seed=config.seed),
        pruner=built["pruner"],
        direction=Direction.of(known),
        budget=built["budget"],
    )
    return study, built["space"]


def _build(node: Any) -> Any:
    return hydra.utils.instantiate(node, _convert_="all")


def compare(config: DictConfig, given: argparse.Namespace, terminal: Terminal) -> int:
    """Say what disagrees, and put it right where that is asked for."""
    from hpsearch.jobs.diagnosis import Diagnosis  # noqa: PLC0415
    from hpsearch.tracking.runs import ParentRun  # noqa: PLC0415

    (study, space), tracking = open_study(config), _build(config.tracking)()
    run_id = study.optuna.user_attrs.get("parent_run_id")
    if run_id is None:
        raise UserError(f"Study {config.study.name} has no MLflow run yet.")
    _send(tracking)
    diagnosis = Diagnosis(study, tracking, ParentRun(tracking.client, run_id), space, slurm_queue())
    seen: dict[str, bool] = {}
    while findings := [f for f in diagnosis.findings() if f.text not in seen]:
        for finding in findings:
            repaired = seen[finding.text] = given.repair and finding.repair is not None
            if repaired and finding.repair is not None:
                finding.repair()
            terminal.say(f"{finding.text}{' Put right.' if repaired else ''}")
    n_removed = _remove_orphans(config, study, given.repair)
    if n_removed:
        text = f"{n_removed} checkpoints are of no trial that goes on."
        seen[text] = given.repair
        terminal.say(f"{text}{' Removed.' if given.repair else ''}")
    if not seen:
        terminal.say(f"Study {config.study.name} and MLflow agree.")
    tracking.close(tracking.patience_s)
    told = [{"says": text, "is_repaired": repaired} for text, repaired in seen.items()]
    terminal.result({"study": config.study.name, "findings": told})
    return int(not all(seen.values()))


def _remove_orphans(config: DictConfig, study: Any, remove: bool) -> int:
    goes_on = study.numbers_that_go_on()
    orphans = _build(config.checkpoints).orphans(study.optuna.study_name, goes_on)
    for path in orphans if remove else ():
        path.unlink(missing_ok=True)
    return len(orphans)


def slurm_queue() -> frozenset[str] | None:
    """Return the jobs that SLURM knows of, `17` or `17_3`; None where there is no SLURM."""
    if not shutil.which("squeue"):
        return None
    command = [
        "squeue",
        "--noheader",
        "--array",
        "--format=%i",
        "--states=RUNNING,COMPLETING,SUSPENDED",
    ]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return frozenset(found.stdout.split()) if found.returncode == 0 else None


def sync(config: DictConfig, _given: argparse.Namespace, terminal: Terminal) -> int:
    """Send what waits in the spool."""
    n_sent = _send(_build(config.tracking)())
    terminal.say(f"{n_sent} runs were sent." if n_sent else "Nothing waits.")
    terminal.result({"n_sent": n_sent})
    return 0


def _send(tracking: Any) -> int:
    try:
        return int(tracking.spool.send_abandoned())
    except Away as error:
        raise TrackingError(
            f"The MLflow store cannot be reached ({error.__cause__}); nothing is lost."
        ) from error


def replay(config: DictConfig, _given: argparse.Namespace, terminal: Terminal) -> int:
    """Compute every suggestion again."""
    from hpsearch.study.replay import replay as again  # noqa: PLC0415

    study, _ = open_study(config)
    result = again(study.optuna, study.sampler)
    for text in result.differing:
        terminal.say(text)
    terminal.say(
        f"The suggestions of {result.n_same} trials are the same again, of {len(result.differing)} "
        f"not."
    )
    terminal.result(
        {"study": config.study.name, "n_same": result.n_same, "differing": result.differing}
    )
    return int(bool(result.differing))


def explain(config: DictConfig, given: argparse.Namespace, terminal: Terminal) -> int:
    """Say why a trial is as it is."""
    from hpsearch.study.replay import explain as why  # noqa: PLC0415

    study, space = open_study(config)
    sentences = list(why(study.optuna, study.sampler, space, given.number))
    for sentence in sentences:
        terminal.say(sentence)
    terminal.result({"study": config.study.name, "trial": given.number, "says": sentences})
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "compare": compare,
    "sync": sync,
    "replay": replay,
    "explain": explain,
}
