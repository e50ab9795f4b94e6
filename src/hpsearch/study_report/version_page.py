"""What a version of a registered model says of itself in MLflow: where it is from, what it is
worth, how to use it.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from hpsearch.tracking.tracking import TRAINING

STUDY, CERTIFICATE, PORT = "hpsearch.study", "hpsearch.certificate", 5077
MEASURES = ("accuracy", "nll", "brier_score", "ece", "aurc")
OF_THE_MODEL = (
    "The best models of the studies of this name. `champion` is the one to use: a later version "
    "takes its place only "
    "where it is better on validation data by more than chance. `challenger` is the newest one "
    "that is not."
)


def link(text: str, *path: str) -> str:
    """Return a link within the MLflow UI, wherever it is served, to its side for training (the
    other one is GenAI).
    """
    return f"[{text}](#/{'/'.join(path)}?{TRAINING})"


def quality(tags: Mapping[str, str]) -> str:
    """Return what a version's tags say of its quality on test, plain and MC, as a list; empty where
    they say nothing.

    MLflow's pages crowd the columns of a table.
    """
    both = [name for name in MEASURES if f"test/plain/{name}" in tags and f"test/mc/{name}" in tags]
    shown = {
        name: [f"{float(tags[f'test/{arm}/{name}']):.4f}" for arm in ("plain", "mc")]
        for name in both
    }
    return "\n".join(
        f"- {name}: {plain} plain, {mc} with MC Dropout" for name, (plain, mc) in shown.items()
    )


def describe(client: MlflowClient, name: str, number: str, uri: str) -> None:
    """Write the descriptions of a version that a search has made, and of its model; others' stay as
    they are.

    Args:
        client: Of the MLflow store.
        name: Of the registered model.
        number: Of the version.
        uri: Where the store is, for the snippets.
    """
    found = client.get_model_version(name, number)
    if STUDY in found.tags:
        client.update_model_version(name, number, text(client, found, uri))
        client.update_registered_model(name, OF_THE_MODEL)


def text(client: MlflowClient, found: ModelVersion, uri: str) -> str:
    """Return the description of a version, in Markdown."""
    tags, run_id = found.tags, str(found.run_id)
    experiment = client.get_run(run_id).info.experiment_id
    trial = link(f"trial {tags['hpsearch.trial']}", "experiments", experiment, "runs", run_id)
    study = link(tags[STUDY], "experiments", experiment, "runs", tags["parent_run"])
    lines = [f"The model of {trial} of study {study}."]
    why = tags.get("hpsearch.champion_because") or tags.get("hpsearch.not_champion_because")
    if why:
        alias = "champion" if "hpsearch.champion_because" in tags else "challenger, not champion"
        lines += ["", f"It became {alias}: {why}."]
    val = ", ".join(
        f"{key} {float(value):.4f}" for key, value in sorted(tags.items()) if key.startswith("val/")
    )
    lines += ["", "### What it is worth", "", f"On validation data: {val}."]
    lines += (
        ["", "On test data, which no search has seen:", "", quality(tags)] if quality(tags) else []
    )
    lines += ["", *(tags[key] + "\n" for key in ("hpsearch.verdict", CERTIFICATE) if key in tags)]
    return "\n".join([*lines, *_use(found, uri)])


def _use(found: ModelVersion, uri: str) -> list[str]:
    model = f"models:/{found.name}/{found.version}"
    signature = mlflow.models.get_model_info(model).signature
    spec = signature.inputs.inputs[0]
    shape = (2, *spec.shape[1:])
    return [
        "### Load it",
        "",
        "```python",
        "import mlflow",
        "import numpy as np",
        "",
        f'mlflow.set_tracking_uri("{uri}")',
        f'images = np.zeros({shape}, "{spec.type.name}")  # yours: raw pixels',
        f'model = mlflow.pyfunc.load_model("{model}")',
        "print(model.predict(images))  # class, probabilities, uncertainties, conformal set, "
        "abstain",
        'print(model.predict(images, params={"method": "plain"}))  # one pass, without MC Dropout',
        f'network = mlflow.keras.load_model("{model}")  # the Keras model itself',
        "print(network.predict(images))",
        "```",
        "",
        "### Serve it",
        "",
        "```bash",
        f"export MLFLOW_TRACKING_URI={uri}",
        f"mlflow models serve -m {model} --env-manager local --port {PORT}",
        "```",
        "",
        "and ask it, in another terminal:",
        "",
        "```bash",
        f"python -c 'import json, numpy; "
        f'print(json.dumps({{"instances": numpy.zeros({shape}, int).tolist()}}))\' > '
        "request.json",
        f"curl -s http://127.0.0.1:{PORT}/invocations -H 'Content-Type: application/json' -d "
        f"@request.json",
        "```",
    ]
