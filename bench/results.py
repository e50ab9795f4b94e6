"""Print the champions of an MLflow store as the tables of docs/results.md, and write them as JSON.

    python bench/results.py sqlite:///mlflow.db --data cifar10 --json docs/results/cifar10.json

Run it where the searches ran; nothing is trained. The second table needs `hpsearch evaluate` for
each model.
"""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

HYPERPARAMETERS = ("learning_rate", "momentum", "dropout_rate")
COLUMNS = (
    "arch",
    "val accuracy % / NLL",
    "best val accuracy of a trial",
    "test, plain",
    "test, MC Dropout",
    "learning rate, momentum, dropout rate",
    "trials finished + pruned",
    "minutes",
)

QUALITIES = ("accuracy", "nll", "ece")
EXAMINED = (
    "arch",
    *(f"{name}, plain / MC" for name in QUALITIES),
    "NLL after temperature scaling",
    "MC Dropout",
)


def champion(client: MlflowClient, name: str) -> dict[str, Any]:
    """Return what the registry and the runs know of a registered model's champion."""
    found = client.get_model_version_by_alias(name, "champion")
    trial = client.get_run(found.run_id)
    parent = client.get_run(found.tags["parent_run"])
    tags = {
        key: float(value) for key, value in found.tags.items() if key.startswith(("val/", "test/"))
    }
    hyperparameters = {
        key: float(trial.data.params[key]) for key in HYPERPARAMETERS if key in trial.data.params
    }
    trials = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    best = max(
        run.data.metrics.get("best/val/accuracy", 0.0)
        for run in trials
        if run.info.status == "FINISHED"
    )
    counts = {
        key: int(value) for key, value in parent.data.metrics.items() if key.startswith("trials/")
    }
    return {
        "model": name,
        "version": found.version,
        "seed": int(parent.data.params["seed"]),
        "trial": int(trial.data.tags["hpsearch.trial"]),
        "best_epoch": int(trial.data.metrics["best/epoch"]),
        "minutes": round((parent.info.end_time - parent.info.start_time) / 60000, 1),
        "best_val_accuracy_of_a_trial": best,
        **hyperparameters,
        **counts,
        **tags,
    }


def row(found: dict[str, Any]) -> str:
    """Return a champion as a row of Markdown."""
    plain, mc = (
        f"{100 * found[f'test/{arm}/accuracy']:.1f} / {found[f'test/{arm}/nll']:.3f}"
        for arm in ("plain", "mc")
    )
    drawn = ", ".join(f"{found[key]:.3g}" for key in HYPERPARAMETERS if key in found)
    trials = f"{found['trials/finished']} + {found['trials/pruned']}"
    val = f"{100 * found['val/accuracy']:.1f} / {found['val/loss']:.3f}"
    best = f"{100 * found['best_val_accuracy_of_a_trial']:.1f}"
    cells = [
        f"`{found['model'].partition('-')[2]}`",
        val,
        best,
        plain,
        mc,
        drawn,
        trials,
        f"{found['minutes']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def examined(client: MlflowClient, found: dict[str, Any]) -> str | None:
    """Return the latest evaluation of a champion as a row of Markdown; None where there is none."""
    experiments = [e.experiment_id for e in client.search_experiments()]
    whose = {"kind": "evaluation", "model": found["model"], "version": found["version"]}
    asked = " and ".join(f"tags.`hpsearch.{key}` = '{value}'" for key, value in whose.items())
    runs = client.search_runs(
        experiments, f"{asked} and status = 'FINISHED'", order_by=["start_time DESC"]
    )
    if not runs:
        return None
    measured = runs[0].data.metrics
    found["evaluation"] = {key: value for key, value in measured.items() if key.count("/") == 2}
    found["verdict"] = client.get_model_version(found["model"], found["version"]).tags[
        "hpsearch.verdict"
    ]
    pairs = [*(("", name) for name in QUALITIES), ("_scaled", "nll")]
    cells = [
        " / ".join(f"{measured[f'test/{arm}{form}/{name}']:.4f}" for arm in ("plain", "mc"))
        for form, name in pairs
    ]
    said = found["verdict"].partition("left on, ")[2].partition(". ")[0]
    return f"| `{found['model'].partition('-')[2]}` | {' | '.join(cells)} | {said} |"


def main() -> None:
    """Read the store that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    client = MlflowClient(given.store, registry_uri=given.store)
    names = sorted(
        m.name for m in client.search_registered_models() if m.name.startswith(f"{given.data}-")
    )
    champions = [champion(client, name) for name in names]
    print(f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}", sep="\n")
    for found in champions:
        print(row(found))
    rows = [line for line in (examined(client, found) for found in champions) if line]
    print("", f"| {' | '.join(EXAMINED)} |", f"|{'---|' * len(EXAMINED)}", *rows, sep="\n")
    if given.json:
        machine = {
            "python": platform.python_version(),
            "tensorflow": version("tensorflow"),
            "keras": version("keras"),
        }
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(
            json.dumps({"machine": machine, "champions": champions}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
