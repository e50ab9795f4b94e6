"""Which way the monitored metric is better: the metric says so or a person, never its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import keras
import keras_tuner

from hpsearch.data.split import SearchData
from hpsearch.errors import ConfigError, ModelError, did_you_mean, first_line
from hpsearch.models.loss_and_optimizer import labels_for
from hpsearch.study.direction import Direction
from hpsearch.training.own_fit import owns_fit
from hpsearch.training.programs.program import numbers_of
from hpsearch.training.settings import LOSS, Training

PARTS = ("train", "val")
N_SHOWN = 2  # images that the metrics of a model are built with
OF_KERAS = {"up": Direction.MAXIMIZE, "down": Direction.MINIMIZE}
# With one of these of its own, a model may report what no one knows before its first epoch.
STEPS = ("fit", "evaluate", "train_step", "test_step", "make_train_function", "make_test_function")

Directions = Mapping[str, Direction | None]


def directed(
    training: Training, hypermodel: keras_tuner.HyperModel, model: keras.Model, data: SearchData
) -> Training:
    """Return the settings with the direction of their monitored metric.

    Where a fit may report more than can be known before it, a monitored metric that is not known is
    left to its first epoch, if a person has said which way it is better.

    Args:
        training: `direction` says which way where it is not None; else the metric does.
        hypermodel: What has built the model.
        model: Its metrics are built, its weights stay as they are.
        data: A few of its images are shown to the model.

    Raises:
        ConfigError: The model does not report the metric, or nothing says which way it is better.
        ModelError: The metrics do not fit the model and the labels.
    """
    form = labels_for(model)
    part, _, name = training.monitor.partition("/")
    if part in PARTS and name == LOSS:
        return replace(training, direction=training.direction or Direction.MINIMIZE)
    is_open = owns_fit(hypermodel) or any(_is_own(model, step) for step in STEPS)
    try:
        known = reported(model, data, form)
    except Exception as error:  # of Keras or of a metric, whatever it is
        if not is_open:
            raise ModelError(
                f"The metrics of the model cannot be computed: {first_line(error)}."
            ) from error
        known = {LOSS: Direction.MINIMIZE}
    valid = [f"{part}/{name}" for part in PARTS for name in known]
    is_known = training.monitor in valid
    if not is_known and not (is_open and part in PARTS):
        raise ConfigError(
            f"training.monitor={training.monitor} is no metric of this "
            f"model.{did_you_mean(training.monitor, valid)}"
        )
    direction = training.direction or known.get(name)
    if direction is None:
        raise ConfigError(
            f"Nothing says whether more or less of training.monitor={training.monitor} is better: "
            f"give training.direction={Direction.MINIMIZE} or training.direction={Direction.MAXIMIZE}."
            f"{'' if is_known else did_you_mean(training.monitor, valid)}"
        )
    return replace(training, direction=direction)


def reported(model: keras.Model, data: SearchData, form: str) -> Directions:
    """Return the names under which a model reports its metrics, each with its direction if known.

    The metrics are built as a fit builds them, with the first images; their state is reset then.

    Args:
        model: A compiled model.
        data: Has the images.
        form: Of the labels, as `labels_for` says.
    """
    images, labels = data.train.images[:N_SHOWN], data.train.labels[:N_SHOWN]
    if form == "onehot":
        labels = keras.utils.to_categorical(labels, data.n_classes)
    outputs = model(images)
    labels = keras.tree.map_structure(lambda _: labels, outputs)  # the same for each output
    try:
        model.compute_loss(images, labels, outputs)
        logs = model.compute_metrics(images, labels, outputs, None)
        metrics = _metrics_by_log(model)
        losses = {m.name for m in getattr(model._compile_loss, "metrics", ())}  # of each output
    finally:
        model.reset_metrics()
    found = {name: _direction(metrics.get(name)) for name in (*logs, *metrics)}
    for name, value in logs.items():
        if several := numbers_of({name: value}).keys() - {name}:  # one a class
            found |= dict.fromkeys(several, found.pop(name))
    return (
        found
        | dict.fromkeys(losses & found.keys(), Direction.MINIMIZE)
        | {LOSS: Direction.MINIMIZE}
    )


def _is_own(model: keras.Model, step: str) -> bool:
    return getattr(type(model), step) is not getattr(keras.Model, step) or step in vars(model)


def _direction(metric: keras.metrics.Metric | None) -> Direction | None:
    found = OF_KERAS.get(getattr(metric, "_direction", None) or "")
    return found or OF_KERAS.get(getattr(_class_of(metric), "_direction", None) or "")


def _class_of(metric: keras.metrics.Metric | None) -> keras.metrics.Metric | None:
    """Return the metric that Keras itself makes of the function that this one wraps, if any."""
    function: Any = getattr(metric, "_fn", None)
    if not str(getattr(function, "__module__", "")).startswith("keras."):
        return None
    try:
        known = keras.metrics.get(function.__name__)
    except (AttributeError, TypeError, ValueError):
        return None
    return known if getattr(known, "_fn", None) is function else None


def _metrics_by_log(model: keras.Model) -> dict[str, keras.metrics.Metric]:
    """Return the metric behind each name of the logs.

    How Keras makes names unique is its own affair: here each metric gives itself for its result
    once, and Keras names the results.
    """
    compiled = model._compile_metrics
    both = [*model.metrics, *getattr(compiled, "metrics", ())]
    leaves = {id(metric): metric for metric in both if metric is not compiled}
    for metric in leaves.values():
        object.__setattr__(metric, "result", partial(_itself, metric))
    try:
        found: dict[str, keras.metrics.Metric] = keras.Model.get_metrics_result(model)
    finally:
        for metric in leaves.values():
            object.__delattr__(metric, "result")
    return found


def _itself(metric: Any) -> Any:
    return metric
