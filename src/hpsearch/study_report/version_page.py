"""The description of a registered model's version in MLflow, in Markdown.

It says which trial the version is from, what it is worth, how to load it and how to serve it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from hpsearch.command_form import store_in_shell
from hpsearch.secrets_in_text import has_secret
from hpsearch.tracking.tracking import Tracking

CERTIFICATE = "hpsearch.certificate"


def serving(model: str, uri: str) -> str:
    """Return the commands that serve a model of the MLflow store at `uri`."""
    return (
        f"export MLFLOW_TRACKING_URI={store_in_shell(uri)}\n"
        f"mlflow models serve -m {shlex.quote(model)} --env-manager local --port 5077"
    )


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
        if plain is None:
            continue
        values = f"{float(plain):.4f} plain"
        if mc is not None:
            values += f", {float(mc):.4f} with MC Dropout"
        lines.append(f"- {name}: {values}")
    return "\n".join(lines)


def describe(
    client: MlflowClient,
    name: str,
    number: str,
    uri: str,
) -> None:
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
    text = _text(client, found, uri)
    client.update_model_version(name, number, text)
    of_model = (
        "The best models of the studies of this name. `champion` is the one to use: a later "
        "version takes its place only where it is better on validation data by more than chance. "
        "`challenger` is the newest one that is not."
    )
    client.update_registered_model(name, of_model)


def _text(client: MlflowClient, found: ModelVersion, uri: str) -> str:
    tags = found.tags
    run_id = str(found.run_id)
    experiment_id = client.get_run(run_id).info.experiment_id
    runs = ("experiments", experiment_id, "runs")
    title = f"trial {tags['hpsearch.trial']}"
    trial = Tracking.link(title, *runs, run_id)
    parent_run_id = tags["parent_run"]
    study = Tracking.link(tags["hpsearch.study"], *runs, parent_run_id)
    paragraphs = [f"The model of {trial} of study {study}."]
    if tags.get("hpsearch.champion_because"):
        paragraphs.append(f"It became champion: {tags['hpsearch.champion_because']}.")
    elif tags.get("hpsearch.not_champion_because"):
        why = tags["hpsearch.not_champion_because"]
        paragraphs.append(f"It became challenger, not champion: {why}.")
    on_val = []
    for key, value in sorted(tags.items()):
        if key.startswith("val/"):
            on_val.append(f"{key} {float(value):.4f}")
    values = ", ".join(on_val)
    paragraphs += ["### What it is worth", f"On validation data: {values}."]
    on_test = quality(tags)
    if on_test:
        paragraphs += ["On test data, which no search has seen:", on_test]
    for key in ("hpsearch.verdict", CERTIFICATE):
        if key in tags:
            paragraphs.append(tags[key])
    return "\n\n".join([*paragraphs, _use(found, uri)])


def _inputs(model: str) -> tuple[tuple[int, ...], str, float]:
    """Return the shape of two inputs of a model, their type, and a value that it takes."""
    info = mlflow.models.get_model_info(model)
    known = info.metadata
    if not known:  # versions of earlier searches have it in their signature
        spec = info.signature.inputs.inputs[0]
        return (2, *spec.shape[1:]), spec.type.name, 0.0
    value = 0.0
    if known["dtype"] != "uint8" and known["range"]:
        low, high = known["range"]
        value = min(max(value, low), high)
    return (2, *known["shape"]), known["dtype"], value


def _use(found: ModelVersion, uri: str) -> str:
    """Return how to load and how to serve a version."""
    model = f"models:/{found.name}/{found.version}"
    shape, dtype, value = _inputs(model)
    imports = "import mlflow"
    store = json.dumps(uri)
    if has_secret(uri):
        imports = "import os\n\nimport mlflow"
        store = 'os.environ["MLFLOW_TRACKING_URI"]'  # which must be as it was for the search
    return f"""\
### Load it

```python
{imports}
import numpy as np

mlflow.set_tracking_uri({store})
images = np.full({shape}, {value:g}, "{dtype}")  # yours: raw pixels
model = mlflow.pyfunc.load_model("{model}")
print(model.predict(images))  # class, probabilities, uncertainties, conformal set, abstain
print(model.predict(images, params={{"method": "plain"}}))  # one pass, without MC Dropout
network = mlflow.keras.load_model("{model}")  # the Keras model itself
print(network.predict(images))
```

### Serve it

```bash
{serving(model, uri)}
```

and ask it, in another terminal:

```bash
python -c 'import json, numpy; print(json.dumps({{"instances": \
numpy.full({shape}, {value:g}).tolist()}}))' > request.json
curl -s http://127.0.0.1:5077/invocations -H 'Content-Type: application/json' -d @request.json
```"""
