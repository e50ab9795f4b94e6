"""Checks that Keras and MLflow give back the model that was saved.

Before a search, `check_before` loads the file of an untrained model in this process, which finds
what Keras cannot load at all. Before a version is registered, `measure_again` loads and measures
it in a fresh process that has only what the version brings.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from hpsearch.data.forms import Images
from hpsearch.data.split import Examples
from hpsearch.errors import ModelError, SearchError
from hpsearch.models.own_code import config_of, names_in_main
from hpsearch.serving.fresh_process import Answer, Question, first_line


@dataclass(frozen=True)
class Expected:
    """What a study knows about the model of a trial.

    Attributes:
        trial: Name of the trial for sentences, such as "trial 3".
        monitor: Metric of the validation data that is measured again, such as `val/loss`.
        value: Value of this metric that the study reports, or None.
        compile_config: How the model was compiled, as Keras writes it; None if it was not.
        outputs: Outputs of the trained model for the first validation images, (N, C), or None.
        precision: Keras's dtype policy, such as `float32` or `mixed_float16`.
        batch_size: Batch size of the evaluation.
    """

    trial: str
    monitor: str
    value: float | None
    compile_config: Mapping[str, object] | None
    outputs: np.ndarray | None
    precision: str
    batch_size: int


def check_before(model: keras.Model, images: Images, precision: str) -> str | None:
    """Raise ModelError before a search if its models could never be registered.

    Args:
        model: A built model, as a trial would train it.
        images: A few images of the validation data, (N, *image_shape).
        precision: Keras's dtype policy, such as `float32` or `mixed_float16`.

    Returns:
        A warning if the loaded model gives other outputs, which training may change; else None.

    Raises:
        ModelError: Keras cannot load the file that it saves of the model.
    """
    loaded = _saved_and_loaded(model)
    outputs = _outputs(model, images)
    if outputs is None:  # only compiled programs can call the model, so training will check it
        return None
    if _are_close(outputs, _outputs(loaded, images), precision):
        return None
    is_repeatable = _are_close(outputs, _outputs(model, images), precision)
    return (
        "A model was saved and loaded before the search, and the loaded one gives other outputs: "
        f"{_reason(is_repeatable)}. A model that still differs after training will not be "
        "registered."
    )


def _saved_and_loaded(model: keras.Model) -> keras.Model:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        try:
            model.save(file, include_optimizer=False)
            _refuse_main(file)
            return keras.models.load_model(file, compile=False)
        except (OSError, ModelError):  # an error of the disk, or what was refused
            raise
        except Exception as error:  # Keras or a user's class can raise any error
            said = first_line(error)
            raise ModelError(
                "The models of this search could not be registered: Keras cannot save and load "
                f"one ({said}); {cure(said)}."
            ) from error


def _refuse_main(file: Path) -> None:
    """Raise ModelError if a saved model has classes or functions of a notebook or script."""
    config = config_of(file)
    config.pop("compile_config", None)  # without its loss a model is known by its outputs
    names = names_in_main(config)
    if names:
        listed = ", ".join(names)
        raise ModelError(
            f"The models of this search could not be registered: {listed} is defined in the "
            "notebook or script itself, which no other process can import; put it into a module, "
            "a .py file beside it, and import it from there."
        )


def _outputs(model: keras.Model, images: Images) -> list[np.ndarray] | None:
    """Return all outputs of a model in inference mode, or None if it cannot be called directly."""
    try:
        outputs = model(keras.ops.convert_to_tensor(images), training=False)
        arrays = []
        for output in keras.tree.flatten(outputs):
            array = keras.ops.convert_to_numpy(output)
            arrays.append(np.asarray(array, np.float32))
    except Exception:  # a user's `call` can raise any error
        return None
    return arrays


def _are_close(
    some: list[np.ndarray],
    others: list[np.ndarray] | None,
    precision: str,
) -> bool:
    if others is None or len(some) != len(others):
        return False
    for first, second in zip(some, others, strict=True):
        if first.shape != second.shape or not _is_close(first, second, precision):
            return False
    return True


def _is_close(
    some: np.ndarray,
    others: np.ndarray,
    precision: str,
) -> bool:
    noise = _noise_of(precision)
    return bool(np.allclose(some, others, atol=noise, rtol=noise, equal_nan=True))


def _noise_of(precision: str) -> float:
    """Return the relative difference that counts as numerical noise."""
    if precision.startswith("mixed"):
        return 1e-2
    return 1e-3


def _reason(is_repeatable: bool) -> str:
    """Return why a model may differ from the one that was saved."""
    if is_repeatable:
        return "something that it computes with is neither among its weights nor in a get_config()"
    return "its answers differ from call to call, so a layer draws at random outside training"


def measure_again(folder: Path, val: Examples, n_classes: int, expected: Expected) -> str:
    """Measure a saved version in a fresh process that has only what the version brings.

    Args:
        folder: Folder of the version, as MLflow saved it.
        val: Validation data on which the study measured the model.
        n_classes: Number of classes of the data.
        expected: What the study knows about the model.

    Returns:
        The measured value, or a text which says that the outputs were compared. It becomes a tag
        of the version.

    Raises:
        SearchError: The version cannot be loaded there, or gives other numbers.
    """
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        data = place / "val.npz"
        np.savez(data, images=val.inputs, labels=val.targets)
        n_outputs = 1
        if expected.outputs is not None:
            n_outputs = len(expected.outputs)
        question = Question(
            folder=str(folder.resolve()),
            data=str(data),
            outputs=str(place / "outputs.npy"),
            again=str(place / "again.npy"),
            n_outputs=n_outputs,
            n_classes=n_classes,
            batch_size=expected.batch_size,
            compile_config=expected.compile_config,
        )
        answer = _answer(place, question)
        if "failed" in answer:
            failed = answer["failed"]
            raise SearchError(
                f"The model of {expected.trial} is not registered: a process that has only what "
                f"the version brings cannot load it ({failed}); {cure(failed)}."
            )
        outputs = np.load(question["outputs"])
        again = np.load(question["again"])
    measured = answer["metrics"].get(expected.monitor)
    value = _check_value(expected, measured, len(val))
    _check_outputs(expected, outputs, again)
    if value is None:
        why = answer.get("not_compiled", f"there is no {expected.monitor}")
        return f"by its outputs: {why}"
    return f"{value:.6g}"


def cure(failed: str) -> str:
    """Return what a user can do about an error of Keras while it loads a model.

    Args:
        failed: The message of the error.
    """
    if "lambda" in failed.lower() and "safe_mode" in failed:
        return (
            "Keras does not load Python lambdas: put a named function in its place, with "
            "@keras.saving.register_keras_serializable()"
        )
    return (
        "register its classes with @keras.saving.register_keras_serializable(), give each a "
        "get_config() that names all arguments of its constructor, and put them in the module of "
        "arch._target_ or in one that it imports"
    )


def _answer(place: Path, question: Question) -> Answer:
    """Run the script in a fresh process and return its answer."""
    asking = place / "asked.json"
    asking.write_text(json.dumps(question))
    cwd = place / "elsewhere"
    cwd.mkdir()
    script = Path(__file__).with_name("fresh_process.py")
    command = [sys.executable, "-P", str(script), str(asking)]
    timeout_s = 1800
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=_environment(),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"it did not end within {timeout_s} s"}
    file = place / "answer.json"
    if done.returncode or not file.exists():
        lines = done.stderr.strip().splitlines() or ["it wrote no message"]
        return {"failed": f"it ended with status {done.returncode}: {lines[-1]}"}
    answer: Answer = json.loads(file.read_text())
    return answer


def _environment() -> dict[str, str]:
    """Return this process's environment without the paths of user code and of this project."""
    left_out = (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_REGISTRY_URI",
        "MLFLOW_RUN_ID",
        "MLFLOW_EXPERIMENT_ID",
        "PYTHONPATH",
    )
    kept = {key: value for key, value in os.environ.items() if key not in left_out}
    installed = []
    paths = os.environ.get("PYTHONPATH", "")
    for path in paths.split(os.pathsep):
        folder = Path(path)
        if path and any(folder.glob("*.dist-info")):
            installed.append(str(folder.resolve()))
    if installed:
        kept["PYTHONPATH"] = os.pathsep.join(installed)
    kept["KERAS_BACKEND"] = keras.backend.backend()
    return kept


