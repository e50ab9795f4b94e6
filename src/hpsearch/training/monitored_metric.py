"""Finds out whether less or more of the monitored metric is better, before the first fit.

A metric of Keras says so itself. For any other metric, a person says so by `training.direction`.
The name of a metric never decides, except that less loss is better.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import keras
import keras_tuner
from keras.metrics import Metric

from hpsearch.data.split import SearchData
from hpsearch.errors import ConfigError, ModelError, did_you_mean, first_line
from hpsearch.models.loss_and_optimizer import check_targets, labels_for, numbers_of
from hpsearch.study.direction import Direction
from hpsearch.training.own_fit import owns_fit
from hpsearch.training.settings import Training


def directed(
    training: Training,
    hypermodel: keras_tuner.HyperModel,
    model: keras.Model,
    data: SearchData,
) -> Training:
    """Return the settings with the direction of their monitored metric.

    A fit may report more metrics than are known before it. A monitored metric that is not known is
    then left to the first epoch, provided that a person has given its direction.

    Args:
        training: The settings. Their `direction` is used if it is not None, else the metric's.
        hypermodel: The HyperModel that has built the model.
        model: The model. Its metrics get built; its weights stay as they are.
        data: The data; a few of its images are shown to the model.

    Raises:
        ConfigError: The model does not report the metric, or nothing gives its direction.
        ModelError: The metrics or a loss do not fit the model and the labels.
    """
    form = labels_for(model)
    check_targets(model, are_rows=data.has_rows)
    monitor = training.monitor
    part, _, name = monitor.partition("/")
    is_of_part = part in ("train", "val")
    if monitor in ("train/loss", "val/loss"):
        of_loss = training.direction or Direction.MINIMIZE
        return replace(training, direction=of_loss)
    reports_more = owns_fit(hypermodel) or has_own_step(model)
    known = _known(model, data, form, reports_more=reports_more)
    hint = _hint(monitor, known)
    if hint and not (reports_more and is_of_part):
        raise ConfigError(f"training.monitor={monitor} is no metric of this model.{hint}")
    direction = training.direction or known.get(name)
    if direction is None:
        raise ConfigError(
            f"Nothing says whether more or less of training.monitor={monitor} is better: "
            f"give training.direction={Direction.MINIMIZE} or "
            f"training.direction={Direction.MAXIMIZE}.{hint}"
        )
    return replace(training, direction=direction)


def has_own_step(model: keras.Model) -> bool:
    """Return whether a model has a training or test method that is not Keras's.

    Such a model may report metrics that are not known before its first epoch.
    """
    steps = ("fit", "evaluate", "train_step", "test_step")
    makers = ("make_train_function", "make_test_function")
    for step in steps + makers:
        of_class = getattr(type(model), step)
        of_keras = getattr(keras.Model, step)
        if of_class is not of_keras or step in vars(model):
            return True
    return False


def _hint(monitor: str, known: Iterable[str]) -> str:
    """Return a sentence with the metrics that exist, or nothing if `monitor` is one of them."""
    valid = []
    for part in ("train", "val"):
        valid += [f"{part}/{name}" for name in known]
    if monitor in valid:
        return ""
    return did_you_mean(monitor, valid)


def _known(
    model: keras.Model,
    data: SearchData,
    form: str,
    *,
    reports_more: bool,
) -> Mapping[str, Direction | None]:
    """Return what is known of the metrics of a model before its first epoch."""
    try:
        return _reported(model, data, form)
    except Exception as error:  # Keras or a metric may raise any error.
        if reports_more:
            return {"loss": Direction.MINIMIZE}
        line = first_line(error)
        raise ModelError(f"The metrics of the model cannot be computed: {line}.") from error


def _reported(
    model: keras.Model,
    data: SearchData,
    form: str,
) -> Mapping[str, Direction | None]:
    """Return the names under which a model reports its metrics, each with its direction or None.

    The metrics are built with the first images, as a fit builds them. Then their state is reset.

    Args:
        model: A compiled model.
        data: The data that has the images.
        form: The form of the labels, as `labels_for` returns it.
    """
    images = data.train.inputs[:2]
    labels = data.train.targets[:2]
    if form == "onehot":
        labels = keras.utils.to_categorical(labels, data.n_classes)
    outputs = model(images)
    labels = keras.tree.map_structure(lambda _: labels, outputs)  # the same for each output
    try:
        model.compute_loss(images, labels, outputs)
        logs = model.compute_metrics(images, labels, outputs, None)
        metrics = _metrics_by_log(model)
        of_losses = getattr(model._compile_loss, "metrics", ())
        losses = {metric.name for metric in of_losses}
    finally:
        model.reset_metrics()

    names = (*logs, *metrics)
    found = {name: _direction(metrics.get(name)) for name in names}
    for name, value in logs.items():
        # A metric of several numbers, such as one for each class, is reported under several names.
        numbers = numbers_of({name: value})
        several = numbers.keys() - {name}
        if several:
            direction = found.pop(name)
            found.update(dict.fromkeys(several, direction))
    of_outputs = losses & found.keys()  # the losses of single outputs
    for name in ("loss", *of_outputs):
        found[name] = Direction.MINIMIZE
    return found


def _direction(metric: Metric | None) -> Direction | None:
    """Return the direction that a metric itself says, or else the metric of its function."""
    directions = {"up": Direction.MAXIMIZE, "down": Direction.MINIMIZE}
    for source in (metric, _class_of(metric)):
        said = getattr(source, "_direction", None)
        if said in directions:
            return directions[said]
    return None


def _class_of(metric: Metric | None) -> Metric | None:
    """Return the metric that Keras itself makes of the function that this one wraps, if any."""
    function = getattr(metric, "_fn", None)
    module = getattr(function, "__module__", "")
    if not str(module).startswith("keras."):
        return None
    name = getattr(function, "__name__", None)
    if name is None:
        return None
    try:
        known = keras.metrics.get(name)
    except (AttributeError, TypeError, ValueError):
        return None
    if getattr(known, "_fn", None) is function:
        return known
    return None


def _metrics_by_log(model: keras.Model) -> dict[str, Metric]:
    """Return the metric behind each name of the logs.

    Keras has its own rules to make the names unique. Therefore each metric returns itself as its
    result once, and Keras names the results.
    """
    compiled = model._compile_metrics
    metrics = {}
    of_compiled = getattr(compiled, "metrics", ())
    for metric in (*model.metrics, *of_compiled):
        if metric is not compiled:
            metrics[id(metric)] = metric
    for metric in metrics.values():
        object.__setattr__(metric, "result", lambda metric=metric: metric)
    try:
        found: dict[str, Metric] = keras.Model.get_metrics_result(model)
    finally:
        for metric in metrics.values():
            object.__delattr__(metric, "result")
    return found
