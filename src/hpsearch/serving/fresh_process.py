"""Script that loads and measures a saved model version in a process of its own.

`measured_again` runs this file with one argument: the path of a JSON file that holds a `Question`.
The script writes an `Answer` to `answer.json` beside it. The process has only the code that the
version brings, so nothing of this project is imported from elsewhere.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    import keras
    import numpy as np
    from numpy.typing import NDArray


class Question(TypedDict):
    """What the script has to do.

    Attributes:
        folder: Folder of the version, as MLflow saved it.
        data: Path of an .npz file with validation `images` and `labels`.
        outputs: Path to which the outputs for the first images are written.
        again: Path to which the outputs of a second call are written.
        n_outputs: Number of these first images.
        n_classes: Number of classes of the data.
        batch_size: Batch size of the evaluation.
        compile_config: How Keras wrote that the model was compiled, or None.
    """

    folder: str
    data: str
    outputs: str
    again: str
    n_outputs: int
    n_classes: int
    batch_size: int
    compile_config: Mapping[str, object] | None


class Answer(TypedDict, total=False):
    """What the script found.

    Attributes:
        failed: Why the version cannot be loaded.
        metrics: Values of the metrics on the validation data, by their names in MLflow.
        not_compiled: Why the metrics could not be measured.
    """

    failed: str
    metrics: dict[str, float]
    not_compiled: str


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message, without the configurations Keras adds."""
    parts = str(error).split("Exception encountered:")
    text = parts[-1].strip()
    if not text:
        return type(error).__name__
    line = text.splitlines()[0]
    said = re.split(r" ?(?:Full object )?config: ?\{", line)[0]
    max_shown = 300  # characters
    if len(said) > max_shown:
        return f"{said[:max_shown]}…"
    return said


def _main(path: Path) -> None:
    question: Question = json.loads(path.read_text())
    try:
        answer = _measured(question)
    except Exception as error:  # any error of a library or of a user's code is the answer
        answer = {"failed": first_line(error)}
    path.with_name("answer.json").write_text(json.dumps(answer))


def _measured(question: Question) -> Answer:
    """Load the version, write its outputs twice, and return its metrics."""
    import mlflow  # noqa: PLC0415 (an import that fails is an answer too)
    import numpy as np  # noqa: PLC0415
    from keras import ops  # noqa: PLC0415

    # Versions are served in this way. The call also puts the version's code on the path.
    # Nothing is compiled beforehand, since no request follows.
    mlflow.pyfunc.load_model(question["folder"], model_config={"warm_up": False})
    model = mlflow.keras.load_model(question["folder"])
    data = np.load(question["data"])
    images = data["images"]
    first_images = ops.convert_to_tensor(images[: question["n_outputs"]])
    for path in (question["outputs"], question["again"]):
        outputs = model(first_images, training=False)
        array = ops.convert_to_numpy(outputs)
        np.save(path, np.asarray(array, np.float32))
    try:
        metrics = _evaluated(model, question, images, data["labels"])
    except Exception as error:  # without its loss, such as a closure, outputs can be compared
        return {"metrics": {}, "not_compiled": first_line(error)}
    return {"metrics": metrics}


def _evaluated(
    model: keras.Model,
    question: Question,
    images: NDArray[np.generic],
    labels: NDArray[np.generic],
) -> dict[str, float]:
    """Return the metrics of the validation data, measured by the compiled model."""
    import keras  # noqa: PLC0415

    # The version's own code.
    from hpsearch.models.loss_and_optimizer import labels_for, numbers_of  # noqa: PLC0415

    if question["compile_config"] is None:
        raise ValueError("the trial has kept a model without a loss")
    model.compile_from_config(question["compile_config"])
    if labels_for(model) == "onehot":
        labels = keras.utils.to_categorical(labels, question["n_classes"])
    batch_size = question["batch_size"]
    found = model.evaluate(
        images,
        labels,
        batch_size=batch_size,
        verbose=0,
        return_dict=True,
    )
    numbers = numbers_of(found)
    return {f"val/{name}": value for name, value in numbers.items()}


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