def _check_value(
    expected: Expected,
    value: float | None,
    n_val: int,
) -> float | None:
    """Return the value if it could be compared; raise SearchError if it is beyond noise."""
    if value is None or expected.value is None:
        return None
    size = max(abs(expected.value), 1e-3)
    allowed = _noise_of(expected.precision) * size
    # One example moves these metrics by 1 / n, and noise may move two examples.
    if re.search(r"acc|precision|recall|f1|auc|/error", expected.monitor):
        allowed = max(allowed, 2 / n_val)
    if not abs(value - expected.value) <= allowed + 1e-9:  # true for NaN
        raise SearchError(
            f"The model of {expected.trial} is not registered: the study reports "
            f"{expected.monitor} {expected.value:.6g}, but loaded in a fresh process it has "
            f"{value:.6g}; something that it computes with is neither among its weights nor in a "
            "get_config(), or a layer draws at random outside training."
        )
    return value


def _check_outputs(
    expected: Expected,
    outputs: np.ndarray,
    again: np.ndarray,
) -> None:
    """Raise SearchError if the outputs are not those of the trained model."""
    trained = expected.outputs
    if trained is None:
        return
    if outputs.shape != trained.shape:
        raise SearchError(
            f"The model of {expected.trial} is not registered: the trained model returned shape "
            f"{trained.shape}, but loaded in a fresh process it returned {outputs.shape}; its "
            "get_config() does not name all arguments of its constructor."
        )
    if _is_close(outputs, trained, expected.precision):
        return
    gaps = np.abs(outputs - trained)
    place = np.nanargmax(gaps)
    worst = np.unravel_index(place, trained.shape)
    is_repeatable = _is_close(outputs, again, expected.precision)
    reason = _reason(is_repeatable)
    raise SearchError(
        f"The model of {expected.trial} is not registered: for a validation image the trained "
        f"model returned {trained[worst]:.6g}, but loaded in a fresh process it returned "
        f"{outputs[worst]:.6g}; {reason}."
    )
