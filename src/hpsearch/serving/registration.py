"""How a model becomes a version: written to be served with its uncertainty, promoted where better
by more than luck.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import keras
import mlflow
import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

from hpsearch.data.split import Examples, SearchData
from hpsearch.errors import ConfigError, ModelError, did_you_mean
from hpsearch.evaluation.calibration import threshold
from hpsearch.evaluation.differences import MEASURES, Difference, compare
from hpsearch.evaluation.evaluated_model import plain_probs
from hpsearch.mc_dropout.passes import Sampler
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.metrics import Floats, Ints
from hpsearch.models.own_code import OwnCode, config_of, own_code
from hpsearch.serving.served_model import MODEL, RECORD, Record

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
            raise ConfigError(
                f"There is no "
                f"registration.measure={self.measure}.{did_you_mean(self.measure, MEASURES)}"
            )
        if not (
            0 < self.coverage < 1 and 0 < self.level < 1 and self.n_resamples * self.level >= 1
        ):
            raise ConfigError(
                "Expected coverage and level between 0 and 1 and at least 1 / level resamples, "
                "received "
                f"coverage={self.coverage}, level={self.level}, n_resamples={self.n_resamples}."
            )

    def judge(
        self,
        challenger: keras.Model,
        champion: keras.Model | None,
        data: SearchData,
        settings: McDropout,
    ) -> tuple[bool, str]:
        """Return whether a model may be champion, and the reason: it must beat chance, and a
        champion if there is one.

        Chance answers each image with the shares of the classes in the train part.
        """
        shares = np.bincount(data.train.labels, minlength=data.n_classes) / len(data.train)
        mine = plain_probs(challenger, data.val.images, settings)
        # Answers that always say the same shares are calibrated, so calibration alone cannot tell
        # them from a model.
        measure = "nll" if self.measure == "ece" else self.measure
        found = self._difference(np.tile(shares, (len(mine), 1)), mine, data.val.labels, measure)
        if found.verdict(self.level) != "better":
            return False, (
                f"val/{measure} {found.values[1]:.4f} is no better than chance, which has "
                f"{found.values[0]:.4f} "
                f"(p = {found.p:.2g})"
            )
        if champion is None:
            return True, "there was no champion"
        return self.compare(challenger, champion, data.val, settings)

    def compare(
        self, challenger: keras.Model, champion: keras.Model, val: Examples, settings: McDropout
    ) -> tuple[bool, str]:
        """Return whether a challenger's plain prediction is better by more than chance, and the
        reason in words.
        """
        if (
            champion.input_shape != challenger.input_shape
            or champion.output_shape != challenger.output_shape
        ):
            return False, "the champion is of other images or classes"
        theirs, mine = (
            plain_probs(model, val.images, settings) for model in (champion, challenger)
        )
        found = self._difference(theirs, mine, val.labels, self.measure)
        is_better = found.verdict(self.level) == "better"
        how = "better by more than chance" if is_better else "not better by more than chance"
        return is_better, (
            f"val/{self.measure} {found.values[1]:.4f} against the champion's "
            f"{found.values[0]:.4f} "
            f"is {how} (p = {found.p:.2g})"
        )

    def _difference(self, theirs: Floats, mine: Floats, labels: Ints, measure: str) -> Difference:
        (found,) = compare(
            theirs, mine, labels,
            n_resamples=self.n_resamples, level=self.level, seed=self.seed, measures=(measure,),
        )  # fmt: skip
        return found

    def save(
        self,
        model: keras.Model,
        folder: Path,
        data: SearchData,
        settings: McDropout,
        own: OwnCode | None = None,
    ) -> None:
        """Write a model to `folder` as MLflow keeps it: Keras's own file, and the code that serves
        it.

        Args:
            model: It.
            folder: Is made.
            data: Of the search; the served answers are calibrated on its validation part.
            settings: How MC Dropout is done.
            own: Code of the person's own that goes with it; None finds what the model's classes
                name.
        """
        thresholds = self._thresholds(model, data, settings)
        with tempfile.TemporaryDirectory() as made:
            served = Path(made) / "served"
            file = served / MODEL
            file.parent.mkdir(parents=True)
            model.save(file, include_optimizer=False)
            own = own or own_code(config_of(file))
            record = Record(
                settings, list(data.class_names), data.image_shape, thresholds, list(own.modules)
            )
            (served / RECORD).write_text(json.dumps(asdict(record), indent=1))
            mlflow.pyfunc.save_model(
                str(folder),
                python_model=str(FROM_CODE),
                artifacts={"served": str(served)},
                code_paths=[str(PACKAGE), *own.copy(Path(made) / "own")],
                signature=_signature(
                    data, settings, "mc" if "mc" in record.thresholds else "plain"
                ),
                input_example=data.val.images[:2],
                pip_requirements=requirements(own),
            )
        saved = Model.load(str(folder))
        flavor = saved.flavors["python_function"]
        where = Path(flavor["artifacts"]["served"]["path"]) / Path(MODEL).parent
        saved.add_flavor(
            "keras", data=str(where), keras_version=keras.__version__, keras_backend=keras.backend.backend(),
            save_exported_model=False, code=flavor["code"], modules=list(own.modules),
        )  # fmt: skip
        saved.save(str(folder / MLMODEL_FILE_NAME))

    def _thresholds(
        self, model: keras.Model, data: SearchData, settings: McDropout
    ) -> dict[str, float]:
        images, labels = data.val.images, data.val.labels
        found = {"plain": threshold(plain_probs(model, images, settings), labels, self.coverage)}
        with contextlib.suppress(ModelError):  # no dropout: it is served without the method
            found["mc"] = threshold(
                Sampler(model, settings).predict(images).probs, labels, self.coverage
            )
        return found


def requirements(own: OwnCode | None = None) -> list[str]:
    """Return the exact versions that a registered model needs to be loaded and served."""
    needed = ("keras", keras.backend.backend(), "numpy", "pandas", "mlflow")
    lines = [f"{name}=={version(name)}" for name in needed]
    more = own.requirements if own else ()
    return [
        *lines,
        *(line for line in dict.fromkeys(more) if line.partition("==")[0].lower() not in needed),
    ]


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
