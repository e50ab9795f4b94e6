"""Make the ways to predict with uncertainty that an evaluation compares with MC Dropout."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras

from hpsearch.alternatives.laplace import Laplace
from hpsearch.alternatives.method import Alternative
from hpsearch.alternatives.settings import methods_of
from hpsearch.data.split import SearchData
from hpsearch.errors import ModelError, UserError
from hpsearch.mc_dropout.prediction import McDropout


def made(
    settings: McDropout,
    makers: Mapping[str, Callable[[], Alternative]],
) -> tuple[dict[str, Alternative], dict[str, str]]:
    """Make what settings ask for, and return it by arm, with the reasons of what cannot be made.

    Args:
        settings: They name the methods.
        makers: What makes each method that needs making.

    Raises:
        UserError: The only method that was asked for cannot be made.
    """
    asked = methods_of(settings)
    alternatives = {}
    not_made = {}
    for name in asked:
        if name not in makers:
            continue
        try:
            alternatives[name] = makers[name]()
        except UserError as error:
            if len(asked) == 1:
                raise
            not_made[name] = str(error)
    return alternatives, not_made


def laplace(
    model: keras.Model,
    settings: McDropout,
    known: SearchData,
    careful: str,
) -> Laplace:
    """Return the Laplace approximation of the last layer of a version's model.

    Args:
        model: The model.
        settings: The settings of the evaluation.
        known: The data on which the model was trained.
        careful: A text that is not empty where these data are not those of the search.

    Raises:
        ModelError: The last layer is not linear, or the training examples are unknown.
    """
    if careful:
        raise ModelError(
            "Laplace needs the examples on which the model was trained, and this data set is "
            "another: leave out data=NAME, or leave laplace out of uncertainty.methods."
        )
    return Laplace(model, settings, known.train)
