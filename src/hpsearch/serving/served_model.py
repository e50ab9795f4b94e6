"""The model that `mlflow models serve` runs: predictions of a Keras model with uncertainty.

`ServedModel` implements MLflow's pyfunc interface. `Record` holds what is stored beside the
weights: settings of MC Dropout, names of the classes and thresholds of the conformal sets.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import ArrayLike, NDArray

from hpsearch import metrics
from hpsearch.errors import ModelError
from hpsearch.evaluation.evaluated_model import plain_probs
from hpsearch.mc_dropout.passes import Sampler
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.models.own_code import import_modules


@dataclass(frozen=True)
class Record:
    """Properties of a served model that are stored beside its weights.

    Attributes:
        settings: Settings of MC Dropout.
        class_names: A name for each class.
        image_shape: Height, width, channels of an image; the shape of any other input.
        thresholds: By method, the smallest probability with which a class belongs to the conformal
            set, in [0, 1]. A model without dropout has no "mc".
        modules: Modules to import before the model is loaded.
        FILE: The file of the record in the artifact folder `served`.
        MODEL_FILE: The file of the model in the same folder.
    """

    FILE: ClassVar[str] = "served.json"
    MODEL_FILE: ClassVar[str] = "data/model.keras"

    settings: McDropout
    class_names: list[str]
    image_shape: tuple[int, ...]
    thresholds: dict[str, float]
    modules: list[str] = field(default_factory=list)

    @property
    def default_method(self) -> str:
        """The method of a request that names none: "mc" if the model has dropout."""
        if "mc" in self.thresholds:
            return "mc"
        return "plain"

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a record from the JSON file that was written of its fields."""
        known = json.loads(path.read_text())
        known["settings"] = McDropout(**known["settings"])
        known["image_shape"] = tuple(known["image_shape"])
        return cls(**known)


class _Request(NamedTuple):
    """Parameters of a request, checked."""

    method: str
    n_samples: int
    seed: int
    return_samples: bool


class ServedModel(PythonModel):
    """Model that returns, for each image, the class, its probabilities and their uncertainties.

    It also returns the conformal set, and whether to abstain, which is where the set does not hold
    exactly one class.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model and its record from the artifact folder."""
        folder = Path(context.artifacts["served"])
        self.record = Record.read(folder / Record.FILE)
        import_modules(self.record.modules)
        file = folder / Record.MODEL_FILE
        self.model = keras.models.load_model(file, compile=False)
        self.sampler: Sampler | None = None
        if "mc" in self.record.thresholds:
            self.sampler = Sampler(self.model, self.record.settings)

    def predict(
        self,
        context: Any,
        model_input: np.ndarray,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Return one row per image.

        Args:
            context: Context of MLflow; not used.
            model_input: Raw pixels, (N, H, W, C), or other inputs of the shape in the record.
            params: `method`, "mc" or "plain"; `n_samples`, from 1 to 10,000; `seed`, where equal
                seeds give equal answers; `return_samples`.

        Raises:
            MlflowException: The request cannot be answered. The text is one sentence; the HTTP
                status is 400.
        """
        try:
            images = self._checked(model_input)
            request = self._request(params or {})
            return self._answer(images, request)
        except (ModelError, ValueError, TypeError) as error:
            raise MlflowException(str(error), INVALID_PARAMETER_VALUE) from error

    def _checked(self, given: ArrayLike) -> NDArray[np.number]:
        """Return the images of a request as an array, or raise ModelError."""
        images = np.asarray(given)
        image_shape = self.record.image_shape
        is_batch = images.ndim > 1 and len(images) > 0
        if not is_batch or images.shape[1:] != image_shape:
            kind = "inputs"
            if len(image_shape) == 3:
                kind = "images"
            axes = ", ".join(map(str, image_shape))
            raise ModelError(f"Expected {kind} (N, {axes}), received shape {images.shape}.")
        is_number = images.dtype.kind in "iuf"
        if not is_number or not np.isfinite(images).all():
            raise ModelError(
                f"Expected finite pixel values, received {images.dtype} with other values."
            )
        return images

    def _request(self, given: dict[str, Any]) -> _Request:
        """Return the parameters of a request with their defaults, or raise ModelError."""
        method = given.get("method") or self.record.default_method
        n_samples = given.get("n_samples")
        if n_samples is None:
            n_samples = self.record.settings.n_samples
        seed = given.get("seed")
        if seed is None:
            seed = self.record.settings.seed
        if method not in ("mc", "plain"):
            raise ModelError(f"Expected method to be one of mc, plain, received {method!r}.")
        if method == "mc" and self.sampler is None:
            raise ModelError("Expected method to be plain: this model has no dropout to sample.")
        if not 1 <= n_samples <= 10_000:
            raise ModelError(f"Expected n_samples from 1 to 10000, received {n_samples}.")
        if not 0 <= seed < 2**31:
            raise ModelError(f"Expected a seed from 0 to {2**31 - 1}, received {seed}.")
        return_samples = bool(given.get("return_samples"))
        return _Request(
            method,
            int(n_samples),
            int(seed),
            return_samples,
        )

    def _answer(self, images: NDArray[np.number], request: _Request) -> pd.DataFrame:
        """Return the answer to a request, one row per image."""
        n_images = len(images)
        # Images are padded to a power of two: few shapes need few compilations.
        n_padded = 2 ** math.ceil(math.log2(n_images))
        places = np.minimum(np.arange(n_padded), n_images - 1)
        padded = images[places]
        samples = None
        if request.method == "mc" and self.sampler is not None:
            n_samples = request.n_samples
            seed = request.seed
            mc = self.sampler.predict(padded, n_samples=n_samples, seed=seed)
            probs = mc.probs[:n_images]
            entropy = mc.predictive_entropy[:n_images]
            information = mc.mutual_information[:n_images]
            if request.return_samples:
                samples = self.sampler.samples(padded, n_samples=n_samples, seed=seed)
        else:
            probs = plain_probs(self.model, padded, self.record.settings)
            probs = probs[:n_images]
            entropy = metrics.predictive_entropy(probs)
            information = np.zeros(n_images)
        names = np.asarray(self.record.class_names)
        is_in_set = probs >= self.record.thresholds[request.method]
        sets = [names[row].tolist() for row in is_in_set]
        classes = names[probs.argmax(axis=1)]
        answer = pd.DataFrame(
            {
                "class": classes.tolist(),
                "probabilities": probs.tolist(),
                "predictive_entropy": entropy,
                "mutual_information": information,
                "conformal_set": sets,
                "abstain": [len(held) != 1 for held in sets],
            }
        )
        if samples is not None:
            samples = samples[:, :n_images]
            by_image = np.swapaxes(samples, 0, 1)
            answer["samples"] = by_image.tolist()
        return answer
