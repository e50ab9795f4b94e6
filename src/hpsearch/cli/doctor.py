"""Check and repair a study and its MLflow runs, and explain its suggestions.

    python -m hpsearch doctor [compare] [--repair] [KEY=VALUE ...]
        Check whether the study, MLflow and SLURM agree.
    python -m hpsearch doctor sync [KEY=VALUE ...]
        Send to MLflow what dead workers have left in the spool.
    python -m hpsearch doctor replay [KEY=VALUE ...]
        Compute every suggestion again.
    python -m hpsearch doctor explain NUMBER [KEY=VALUE ...]
        Explain why a trial had its values, and how it ended.

KEY=VALUE are the settings of the search, such as arch=selu storage=postgres study.name=NAME. The
exit status is 1 where something disagrees.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from omegaconf import DictConfig

from hpsearch.cli import entry
from hpsearch.cli.command_line import composed
from hpsearch.cli.terminal import Terminal, take_flags
from hpsearch.errors import ConfigError, HpsearchError, TrackingError, UserError, did_you_mean
from hpsearch.tracking.spool_file import Away

if TYPE_CHECKING:
    # These modules import Keras and Optuna, and a typo must be answered before that.
    from hpsearch.jobs.diagnosis import Diagnosis
    from hpsearch.space.space import Space
    from hpsearch.study.study import SharedStudy
    from hpsearch.tracking.tracking import Tracking


@dataclass(frozen=True)
class _Request:
    """What a command line asks for.

    Attributes:
        command: One of compare, sync, replay and explain.
        overrides: The settings of the search.
        repair: Whether `compare` repairs what disagrees.
        number: The trial that `explain` explains; 0 for the other commands.
    """

    command: str
    overrides: list[str]
    repair: bool
    number: int


def main() -> None:
    """Run one command and end with its exit status."""
    entry.prepare_environment()
    try:
        words = take_flags(sys.argv[1:])
        request = _request(words)
        config = composed("search", request.overrides)
        command = _commands()[request.command]
        sys.exit(command(config, request, Terminal()))
    except (HpsearchError, KeyboardInterrupt) as error:
        raise entry.ending(error) from None


def _request(words: list[str]) -> _Request:
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
    names = [word for word in given.words if "=" not in word]
    settings = [word for word in given.words if "=" in word]
    command = "compare"
    if names:
        command = names[0]
    overrides = entry.as_overrides(settings)
    commands = _commands()
    if command not in commands:
        raise ConfigError(f"There is no command {command!r}.{did_you_mean(command, commands)}")
    number = 0
    if command == "explain":
        number = _number(names[1:])
    return _Request(command, overrides, given.repair, number)


def _number(words: list[str]) -> int:
    if len(words) != 1 or not words[0].isdigit():
        raise ConfigError("explain needs the number of a trial, such as: explain 17.")
    return int(words[0])


def _refuse(message: str) -> NoReturn:
    """Raise ConfigError in place of argparse's own ending, which prints a page."""
    raise ConfigError(f"Expected COMMAND [--repair] [KEY=VALUE ...], but {message}; see --help.")


def _open_study(config: DictConfig) -> tuple[SharedStudy, Space]:
    """Open the study that a configuration names.

    Raises:
        UserError: The study does not exist.
    """
    # Importing these takes seconds, which a typo must not cost.
    import optuna  # noqa: PLC0415

    from hpsearch.study.direction import Direction  # noqa: PLC0415
    from hpsearch.study.study import SharedStudy  # noqa: PLC0415

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = config.study.name
    space = _build(config.space)
    sampler = _build(config.sampler)
    pruner = _build(config.pruner)
    make_storage = _build(config.storage)
    budget = _build(config.budget)
    # Opening a file that does not exist would make an empty storage.
    has_file = "path" in config.storage
    if has_file and not Path(config.storage.path).exists():
        raise UserError(_no_study(name, []))
    storage = make_storage()
    names = optuna.get_all_study_names(storage)
    if name not in names:
        raise UserError(_no_study(name, names))
    known = optuna.load_study(study_name=name, storage=storage)
    study = SharedStudy.open(
        name,
        storage=storage,
        sampler=sampler(root_seed=config.seed),
        pruner=pruner,
        direction=Direction.of(known),
        budget=budget,
    )
    return study, space


def _no_study(name: str, names: list[str]) -> str:
    shown = ", ".join(names) or "none"
    return f"There is no study {name} in this storage; it has: {shown}."


def _build(node: DictConfig) -> Any:
    return hydra.utils.instantiate(node, _convert_="all")


