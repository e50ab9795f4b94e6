"""What a fresh process runs to measure a saved version: nothing of this project is imported but
what it brought.

It is run as a file, by `measured_again`, with one argument: a JSON file that says what to do.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

MAX_SHOWN = 300  # characters of a library's message


def main(path: Path) -> None:
    """Load the version, ask it, and write what came out beside `path`."""
    asked = json.loads(path.read_text())
    try:
        answer = _measured(asked)
    except Exception as error:  # whatever a person's code or a library raises is the answer
        answer = {"failed": first_line(error)}
    path.with_name("answer.json").write_text(json.dumps(answer))


def _measured(asked: dict[str, Any]) -> dict[str, Any]:
    import mlflow  # noqa: PLC0415 (an import that fails is an answer too)
    import numpy as np  # noqa: PLC0415
    from keras import ops  # noqa: PLC0415

    mlflow.pyfunc.load_model(
        asked["folder"]
    )  # it is served so; this puts the version's code on the path
    model = mlflow.keras.load_model(asked["folder"])
    data = np.load(asked["data"])
    images = ops.convert_to_tensor(data["images"][: asked["n_outputs"]])
    for name in ("outputs", "again"):
        outputs = ops.convert_to_numpy(model(images, training=False))
        np.save(asked[name], np.asarray(outputs, np.float32))
    try:
        return {"metrics": _evaluated(model, asked, data["images"], data["labels"])}
    except Exception as error:  # its loss may be a closure: outputs can be compared all the same
        return {"metrics": {}, "not_compiled": first_line(error)}


def _evaluated(model: Any, asked: dict[str, Any], images: Any, labels: Any) -> dict[str, float]:
    import keras  # noqa: PLC0415

    from hpsearch.models.loss_and_optimizer import labels_for  # noqa: PLC0415 (the version's own)
    from hpsearch.training.programs.program import numbers_of  # noqa: PLC0415

    if asked["compile_config"] is None:
        raise ValueError("the trial has kept a model without a loss")
    model.compile_from_config(asked["compile_config"])
    if labels_for(model) == "onehot":
        labels = keras.utils.to_categorical(labels, asked["n_classes"])
    found = model.evaluate(
        images, labels, batch_size=asked["batch_size"], verbose=0, return_dict=True
    )
    return {f"val/{name}": value for name, value in numbers_of(found).items()}


def first_line(error: BaseException) -> str:
    """Return what a library says, without the configurations that Keras adds to it."""
    text = str(error).split("Exception encountered:")[-1].strip() or type(error).__name__
    said = re.split(r" ?(?:Full object )?config: ?\{", text.splitlines()[0])[0]
    return said if len(said) <= MAX_SHOWN else f"{said[:MAX_SHOWN]}…"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
