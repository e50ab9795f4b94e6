"""The ablate job: compose the arms of an ablation and train them.

`experiments.ablation` trains the arms and compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console

from hpsearch.experiments.ablation import Ablate
from hpsearch.experiments.answers import Answer
from hpsearch.experiments.arms import Arm
from hpsearch.experiments.finished_study import FinishedStudy
from hpsearch.experiments.session import PARTS, check_seeds


def ablate(
    config: dict[str, Any],
    parts: Mapping[str, Any],
    typed: Sequence[str],
    console: Console,
    *,
    compose: Callable[[Sequence[str]], dict[str, Any]],
    build: Callable[[Mapping[str, object]], Any],
) -> Answer:
    """Train what is missing of an ablation, print the tables, and return the answer.

    Args:
        config: The composed configuration as plain data.
        parts: The parts of the job: ablation, data, storage and tracking.
        typed: The overrides of the command line.
        console: Where progress and tables are printed.
        compose: Returns the configuration of other overrides.
        build: Returns the parts that some settings describe.
    """
    check_seeds("n_seeds", config["n_seeds"])
    tracking = parts["tracking"]()
    champion = {}
    if config["from_study"] is not None:
        study = FinishedStudy.find(config["from_study"], parts["storage"]())
        champion = study.hyperparameters(study.trials[0], study.config(tracking))
    # The overrides of an arm's level come last, and so they win.
    shared = [f"++hyperparameters.{name}={value}" for name, value in champion.items()]
    shared += _without("levels=", typed)
    arms = []
    for name, level, across, overrides in parts["ablation"].cells(config["levels"]):
        plain = compose([*shared, *overrides])
        of_arm = build({key: plain[key] for key in PARTS if key in plain})
        arms.append(Arm(name, of_arm, plain["hyperparameters"], level, across, plain))
    job = Ablate(
        parts["ablation"], arms, parts["data"], tracking, config["seed"], config["n_seeds"]
    )
    config["hyperparameters"].update(champion)
    command = " ".join(["python -m hpsearch ablate", *_without("data.path=", typed)])
    return job.run(config, command, console)


def _without(prefix: str, words: Sequence[str]) -> list[str]:
    return [word for word in words if not word.startswith(prefix)]
