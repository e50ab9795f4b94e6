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
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

from hpsearch.data.split import Examples, SearchData
from hpsearch.errors import ModelError
from hpsearch.evaluation.calibration import ConformalSets
from hpsearch.evaluation.differences import Difference, compare
from hpsearch.evaluation.evaluated_model import plain_probs
from hpsearch.mc_dropout.passes import Sampler
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.metrics import Floats, Ints
from hpsearch.models.own_code import OwnCode, config_of, own_code
from hpsearch.serving import settings as checked
from hpsearch.serving.served_model import Record


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
        mine = plain_probs(challenger, val.inputs, settings)
        counts = np.bincount(data.train.targets, minlength=data.n_classes)
        shares = counts / len(data.train)
        chance = np.tile(shares, (len(mine), 1))
        measure = self.measure
        if measure == "ece":  # to answer each image with the shares is calibrated, too
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
        same_inputs = champion.input_shape == challenger.input_shape
        same_outputs = champion.output_shape == challenger.output_shape
        if not same_inputs or not same_outputs:
            return False, "the champion is for other images or classes"
        theirs = plain_probs(champion, val.inputs, of_champion)
        mine = plain_probs(challenger, val.inputs, settings)
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
            data: The data of the search. The conformal sets are calibrated on its validation part.
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
            names = list(data.class_names)
            record = Record(
                settings,
                names,
                data.image_shape,
                thresholds,
                modules,
            )
            text = json.dumps(asdict(record), indent=1)
            (served / Record.FILE).write_text(text)
            own_paths = own.copy(Path(made) / "own")
            mlflow.pyfunc.save_model(
                str(folder),
                python_model=str(here / "from_code.py"),
                artifacts={"served": str(served)},
                code_paths=[str(here.parent), *own_paths],
                signature=_signature(data, settings, record.default_method),
                input_example=data.val.inputs[:2],
                pip_requirements=_requirements(own),
            )
        _add_keras_flavor(folder, modules)

    def _thresholds(
        self, model: keras.Model, data: SearchData, settings: McDropout
    ) -> dict[str, float]:
        """Return the threshold of the conformal sets by method."""
        images = data.val.inputs
        labels = data.val.targets
        plain = plain_probs(model, images, settings)
        found = {"plain": ConformalSets(plain, labels, self.coverage).threshold}
        with contextlib.suppress(ModelError):  # a model without dropout is served without "mc"
            mc = Sampler(model, settings).predict(images)
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


def _requirements(own: OwnCode) -> list[str]:
    """Return the exact versions of the packages that a registered model needs, each once."""
    needed = ("keras", keras.backend.backend(), "numpy", "pandas", "mlflow")
    lines = [f"{name}=={version(name)}" for name in needed]
    for line in dict.fromkeys(own.requirements):
        name = line.partition("==")[0]
        if name.lower() not in needed:
            lines.append(line)
    return lines


def _signature(
    data: SearchData,
    settings: McDropout,
    method: str,
) -> ModelSignature:
    # The input has no name, or MLflow would pass a dictionary to a model that takes an array.
    shape = (-1, *data.image_shape)
    images = TensorSpec(data.train.inputs.dtype, shape)
    params = [
        ParamSpec("method", "string", method),
        ParamSpec("n_samples", "long", settings.n_samples),
        ParamSpec("seed", "long", settings.seed),
        ParamSpec("return_samples", "boolean", False),
    ]
    return ModelSignature(Schema([images]), params=ParamSchema(params))
