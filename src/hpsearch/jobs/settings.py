"""Check the settings that belong to a job as a whole, before it is built.

This module imports neither Keras nor MLflow, so that a mistake in a setting is answered at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from hpsearch.errors import ConfigError, did_you_mean
from hpsearch.jobs.composed import Plain
from hpsearch.study.warm_start import check_asked
from hpsearch.tracking.names import check_name


def check_job(root: str, config: Plain) -> None:
    """Raise ConfigError where a setting of a job is out of range.

    Args:
        root: The name of the job.
        config: Its composed configuration as plain data, with its interpolations resolved.
    """
    if root != "evaluate" and "methods" in config.get("uncertainty", {}):
        raise ConfigError(
            "uncertainty=laplace, swag, ensemble and all are for hpsearch evaluate, which compares "
            f"methods on a registered version; hpsearch {root} takes uncertainty=mc_dropout alone."
        )
    check: Callable[[Plain], None] | None = _CHECKS.get(root)
    if check is not None:
        check(config)


def _check_search(config: Plain) -> None:
    check_name("study.name", config["study"]["name"])
    check_asked(config["study"])


def _check_seeds(key: str, n_seeds: int) -> None:
    if n_seeds < 2:
        raise ConfigError(
            f"{key} must be at least 2, since one seed has no interval, but is {n_seeds}."
        )


def _check_compare(config: Plain) -> None:
    if config["missing"] not in ("say", "start"):
        raise ConfigError(f"missing must be say or start, but is {config['missing']}.")
    confirm = config["confirm"]
    if confirm["top_k"] < 1:
        raise ConfigError(f"confirm.top_k must be at least 1, but is {confirm['top_k']}.")
    _check_seeds("confirm.n_seeds", confirm["n_seeds"])
    if not config["studies"] and not config["archs"]:
        raise ConfigError("archs must name at least one architecture, such as archs=[elu,selu].")


def _check_ablate(config: Plain) -> None:
    _check_seeds("n_seeds", config["n_seeds"])
    ablation = config["ablation"]
    wanted = config["levels"]
    if isinstance(wanted, str):
        raise ConfigError(f"levels must be a list, such as [{wanted}], but is {wanted}.")
    for name in wanted or ():
        if name not in ablation["levels"]:
            hint = did_you_mean(str(name), ablation["levels"])
            raise ConfigError(f"Ablation {ablation['name']} has no level {name}.{hint}")


def _check_report(config: Plain) -> None:
    path = Path(str(config["path"]))
    folder = path.absolute().parent
    reason = None
    if path.is_dir():
        reason = "it is a folder"
    elif not folder.is_dir():
        reason = f"there is no folder {folder}"
    elif path.exists() and not os.access(path, os.W_OK):
        reason = "the file cannot be replaced"
    elif not path.exists() and not os.access(folder, os.W_OK):
        reason = f"nothing can be written into {folder}"
    if reason is not None:
        raise ConfigError(f"path={path} must name a file that can be written, but {reason}.")


_CHECKS = {
    "search": _check_search,
    "compare": _check_compare,
    "ablate": _check_ablate,
    "report": _check_report,
}
