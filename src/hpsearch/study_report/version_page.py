"""The description of a registered model's version in MLflow, in Markdown.

It says which trial the version is from, what it is worth, how to load it and how to serve it.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from hpsearch.tracking.tracking import TRAINING

CERTIFICATE = "hpsearch.certificate"
PORT = 5077


def link(text: str, *path: str) -> str:
    """Return a Markdown link to a page of the MLflow UI, wherever the UI is served.

    The link opens the UI for training; MLflow has another one for GenAI.
    """
    return f"[{text}](#/{'/'.join(path)}?{TRAINING})"


def quality(tags: Mapping[str, str]) -> str:
    """Return the quality of a version on test data, plain and with MC Dropout, as a list.

    It is a list because MLflow's pages crowd the columns of a table.

    Args:
        tags: The tags of the version.

    Returns:
        A line of Markdown for each measure that the tags hold; empty if they hold none.
    """
    lines = []
    for name in ("accuracy", "nll", "brier_score", "ece", "aurc"):
        plain = tags.get(f"test/plain/{name}")
        mc = tags.get(f"test/mc/{name}")
        if plain is not None and mc is not None:
            values = f"{float(plain):.4f} plain, {float(mc):.4f} with MC Dropout"
            lines.append(f"- {name}: {values}")
    return "\n".join(lines)


def describe(client: MlflowClient, name: str, number: str, uri: str) -> None:
    """Write the descriptions of a version that a search has made, and of its model.

    A version that no search has made keeps its description.

    Args:
        client: A client of the MLflow store.
        name: The name of the registered model.
        number: The number of the version.
        uri: The address of the MLflow store, for the code examples.
    """
    found = client.get_model_version(name, number)
    if "hpsearch.study" not in found.tags:
        return
    client.update_model_version(name, number, _text(client, found, uri))
    of_model = (
        "The best models of the studies of this name. `champion` is the one to use: a later "
        "version takes its place only where it is better on validation data by more than chance. "
        "`challenger` is the newest one that is not."
    )
    client.update_registered_model(name, of_model)


def _text(client: MlflowClient, found: ModelVersion, uri: str) -> str:
    tags = found.tags
    run_id = str(found.run_id)
    experiment = client.get_run(run_id).info.experiment_id
    trial = link(f"trial {tags['hpsearch.trial']}", "experiments", experiment, "runs", run_id)
    study = link(tags["hpsearch.study"], "experiments", experiment, "runs", tags["parent_run"])
    lines = [f"The model of {trial} of study {study}."]
    alias = "champion"
    why = tags.get("hpsearch.champion_because")
    if not why:
        alias = "challenger, not champion"
        why = tags.get("hpsearch.not_champion_because")
    if why:
        lines += ["", f"It became {alias}: {why}."]
    lines += ["", "### What it is worth", "", f"On validation data: {_validation(tags)}."]
    on_test = quality(tags)
    if on_test:
        lines += ["", "On test data, which no search has seen:", "", on_test]
    lines.append("")
    for key in ("hpsearch.verdict", CERTIFICATE):
        if key in tags:
            lines.append(tags[key] + "\n")
    return "\n".join([*lines, *_use(found, uri)])


def _validation(tags: Mapping[str, str]) -> str:
    """Return the metrics on validation data, separated by commas."""
    shown = []
    for key, value in sorted(tags.items()):
        if key.startswith("val/"):
            shown.append(f"{key} {float(value):.4f}")
    return ", ".join(shown)


def _use(found: ModelVersion, uri: str) -> list[str]:
    """Return the lines that say how to load and how to serve a version."""
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
