"""How a model becomes a version: written to be served with its uncertainty, promoted where better by more than luck."""

from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import keras
import mlflow
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

from hpsearch.data.split import Examples, SearchData
from hpsearch.errors import ConfigError, ModelError, did_you_mean
from hpsearch.uncertainty.conformal import threshold
from hpsearch.uncertainty.differences import MEASURES, compare
from hpsearch.uncertainty.mc_dropout import McDropout
from hpsearch.uncertainty.passes import Sampler
from hpsearch.uncertainty.served_model import MODEL, RECORD, Record
from hpsearch.uncertainty.subject import plain_probs

PACKAGE = Path(__file__).parents[1]
FROM_CODE = Path(__file__).with_name("from_code.py")


@dataclass(frozen=True)
class Registration:
    """Settings of the way from a trained model to a version.

    Attributes:
        coverage: How often the served conformal sets hold the right class, in (0, 1).
        measure: By which a challenger must be better on validation data to become champion.
        level: Chance that an equally good challenger becomes champion by being called better.
        n_resamples: Of the test behind that.
        seed: Of the resampling.
    """

    coverage: float
    measure: str
    level: float
    n_resamples: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if self.measure not in MEASURES:
            raise ConfigError(f"There is no registration.measure={self.measure}.{did_you_mean(self.measure, MEASURES)}")
        if not (0 < self.coverage < 1 and 0 < self.level < 1 and self.n_resamples * self.level >= 1):
            raise ConfigError(
                "Expected coverage and level between 0 and 1 and at least 1 / level resamples, received "
                f"coverage={self.coverage}, level={self.level}, n_resamples={self.n_resamples}."
            )

    def compare(
        self, challenger: keras.Model, champion: keras.Model, val: Examples, settings: McDropout
    ) -> tuple[bool, str]:
        """Return whether a challenger's plain prediction is better by more than chance, and the reason in words."""
        if champion.input_shape != challenger.input_shape or champion.output_shape != challenger.output_shape:
            return False, "the champion is of other images or classes"
        theirs, mine = (plain_probs(model, val.images, settings) for model in (champion, challenger))
        (found,) = compare(
            theirs, mine, val.labels,
            n_resamples=self.n_resamples, level=self.level, seed=self.seed, measures=(self.measure,),
        )  # fmt: skip
        is_better = found.verdict(self.level) == "better"
        how = "better by more than chance" if is_better else "not better by more than chance"
        return is_better, (
            f"val/{self.measure} {found.values[1]:.4f} against the champion's {found.values[0]:.4f} "
            f"is {how} (p = {found.p:.2g})"
        )

    def save(self, model: keras.Model, folder: Path, data: SearchData, settings: McDropout) -> None:
        """Write a model to `folder` as MLflow keeps it: Keras's own file, and the code that serves it."""
        record = Record(settings, list(data.class_names), data.image_shape, self._thresholds(model, data, settings))
        with tempfile.TemporaryDirectory() as made:
            file = Path(made) / MODEL
            file.parent.mkdir()
            model.save(file, include_optimizer=False)
            (Path(made) / RECORD).write_text(json.dumps(asdict(record), indent=1))
            mlflow.pyfunc.save_model(
                str(folder),
                python_model=str(FROM_CODE),
                artifacts={"served": made},
                code_paths=[str(PACKAGE)],
                signature=_signature(data, settings, "mc" if "mc" in record.thresholds else "plain"),
                input_example=data.val.images[:2],
                pip_requirements=requirements(),
            )
        saved = Model.load(str(folder))
        where = Path(saved.flavors["python_function"]["artifacts"]["served"]["path"]) / Path(MODEL).parent
        saved.add_flavor(
            "keras", data=str(where), keras_version=keras.__version__, keras_backend=keras.backend.backend(),
            save_exported_model=False,
        )  # fmt: skip
        saved.save(str(folder / MLMODEL_FILE_NAME))

    def _thresholds(self, model: keras.Model, data: SearchData, settings: McDropout) -> dict[str, float]:
        images, labels = data.val.images, data.val.labels
        found = {"plain": threshold(plain_probs(model, images, settings), labels, self.coverage)}
        with contextlib.suppress(ModelError):  # no dropout: it is served without the method
            found["mc"] = threshold(Sampler(model, settings).predict(images).probs, labels, self.coverage)
        return found


def requirements() -> list[str]:
    """Return the exact versions that a registered model needs to be loaded and served."""
    needed = ("keras", keras.backend.backend(), "numpy", "pandas", "mlflow")
    return [f"{name}=={version(name)}" for name in needed]


def _signature(data: SearchData, settings: McDropout, method: str) -> ModelSignature:
    # Without names: MLflow would hand a dictionary to a model that takes one array.
    images = TensorSpec(data.train.images.dtype, (-1, *data.image_shape))
    params = [
        ParamSpec("method", "string", method),
        ParamSpec("n_samples", "long", settings.n_samples),
        ParamSpec("seed", "long", settings.seed),
        ParamSpec("return_samples", "boolean", False),
    ]
    return ModelSignature(Schema([images]), params=ParamSchema(params))
