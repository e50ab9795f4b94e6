"""Whether a saved model is the one that was made: asked of its file before a search, of a version
in a fresh process.

Before a search the file of a model that has not been trained is loaded in this process, which finds
what Keras cannot load at all. Before a version is registered it is loaded and measured in a process
that has nothing but the version.
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
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from hpsearch.data.split import Examples
from hpsearch.errors import ModelError, SearchError
from hpsearch.mc_dropout.passes import check_distributions
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.serving.fresh_process import first_line
from hpsearch.training.settings import VAL_BATCH_SIZE

SCRIPT = Path(__file__).with_name("fresh_process.py")
COUNTING = re.compile(
    r"acc|precision|recall|f1|auc|/error"
)  # metrics that a single example moves by 1 / n
N_COUNTED = 2  # examples that numerical noise may move
NOISE, MIXED_NOISE = 1e-3, 1e-2
LEAST = 1e-3  # noise is relative to this where a value is smaller
TIMEOUT_S = 1800
NOT_OURS = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_RUN_ID",
    "MLFLOW_EXPERIMENT_ID",
    "PYTHONPATH",
)
CURE = (
    "register its classes with @keras.saving.register_keras_serializable(), give each a "
    "get_config() that names all "
    "that its constructor takes, and put them in the module of arch._target_ or in one that it "
    "imports"
)

CURE_OF_LAMBDA = "Keras loads no Python lambda: put a named function in its place, with @keras.saving.register_keras_serializable()"


@dataclass(frozen=True)
class Expected:
    """What a study knows of a trial's model.

    Attributes:
        trial: What the trial is called, in sentences.
        monitor: The metric of the validation data that is measured again, such as `val/loss`.
        value: What the study reports of it; None where it reports none.
        compile_config: How the model was compiled, as Keras writes it; None where it was not.
        outputs: Of the trained model for the first validation images, (N, C); None where none were
            kept.
        noise: The relative difference that is numerical noise.
    """

    trial: str
    monitor: str
    value: float | None
    compile_config: Mapping[str, Any] | None
    outputs: NDArray[np.float32] | None
    noise: float = NOISE


def noise_of(precision: str) -> float:
    """Return the relative difference of two outputs that is numerical noise at a precision such as
    `mixed_float16`.
    """
    return MIXED_NOISE if precision.startswith("mixed") else NOISE


def check_before(
    model: keras.Model, images: NDArray[np.generic], settings: McDropout, noise: float
) -> str | None:
    """Refuse a model that could not be registered however well it is trained, before the search for
    it.

    Args:
        model: A built one, as a trial would train it.
        images: Of the validation data, (N, *image_shape); few are enough.
        settings: `from_logits` says whether the model gives logits.
        noise: The relative difference of two outputs that is numerical noise.

    Returns:
        A warning where the model of the file gives other outputs, which training may mend; else
        None.

    Raises:
        ModelError: Keras cannot load the file that it saves of the model, or the outputs are no
            class probabilities.
    """
    loaded = _saved_and_loaded(model)
    outputs = _outputs(model, images)
    if outputs is None:  # a model that only compiled programs can call is asked when it is trained
        return None
    if len(outputs) == 1:
        probs = (
            keras.ops.convert_to_numpy(keras.ops.softmax(outputs[0]))
            if settings.from_logits
            else outputs[0]
        )
        if np.isfinite(probs).all():  # one that has not been trained may overflow
            check_distributions(np.asarray(probs, np.float64), settings.from_logits)
    if _are_close(outputs, _outputs(loaded, images), noise):
        return None
    is_repeatable = _are_close(outputs, _outputs(model, images), noise)
    return (
        "A model was saved and loaded before the search, and the loaded one gives other outputs: "
        f"{_reason(is_repeatable)}. No model that ends so will be registered."
    )


def _saved_and_loaded(model: keras.Model) -> keras.Model:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        try:
            model.save(file, include_optimizer=False)
            return keras.models.load_model(file, compile=False)
        except OSError:  # of the disk
            raise
        except Exception as error:  # whatever Keras or a person's class raises
            said = first_line(error)
            raise ModelError(
                f"The models of this search could not be registered: Keras cannot save and load "
                f"one ({said}); "
                f"{cure(said)}."
            ) from error


def _outputs(model: keras.Model, images: NDArray[np.generic]) -> list[NDArray[np.float32]] | None:
    """Return each output of a model in inference mode; None where it cannot be called so."""
    try:
        outputs = keras.tree.flatten(model(keras.ops.convert_to_tensor(images), training=False))
        return [np.asarray(keras.ops.convert_to_numpy(output), np.float32) for output in outputs]
    except Exception:  # whatever stands in its `call`
        return None


def _are_close(
    some: list[NDArray[np.float32]], others: list[NDArray[np.float32]] | None, noise: float
) -> bool:
    return (
        others is not None
        and [array.shape for array in some] == [array.shape for array in others]
        and all(_is_close(*pair, noise) for pair in zip(some, others, strict=True))
    )


def _is_close(some: NDArray[np.float32], others: NDArray[np.float32], noise: float) -> bool:
    return bool(np.allclose(some, others, atol=noise, rtol=noise, equal_nan=True))


def _reason(is_repeatable: bool) -> str:
    """Return why a model may differ from the one of its file."""
    if is_repeatable:
        return "something that it computes with is neither among its weights nor in a get_config()"
    return "its answers differ from call to call, so a layer draws at random outside training"


def measure_again(folder: Path, val: Examples, n_classes: int, expected: Expected) -> str:
    """Measure a saved version in a fresh process that has nothing but what the version brings.

    Args:
        folder: Of the version, as MLflow has saved it.
        val: On which the study has measured it.
        n_classes: Of the data.
        expected: What must come out.

    Returns:
        What was measured, as a tag of the version: the value, or that its outputs were compared.

    Raises:
        SearchError: It cannot be loaded there, or gives something else.
    """
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        np.savez(place / "val.npz", images=val.images, labels=val.labels)
        n_outputs = 1 if expected.outputs is None else len(expected.outputs)
        paths = {"data": "val.npz", "outputs": "outputs.npy", "again": "again.npy"}
        asked: dict[str, Any] = {key: str(place / name) for key, name in paths.items()}
        asked |= {"folder": str(folder.resolve()), "n_outputs": n_outputs, "n_classes": n_classes}
        asked |= {"batch_size": VAL_BATCH_SIZE, "compile_config": expected.compile_config}
        answer = _answer(place, asked)
        if "failed" in answer:
            raise SearchError(
                f"The model of {expected.trial} is not registered: a process that has only what "
                f"the version brings "
                f"cannot load it ({answer['failed']}); {cure(answer['failed'])}."
            )
        outputs, again = np.load(asked["outputs"]), np.load(asked["again"])
    value = _check_value(expected, answer["metrics"].get(expected.monitor), len(val))
    _check_outputs(expected, outputs, again)
    return f"{value:.6g}" if value is not None else f"by its outputs: {_why(expected, answer)}"


def cure(failed: str) -> str:
    """Return what helps where a fresh process says this of a version."""
    return CURE_OF_LAMBDA if "lambda" in failed.lower() and "safe_mode" in failed else CURE


def _why(expected: Expected, answer: Mapping[str, Any]) -> str:
    return str(answer.get("not_compiled", f"there is no {expected.monitor}"))


def _answer(place: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    asking, cwd = place / "asked.json", place / "elsewhere"
    asking.write_text(json.dumps(asked))
    cwd.mkdir()
    command = [sys.executable, "-P", str(SCRIPT), str(asking)]
    environment = _environment()
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, errors="replace", check=False,
            timeout=TIMEOUT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"failed": f"it had no answer after {TIMEOUT_S} s"}
    answer = place / "answer.json"
    if done.returncode or not answer.exists():
        said = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        return {"failed": f"it ended with status {done.returncode}: {said[0]}"}
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def _environment() -> dict[str, str]:
    """Return this process's environment, without the folders that a person's code and this project
    lie in.
    """
    kept = {key: value for key, value in os.environ.items() if key not in NOT_OURS}
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    installed = [path for path in paths if path and any(Path(path).glob("*.dist-info"))]
    if installed:
        kept["PYTHONPATH"] = os.pathsep.join(str(Path(path).resolve()) for path in installed)
    return kept | {"KERAS_BACKEND": keras.backend.backend()}


def _check_value(expected: Expected, value: float | None, n_val: int) -> float | None:
    """Return the value where it could be measured, and what the study reports within noise."""
    if value is None or expected.value is None:
        return None
    allowed = expected.noise * max(abs(expected.value), LEAST)
    if COUNTING.search(expected.monitor):
        allowed = max(allowed, N_COUNTED / n_val)
    if not abs(value - expected.value) <= allowed + 1e-9:
        raise SearchError(
            f"The model of {expected.trial} is not registered: the study reports "
            f"{expected.monitor} "
            f"{expected.value:.6g}, but loaded in a fresh process it has {value:.6g}; something "
            f"that it computes with "
            "is neither among its weights nor in a get_config(), or a layer draws at random "
            "outside training."
        )
    return value


def _check_outputs(
    expected: Expected, outputs: NDArray[np.float32], again: NDArray[np.float32]
) -> None:
    trained = expected.outputs
    if trained is None:
        return
    if outputs.shape != trained.shape:
        raise SearchError(
            f"The model of {expected.trial} is not registered: trained, it answered "
            f"{trained.shape}, and loaded in a "
            f"fresh process {outputs.shape}; its get_config() lacks some of what its constructor "
            f"takes."
        )
    if _is_close(outputs, trained, expected.noise):
        return
    worst = np.unravel_index(np.nanargmax(np.abs(outputs - trained)), trained.shape)
    raise SearchError(
        f"The model of {expected.trial} is not registered: trained, it gave a validation image "
        f"{trained[worst]:.6g}, "
        f"and loaded in a fresh process {outputs[worst]:.6g}; "
        f"{_reason(_is_close(outputs, again, expected.noise))}."
    )
