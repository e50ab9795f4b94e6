"""Saving of a trained model as a version of an MLflow registered model.

`Registration.save` writes a model so that MLflow serves it with its uncertainty.
`Registration.judge` decides whether it becomes the champion: it must be better than chance and
than the present champion, by more than chance.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import keras
import mlflow
import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME

from hpsearch.data.split import Examples, SearchData
from hpsearch.errors import ModelError
from hpsearch.evaluation.conformal import ConformalSets
from hpsearch.evaluation.differences import Difference, compare
from hpsearch.mc_dropout.certificate import Certificate
from hpsearch.mc_dropout.passes import Sampler
from hpsearch.mc_dropout.plain import PlainModel
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.metrics import Floats, Ints
from hpsearch.models.own_code import OwnCode, config_of, own_code
from hpsearch.serving import settings as checked
from hpsearch.serving.request import INPUTS, Params
from hpsearch.serving.served_model import Record, ServedModel


class Registration(checked.Registration):
    """Settings for making a version of a trained model.

    `serving.settings` describes its settings.
    """

    def judge(
        self,
        challenger: keras.Model,
        champion: keras.Model | None,
        data: SearchData,
        settings: McDropout,
        of_champion: McDropout,
    ) -> tuple[bool, str]:
        """Return whether a model becomes the champion, and the reason in words.

        The model must be better than chance, and than the present champion if there is one.
        Chance answers each image with the shares of the classes in the train part.

        Args:
            challenger: The new model.
            champion: The model of the present champion, or None.
            data: The data of the search; the models are compared on its validation part.
            settings: Settings of MC Dropout; `from_logits` and `batch_size` are used.
            of_champion: The same for the champion's model.
        """
        val = data.val
        mine = PlainModel(challenger, settings).predict(val.inputs)
        counts = np.bincount(data.train.targets, minlength=data.n_classes)
        shares = counts / len(data.train)
        chance = np.tile(shares, (len(mine), 1))
        measure = self.measure
        if (
            measure == "squared_calibration_error"
        ):  # to answer each image with the shares is calibrated, too
            measure = "nll"
        found = self._difference(chance, mine, val.targets, measure)
        if found.verdict(self.level) != "better":
            of_chance, own = found.values
            return False, (
                f"val/{measure} {own:.4f} is no better than chance, which has {of_chance:.4f} "
                f"(p = {found.p:.2g})"
            )
        if champion is None:
            return True, "there was no champion"
        return self.compare(challenger, champion, val, settings, of_champion)

    def compare(
        self,
        challenger: keras.Model,
        champion: keras.Model,
        val: Examples,
        settings: McDropout,
        of_champion: McDropout,
    ) -> tuple[bool, str]:
        """Return whether a challenger is better than the champion, and the reason in words.

        The plain predictions are compared, and the difference must be more than chance.

        Args:
            challenger: The new model.
            champion: The model of the present champion.
            val: Validation data.
            settings: Settings of MC Dropout; `from_logits` and `batch_size` are used.
            of_champion: The same for the champion's model.
        """
        mine = PlainModel(challenger, settings).predict(val.inputs)
        other = "the champion is for other images or classes"
        try:
            theirs = PlainModel(champion, of_champion).predict(val.inputs)
        except ModelError as error:
            return False, f"{other}: {error}"
        if theirs.shape != mine.shape:
            return False, other
        found = self._difference(theirs, mine, val.targets, self.measure)
        is_better = found.verdict(self.level) == "better"
        how = "better by more than chance"
        if not is_better:
            how = f"not {how}"
        before, after = found.values
        return is_better, (
            f"val/{self.measure} {after:.4f} against the champion's {before:.4f} "
            f"is {how} (p = {found.p:.2g})"
        )

    def _difference(
        self,
        theirs: Floats,
        mine: Floats,
        labels: Ints,
        measure: str,
    ) -> Difference:
        differences = compare(
            theirs,
            mine,
            labels,
            n_resamples=self.n_resamples,
            level=self.level,
            seed=self.seed,
            measures=(measure,),
        )
        return differences[0]

    def save(
        self,
        model: keras.Model,
        folder: Path,
        data: SearchData,
        settings: McDropout,
        own: OwnCode | None = None,
    ) -> None:
        """Write a model to a folder in MLflow's format: Keras's file and the code that serves it.

        Args:
            model: The trained model.
            folder: The folder to make.
            data: The data of the search. The conformal sets are calibrated on its calibration part,
                or on its validation part where there is none. The metadata of the model say which.
            settings: Settings of MC Dropout.
            own: Code of the user that the model needs; by default the code of its classes.
        """
        here = Path(__file__).parent
        thresholds = self._thresholds(model, data, settings)
        with tempfile.TemporaryDirectory() as made:
            served = Path(made) / "served"
            file = served / Record.MODEL_FILE
            file.parent.mkdir(parents=True)
            model.save(file, include_optimizer=False)
            if own is None:
                own = own_code(config_of(file))
            modules = list(own.modules)
            record = _record(data, settings, thresholds, modules)
            text = json.dumps(asdict(record), indent=1)
            (served / Record.FILE).write_text(text)
            own_paths = own.copy(Path(made) / "own")
            mlflow.pyfunc.save_model(
                str(folder),
                python_model=str(here / "from_code.py"),
                artifacts={"served": str(served)},
                code_paths=[str(here.parent), *own_paths],
                signature=_signature(record),
                metadata={
                    **record.inputs.described(),
                    "hpsearch.conformal_sets_made_on": _made_on(data),
                },
                model_config={ServedModel.WARM_UP: True},
                input_example=data.val.inputs[:2],
                pip_requirements=_requirements(own),
            )
        _add_keras_flavor(folder, modules)

    def _thresholds(
        self,
        model: keras.Model,
        data: SearchData,
        settings: McDropout,
    ) -> dict[str, float]:
        """Return the threshold of the conformal sets by method, made on the calibration part.

        Where there is none, the validation part takes its place.
        """
        fitted_on = data.calibration or data.val
        images = fitted_on.inputs
        labels = fitted_on.targets
        plain = PlainModel(model, settings).predict(images)
        found = {"plain": ConformalSets(plain, labels, self.coverage).threshold}
        # A model without dropout, or one that fails the self-test, is served without "mc".
        with contextlib.suppress(ModelError):
            sampler = Sampler(model, settings, data.image_shape, str(images.dtype))
            Certificate.of(sampler, images)
            mc = sampler.predict(images)
            found["mc"] = ConformalSets(mc.probs, labels, self.coverage).threshold
        return found


def _add_keras_flavor(folder: Path, modules: list[str]) -> None:
    """Let `mlflow.keras.load_model` load the Keras file of a saved model."""
    saved = Model.load(str(folder))
    flavor = saved.flavors["python_function"]
    served = Path(flavor["artifacts"]["served"]["path"])
    file = served / Record.MODEL_FILE
    saved.add_flavor(
        "keras",
        data=str(file.parent),
        keras_version=keras.__version__,
        keras_backend=keras.backend.backend(),
        save_exported_model=False,
        code=flavor["code"],
        modules=modules,
    )
    saved.save(str(folder / MLMODEL_FILE_NAME))


def _made_on(data: SearchData) -> str:
    """Return on which examples the conformal sets are made, in words."""
    if data.calibration is None:
        return f"{len(data.val):,} validation examples"
    return f"{len(data.calibration):,} calibration examples"


def _requirements(own: OwnCode) -> list[str]:
    """Return the exact versions of the packages that a registered model needs, each once."""
    needed = ("keras", keras.backend.backend(), "numpy", "pandas", "mlflow")
    lines = [f"{name}=={version(name)}" for name in needed]
    for line in dict.fromkeys(own.requirements):
        name = line.partition("==")[0]
        if name.lower() not in needed:
            lines.append(line)
    return lines


def _record(
    data: SearchData,
    settings: McDropout,
    thresholds: dict[str, float],
    modules: list[str],
) -> Record:
    input_range, are_pixels = _range(data)
    return Record(
        settings,
        list(data.class_names),
        data.image_shape,
        thresholds,
        modules,
        str(data.train.inputs.dtype),
        input_range,
        are_pixels,
    )


def _signature(record: Record) -> ModelSignature:
    params = Params.schema(record.settings, record.default_method)
    return ModelSignature(INPUTS, params=params)


def _range(data: SearchData) -> tuple[list[float], bool]:
    """Return the range of the training data, and whether it is that of pixels, black and white.

    Values of uint8 that are none above 1 may be flags rather than pixels.
    """
    inputs = data.train.inputs
    low = float(inputs.min())
    high = float(inputs.max())
    if inputs.dtype == np.uint8:
        return [0.0, 255.0], high > 1
    pixels = data.pixel_range
    if pixels is not None and inputs.ndim == 4:
        return [min(pixels.low), max(pixels.high)], True
    return [low, high], False
