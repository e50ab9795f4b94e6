"""The model that `mlflow models serve` runs: MLflow's pyfunc interface, answers with their
uncertainty.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

from hpsearch import metrics
from hpsearch.errors import ModelError
from hpsearch.evaluation.evaluated_model import plain_probs
from hpsearch.mc_dropout.passes import Sampler
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.models.own_code import import_all

MODEL, RECORD = "data/model.keras", "served.json"  # in the artifact folder `served`
MAX_SAMPLES = 10_000
METHODS = ("mc", "plain")
INT31 = 2**31


@dataclass(frozen=True)
class Record:
    """What a served model knows beside its weights.

    Attributes:
        settings: How MC Dropout is done.
        class_names: A name for each class.
        image_shape: Height, width, channels.
        thresholds: By method, the probability from which on a class belongs to the conformal set; a
            model without dropout has no "mc".
        modules: To be imported before the model is loaded.
    """

    settings: McDropout
    class_names: list[str]
    image_shape: tuple[int, int, int]
    thresholds: dict[str, float]
    modules: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read what `vars` of a record has been written as JSON."""
        known = json.loads(path.read_text())
        known["settings"], known["image_shape"] = (
            McDropout(**known["settings"]),
            tuple(known["image_shape"]),
        )
        return cls(**known)


class ServedModel(PythonModel):
    """Answers with class, probabilities, uncertainties, conformal set and an abstain flag for each
    image.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load weights and record from the artifact folder."""
        folder = Path(context.artifacts["served"])
        self.record = Record.read(folder / RECORD)
        import_all(self.record.modules)
        self.model = keras.models.load_model(folder / MODEL, compile=False)
        self.sampler = (
            Sampler(self.model, self.record.settings) if "mc" in self.record.thresholds else None
        )

    def predict(
        self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return one row an image.

        Args:
            context: Of MLflow; not used.
            model_input: Raw pixels, (N, H, W, C).
            params: `method`: "mc" or "plain"; `n_samples`; `seed`: the same gives the same answer;
                `return_samples`.

        Raises:
            MlflowException: A request that cannot be answered, in one sentence; HTTP status 400.
        """
        try:
            images = self._checked(model_input)
            return self._answer(images, **self._params(params or {}))
        except (ModelError, ValueError, TypeError) as error:
            raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from error

    def _checked(self, given: Any) -> NDArray[Any]:
        images = np.asarray(given)
        if images.ndim != 4 or images.shape[1:] != self.record.image_shape or not len(images):
            raise ModelError(
                f"Expected images (N, {_axes(self.record.image_shape)}), received shape "
                f"{images.shape}."
            )
        if images.dtype.kind not in "iuf" or not np.isfinite(images).all():
            raise ModelError(
                f"Expected finite pixel values, received {images.dtype} with other values."
            )
        return images

    def _params(self, given: dict[str, Any]) -> dict[str, Any]:
        settings = self.record.settings
        method = given.get("method") or ("mc" if self.sampler else "plain")
        n_samples = settings.n_samples if given.get("n_samples") is None else given["n_samples"]
        seed = settings.seed if given.get("seed") is None else given["seed"]
        if method not in METHODS:
            raise ModelError(
                f"Expected method to be one of {', '.join(METHODS)}, received {method!r}."
            )
        if method == "mc" and self.sampler is None:
            raise ModelError("Expected method to be plain: this model has no dropout to sample.")
        if not 1 <= n_samples <= MAX_SAMPLES:
            raise ModelError(f"Expected n_samples from 1 to {MAX_SAMPLES}, received {n_samples}.")
        if not 0 <= seed < INT31:
            raise ModelError(f"Expected a seed from 0 to {INT31 - 1}, received {seed}.")
        return {"method": method, "n_samples": int(n_samples), "seed": int(seed),
                "return_samples": bool(given.get("return_samples"))}  # fmt: skip

    def _answer(
        self, images: NDArray[Any], method: str, n_samples: int, seed: int, return_samples: bool
    ) -> pd.DataFrame:
        names, threshold, n = (
            np.asarray(self.record.class_names),
            self.record.thresholds[method],
            len(images),
        )
        padded = images[
            np.minimum(np.arange(2 ** math.ceil(math.log2(n))), n - 1)
        ]  # few shapes, few compilations
        if method == "mc" and self.sampler is not None:
            mc = self.sampler.predict(padded, n_samples=n_samples, seed=seed)
            probs, entropy, information = (
                mc.probs[:n],
                mc.predictive_entropy[:n],
                mc.mutual_information[:n],
            )
        else:
            probs = plain_probs(self.model, padded, self.record.settings)[:n]
            entropy, information = metrics.predictive_entropy(probs), np.zeros(n)
        sets = [names[held].tolist() for held in probs >= threshold]
        answer = pd.DataFrame(
            {
                "class": names[probs.argmax(axis=1)].tolist(),
                "probabilities": probs.tolist(),
                "predictive_entropy": entropy,
                "mutual_information": information,
                "conformal_set": sets,
                "abstain": [len(held) != 1 for held in sets],
            }
        )
        if return_samples and method == "mc" and self.sampler is not None:
            samples = self.sampler.samples(padded, n_samples=n_samples, seed=seed)[:, :n]
            answer["samples"] = np.swapaxes(samples, 0, 1).tolist()
        return answer


def _axes(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))