def _compare(config: DictConfig, request: _Request, terminal: Terminal) -> int:
    """Print what disagrees, and repair it where that was asked for."""
    # Importing these takes seconds, which a typo must not cost.
    from hpsearch.jobs.diagnosis import Diagnosis  # noqa: PLC0415
    from hpsearch.tracking.runs import ParentRun  # noqa: PLC0415

    study, space = _open_study(config)
    tracking = _build(config.tracking)()
    run_id = study.optuna.user_attrs.get("parent_run_id")
    if run_id is None:
        raise UserError(f"Study {config.study.name} has no MLflow run yet.")
    _send(tracking)
    parent = ParentRun(tracking.client, run_id)
    diagnosis = Diagnosis(study, tracking, parent, space, _slurm_queue())
    is_repaired = _print_findings(diagnosis, request.repair, terminal)
    n_orphans = _orphan_checkpoints(config, study, request.repair)
    if n_orphans:
        text = f"{n_orphans} checkpoints belong to no trial that continues."
        is_repaired[text] = request.repair
        _print_finding(terminal, text, "Removed.", request.repair)
    if not is_repaired:
        terminal.say(f"Study {config.study.name} and MLflow agree.")
    tracking.close(tracking.patience_s)
    findings = []
    for text, repaired in is_repaired.items():
        findings.append({"says": text, "is_repaired": repaired})
    terminal.result({"study": config.study.name, "findings": findings})
    return int(not all(is_repaired.values()))


def _print_findings(diagnosis: Diagnosis, repair: bool, terminal: Terminal) -> dict[str, bool]:
    """Print what disagrees; return for each sentence whether it was repaired.

    A repair may bring new findings, so the study is examined again until there are none.
    """
    is_repaired: dict[str, bool] = {}
    while True:
        findings = diagnosis.findings()
        new = [finding for finding in findings if finding.text not in is_repaired]
        if not new:
            return is_repaired
        for finding in new:
            repaired = False
            if repair and finding.repair is not None:
                finding.repair()
                repaired = True
            is_repaired[finding.text] = repaired
            _print_finding(terminal, finding.text, "Put right.", repaired)


def _print_finding(terminal: Terminal, text: str, cure: str, is_repaired: bool) -> None:
    if is_repaired:
        text = f"{text} {cure}"
    terminal.say(text)


def _orphan_checkpoints(config: DictConfig, study: SharedStudy, remove: bool) -> int:
    """Return the number of checkpoints of no trial that continues, and remove them if asked to."""
    checkpoints = _build(config.checkpoints)
    continuing = study.numbers_that_go_on()
    orphans = checkpoints.orphans(study.optuna.study_name, continuing)
    if remove:
        for path in orphans:
            path.unlink(missing_ok=True)
    return len(orphans)


def _slurm_queue() -> frozenset[str] | None:
    """Return the jobs that SLURM knows, as `17` or `17_3`, or None where there is no SLURM."""
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
    if found.returncode != 0:
        return None
    return frozenset(found.stdout.split())


def _sync(config: DictConfig, _request: _Request, terminal: Terminal) -> int:
    """Send what waits in the spool."""
    n_sent = _send(_build(config.tracking)())
    if n_sent:
        terminal.say(f"{n_sent} runs were sent.")
    else:
        terminal.say("Nothing waits.")
    terminal.result({"n_sent": n_sent})
    return 0


def _send(tracking: Tracking) -> int:
    try:
        return tracking.spool.send_abandoned()
    except Away as error:
        raise TrackingError(
            f"The MLflow store cannot be reached ({error.__cause__}); nothing is lost."
        ) from error


def _replay(config: DictConfig, _request: _Request, terminal: Terminal) -> int:
    """Compute every suggestion again, and print the suggestions that differ."""
    from hpsearch.study.replay import replay  # noqa: PLC0415

    study, _space = _open_study(config)
    result = replay(study.optuna, study.sampler)
    for text in result.differing:
        terminal.say(text)
    terminal.say(
        f"The suggestions of {result.n_same} trials are the same again; "
        f"those of {len(result.differing)} trials differ."
    )
    terminal.result(
        {"study": config.study.name, "n_same": result.n_same, "differing": result.differing}
    )
    return int(bool(result.differing))


def _explain(config: DictConfig, request: _Request, terminal: Terminal) -> int:
    """Print why a trial had its values, and how it ended."""
    from hpsearch.study.replay import explain  # noqa: PLC0415

    study, space = _open_study(config)
    sentences = list(explain(study.optuna, study.sampler, space, request.number))
    for sentence in sentences:
        terminal.say(sentence)
    terminal.result({"study": config.study.name, "trial": request.number, "says": sentences})
    return 0


def _commands() -> dict[str, Callable[[DictConfig, _Request, Terminal], int]]:
    return {"compare": _compare, "sync": _sync, "replay": _replay, "explain": _explain}
