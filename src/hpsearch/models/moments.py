"""The moments of the weights that a training went through, from which SWAG draws models.

SWAG (Maddox et al. 2019, "A Simple Baseline for Bayesian Uncertainty in Deep Learning", NeurIPS)
takes the weights at the ends of late epochs as draws of a normal distribution over the weights. Its
covariance is the sum of a diagonal and of a part of low rank, half of each.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from hpsearch.errors import ModelError

Arrays = list[NDArray[np.floating[Any]]]


def trainable_values(model: keras.Model) -> Arrays:
    """Return copies of the trainable weights of a model, float32 or float64."""
    return [_as_floats(variable) for variable in model.trainable_variables]


def _as_floats(variable: keras.Variable) -> NDArray[np.floating[Any]]:
    """Return a copy of a variable; NumPy's files know no bfloat16, whose values float32 has."""
    dtype = np.float64 if str(variable.dtype) == "float64" else np.float32
    values = ops.convert_to_numpy(ops.cast(variable, np.dtype(dtype).name))
    return np.array(values, dtype)


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean, variance and deviations of K snapshots of the trainable weights of a model.

    Each list has one array for each of `model.trainable_variables`, in their order.

    Attributes:
        mean: The mean of the snapshots, each array of the shape of its weights.
        variance: The mean squared deviation from it, of the same shapes.
        deviations: Each snapshot minus the mean, (K, ...). The paper subtracts the mean of the
            snapshots so far; with the mean of all of them, their covariance is the part of low
            rank.
        n_snapshots: K.
        checksums: One of each array of the weights of the model that was kept, so that the moments
            are used with no other model, and with its weights in no other order.
    """

    FILE: ClassVar = "swag.npz"
    LEAST: ClassVar = 3  # snapshots

    mean: Arrays
    variance: Arrays
    deviations: Arrays
    n_snapshots: int
    checksums: Sequence[int]

    @classmethod
    def of(cls, snapshots: Sequence[Arrays], model: keras.Model) -> Moments:
        """Return the moments of snapshots, which go with a model.

        Args:
            snapshots: At least `LEAST`; each holds the trainable weights at the end of an epoch.
            model: The model that is kept of the same training, with the weights of its best epoch.

        Raises:
            ValueError: There are fewer snapshots.
        """
        if len(snapshots) < cls.LEAST:
            raise ValueError(f"Expected at least {cls.LEAST} snapshots. Received: {len(snapshots)}")
        mean: Arrays = []
        variance: Arrays = []
        deviations: Arrays = []
        for values in zip(*snapshots, strict=True):
            dtype = values[0].dtype
            stacked = np.stack(values).astype(np.float64)
            middle = stacked.mean(axis=0)
            apart = stacked - middle
            mean.append(middle.astype(dtype))
            deviations.append(apart.astype(dtype))
            variance.append(np.square(apart).mean(axis=0).astype(dtype))
        return cls(mean, variance, deviations, len(snapshots), _checksums(model))

    def check_fits(self, model: keras.Model) -> None:
        """Raise ModelError unless the moments were collected in the training of this model."""
        expected = [tuple(variable.shape) for variable in model.trainable_variables]
        received = [array.shape for array in self.mean]
        if received != expected:
            raise ModelError(
                f"Expected moments of SWAG for weights of shapes {expected}, received shapes "
                f"{received}: they belong to another model."
            )
        if list(self.checksums) != _checksums(model):
            raise ModelError(
                "Expected moments of SWAG that were collected in the training of this model, "
                "received those of a model with other weights, or with its weights in another "
                "order: give uncertainty.methods without swag."
            )

    def write(self, path: Path) -> None:
        """Write the moments to a file of NumPy's format npz, without pickled objects."""
        head = {"n_snapshots": self.n_snapshots, "checksums": list(self.checksums)}
        entries = {"head": np.array(json.dumps(head))}
        for kind in ("mean", "variance", "deviations"):
            for i, array in enumerate(getattr(self, kind)):
                entries[f"{kind}.{i}"] = array
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **entries)

    @classmethod
    def read(cls, path: Path) -> Moments:
        """Read moments from a file.

        Raises:
            ModelError: It is no file of moments, or it is damaged.
        """
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                head = json.loads(str(file["head"]))
                return cls(
                    _numbered(file, "mean"),
                    _numbered(file, "variance"),
                    _numbered(file, "deviations"),
                    head["n_snapshots"],
                    head["checksums"],
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ModelError(
                f"Expected the moments of SWAG in {path.name}, received a file that cannot be read "
                f"({error}): give uncertainty.methods without swag."
            ) from error


def _numbered(file: Mapping[str, NDArray[np.floating[Any]]], kind: str) -> Arrays:
    """Return the arrays KIND.0, KIND.1 and so on of a file."""
    n_arrays = sum(name.startswith(f"{kind}.") for name in file)
    return [file[f"{kind}.{i}"] for i in range(n_arrays)]


def _checksums(model: keras.Model) -> list[int]:
    """Return a checksum of each array of the trainable weights of a model."""
    return [zlib.crc32(array.tobytes()) for array in trainable_values(model)]
