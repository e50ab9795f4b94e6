"""The ablate job: compose the arms of an ablation and train them.

`experiments.ablation` trains the arms and compares them.
"""

from __future__ import annotations

from rich.console import Console

from hpsearch import command_form
from hpsearch.experiments.ablation import Ablate
from hpsearch.experiments.answers import Answer
from hpsearch.experiments.arms import Arm
from hpsearch.experiments.finished_study import FinishedStudy
from hpsearch.jobs.composed import Composed
from hpsearch.jobs.settings import check_job
from hpsearch.study.storage import to_read


def ablate(job: Composed, console: Console) -> Answer:
    """Train what is missing of an ablation, print the tables, and return the answer.

    Args:
        job: The ablation; its parts are ablation, data, storage and tracking.
        console: Where progress and tables are printed.
    """
    config = job.config
    check_job("ablate", config)
    n_seeds = config["n_seeds"]
    champion = {}
    if config["from_study"] is None:
        tracking = job.parts["tracking"]()
    else:
        storage = to_read(job.parts["storage"])
        study = FinishedStudy.find(config["from_study"], storage)
        tracking = job.parts["tracking"](must_exist=True)
        best = study.trials[0]
        recorded = study.config(tracking)
        champion = study.hyperparameters(best, recorded)
    # The overrides of an arm's level come last, and so they win.
    shared = [f"++hyperparameters.{name}={value}" for name, value in champion.items()]
    shared += [word for word in job.typed if not word.startswith("levels=")]
    ablation = job.parts["ablation"]
    arms = []
    for name, level, across, overrides in ablation.cells(config["levels"]):
        of_arm = job.compose([*shared, *overrides])
        described = {key: of_arm[key] for key in Arm.PARTS if key in of_arm}
        parts = job.build(described)
        arm = Arm(name, parts, of_arm["hyperparameters"], level, across, of_arm)
        arms.append(arm)
    config["hyperparameters"].update(champion)
    command = command_form.command("ablate", *job.options, *job.typed)
    data = job.parts["data"]
    seed = config["seed"]
    experiment = Ablate(ablation, arms, data, tracking, seed, n_seeds)
    return experiment.run(config, command, console)
