"""The model that `mlflow models serve` runs: predictions of a Keras model with uncertainty.

`ServedModel` implements MLflow's pyfunc interface. `Record` holds what is stored beside the
weights: settings of MC Dropout, names of the classes and thresholds of the conformal sets.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

from hpsearch import metrics
from hpsearch.errors import ModelError
from hpsearch.mc_dropout.conversion import Split
from hpsearch.mc_dropout.passes import Sampler
from hpsearch.mc_dropout.plain import PlainModel
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.models.own_code import import_modules
from hpsearch.serving.request import Inputs, Params, RequestError, refuse_unknown_params


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
        input_dtype: Type of the training data, "uint8" or "float32".
        input_range: The lowest and the highest value of the training data, or None.
        are_pixels: Whether these are black and white.
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
    input_dtype: str = "float32"
    input_range: list[float] | None = None
    are_pixels: bool = False

    @property
    def default_method(self) -> str:
        """The method of a request that names none: "mc" if the model has dropout."""
        return self.methods[0]

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of the model, the default first."""
        if "mc" in self.thresholds:
            return ("mc", "plain")
        return ("plain",)

    @property
    def inputs(self) -> Inputs:
        """The inputs that the model takes."""
        return Inputs(
            self.image_shape,
            self.input_dtype,
            self.input_range,
            self.are_pixels,
        )

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a record from the JSON file that was written of its fields."""
        known = json.loads(path.read_text())
        settings = known["settings"]
        if "mask" in settings:  # as earlier versions have recorded it
            settings["shared_masks"] = settings.pop("mask") == "pass"
        known["settings"] = McDropout(**settings)
        known["image_shape"] = tuple(known["image_shape"])
        return cls(**known)


class _FixedSizes:
    """The numbers of rows that compiled functions are called with.

    A compiled function is compiled again for each new number of rows. So a request is cut into
    batches of one of a few sizes, the last of which is filled up.

    Args:
        sizes: The sizes to choose from.
    """

    COST: ClassVar[int] = 8  # of a call, in rows: more calls of fewer rows are not always faster

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes

    def size(self, n_rows: int, limit: int) -> int:
        """Return the size with which `n_rows` rows cost least.

        Args:
            n_rows: Number of rows of the request.
            limit: The largest size that is allowed.
        """
        allowed = {min(size, limit) for size in self.sizes}

        def cost(size: int) -> int:
            n_batches = -(-n_rows // size)
            return n_batches * (size + self.COST)

        return min(sorted(allowed), key=cost)


_SIZES = _FixedSizes((1, 16, 128))
_SIZE_OF_SAMPLES = _FixedSizes((8,))


class _ServedSampler(Sampler):
    """A sampler that compiles for a few numbers of rows only."""

    def __init__(
        self,
        split: Split,
        settings: McDropout,
        sizes: _FixedSizes,
    ) -> None:
        super().__init__(split.model, settings, split=split)
        self.sizes = sizes

    def rows_per_call(self, n_rows: int) -> int:
        """Return the number of rows of a compiled call, which may be more than `n_rows`."""
        limit = super().rows_per_call(max(self.sizes.sizes))
        return self.sizes.size(n_rows, limit)


class _ServedPlain(PlainModel):
    """The plain prediction of a model, compiled for a few numbers of rows only."""

    def rows_per_call(self, n_rows: int) -> int:
        """Return the number of rows of a compiled call, which may be more than `n_rows`."""
        return _SIZES.size(n_rows, self.settings.batch_size)


class _Samplers(NamedTuple):
    """The samplers of one way to draw masks.

    Attributes:
        sums: Its passes are summed.
        single: Its passes are returned.
    """

    sums: _ServedSampler
    single: _ServedSampler


class ServedModel(PythonModel):
    """Model that returns, for each input, the class, its probabilities and their uncertainties.

    It also returns the conformal set, and whether to abstain, which is where the set does not hold
    exactly one class.

    Attributes:
        WARM_UP: The key of MLflow's `model_config` that says whether all functions are compiled
            when the model is loaded. Otherwise the first requests compile them.
    """

    WARM_UP: ClassVar[str] = "warm_up"

    def load_context(self, context: PythonModelContext) -> None:
        """Load the model and its record from the artifact folder, and compile its functions."""
        refuse_unknown_params()
        folder = Path(context.artifacts["served"])
        self.record = Record.read(folder / Record.FILE)
        import_modules(self.record.modules)
        file = folder / Record.MODEL_FILE
        self.model = keras.models.load_model(file, compile=False)
        self.plain = _ServedPlain(self.model, self.record.settings)
        self._samplers: dict[bool, _Samplers] = {}
        if (context.model_config or {}).get(self.WARM_UP):
            self._warm_up()

    def _warm_up(self) -> None:
        """Call each compiled function with each number of rows, so that no request compiles."""
        for size in _SIZES.sizes:
            inputs = np.zeros((size, *self.record.image_shape), self.record.input_dtype)
            with suppress(ModelError):  # zeros may be no input that the model has an answer to
                self.plain.predict(inputs)
            if "mc" not in self.record.methods:
                continue
            sampler = self._sampler(self.record.settings.shared_masks)
            with suppress(ModelError):
                sampler.sums.predict(inputs, n_samples=1)
        if "mc" in self.record.methods:
            sampler.single.samples(inputs[:1], n_samples=1, seed=0)

    @cached_property
    def _split(self) -> Split:
        """The model, converted for all of its samplers."""
        return Split.of(self.model, self.record.image_shape, self.record.input_dtype)

    def _sampler(self, shared_masks: bool) -> _Samplers:
        """Return the samplers of one way to draw masks.

        The way that is not the model's own is compiled by the first requests that want it.
        """
        if shared_masks not in self._samplers:
            settings = replace(self.record.settings, shared_masks=shared_masks)
            made = partial(_ServedSampler, self._split, settings)
            self._samplers[shared_masks] = _Samplers(made(_SIZES), made(_SIZE_OF_SAMPLES))
        return self._samplers[shared_masks]

    def predict(
        self,
        context: Any,
        model_input: np.ndarray,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Return one row per input.

        Args:
            context: Context of MLflow; not used.
            model_input: Raw pixels, (N, H, W, C), or other inputs of the shape in the record, as
                the model was trained on them.
            params: `method`, "mc" or "plain"; `n_samples`, from 1 to 10,000; `seed`, where equal
                seeds give equal answers; `return_samples`; `shared_masks`, where all inputs of a
                pass share one mask.

        Raises:
            RequestError: The request cannot be answered. The text is one sentence; the HTTP
                status is 400.
        """
        try:
            inputs = self.record.inputs.checked(model_input)
            request = Params.of(params or {}, self.record.settings, self.record.methods)
            request.check_size(len(inputs), len(self.record.class_names))
            return self._answer(inputs, request)
        except ModelError as error:
            raise RequestError(str(error)) from error

    def _answer(self, inputs: NDArray[np.number], request: Params) -> pd.DataFrame:
        """Return the answer to a request, one row per input."""
        samples = None
        if request.method == "mc":
            n_samples = request.n_samples
            seed = request.seed
            sampler = self._sampler(request.shared_masks)
            mc = sampler.sums.predict(inputs, n_samples=n_samples, seed=seed)
            probs = mc.probs
            entropy = mc.predictive_entropy
            information = mc.mutual_information
            if request.return_samples:
                samples = sampler.single.samples(inputs, n_samples=n_samples, seed=seed)
        else:
            probs = self.plain.predict(inputs)
            entropy = metrics.predictive_entropy(probs)
            information = np.zeros(len(inputs))
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
            by_input = np.swapaxes(samples, 0, 1)
            answer["samples"] = by_input.tolist()
        return answer
