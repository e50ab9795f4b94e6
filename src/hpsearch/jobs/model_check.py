"""Check the models of a search before a study or a run is made.

`ModelCheck` does once, with one model on one batch, what a trial will do: it builds the model,
trains it, saves it, loads it and looks at its outputs. A mistake in a person's model therefore
shows at once, and in one sentence with the person's own line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import keras
import keras_tuner
import numpy as np
import optuna
from optuna.distributions import BaseDistribution

from hpsearch.data.split import Examples, SearchData
from hpsearch.errors import ConfigError, DivergedError, HpsearchError, ModelError
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.models.architecture import Architecture, build_model
from hpsearch.models.code_digest import code_digest
from hpsearch.models.loss_and_optimizer import check_compiled, returns_logits
from hpsearch.models.outputs import (
    are_probabilities,
    check_outputs,
    n_classes_of,
    rounding_of,
)
from hpsearch.models.own_error import described
from hpsearch.serving.measured_again import check_before
from hpsearch.space.hyperparameters import OptunaHyperParameters
from hpsearch.space.space import Space
from hpsearch.standard_error import standard_error
from hpsearch.study.budget import Budget
from hpsearch.study.warm_start import Asked
from hpsearch.study.worker_process import this_process
from hpsearch.training.how_trained import known_structure
from hpsearch.training.monitored_metric import directed, has_own_step
from hpsearch.training.own_fit import kept_model, may_change_form, owns_fit
from hpsearch.training.schedules import Schedule
from hpsearch.training.settings import Training
from hpsearch.training.trainer import Trainer
from hpsearch.trials.watchdog import TrialTimedOutError, Watch

# Hyperparameters that leave the layers of a model as they are.
_SAME_STRUCTURE = frozenset({"learning_rate", "momentum", "dropout_rate"})


@dataclass(frozen=True)
class Checked:
    """What the check of a search's models has found.

    Attributes:
        asked: The hyperparameters that a model asked for.
        training: The settings, with the direction of the monitored metric.
        uncertainty: The settings of MC Dropout, in which it is known whether models give logits.
        varies: Whether models of other hyperparameters have other structures.
        warnings: Sentences for the person before the first trial.
        code: The digest of a person's own code that makes the models; None where there is none.
    """

    asked: Asked
    training: Training
    uncertainty: McDropout
    varies: bool
    warnings: Sequence[str]
    code: str | None


@dataclass(frozen=True)
class ModelCheck:
    """The check of the models that a search will train.

    Attributes:
        architecture: Makes the HyperModels.
        data: The data of the search.
        training: The settings of all trainings.
        schedule: The schedule of the learning rate.
        uncertainty: The settings of MC Dropout.
        budget: Has the seconds that a model may take, `trial_timeout_s`.
        makers: The parts of the configuration that make the models; they may be a person's own.
    """

    architecture: Architecture
    data: SearchData
    training: Training
    schedule: Schedule
    uncertainty: McDropout
    budget: Budget
    makers: Sequence[object]

    def run(self) -> Checked:
        """Try one model, and return what is known of all models then.

        Where a model fails whose layers were drawn, up to four others are tried. One of them may
        work, and the search then goes on without those that do not.

        Raises:
            ModelError: No model that was tried could be built, trained, saved and loaded.
            UserError: A setting does not fit the models.
        """
        warnings = []
        failures: list[_Failure] = []
        while True:
            hp = self._hyperparameters(seed=len(failures))
            try:
                tried = self._try(hp)
                break
            except ModelError as error:
                failures.append(_Failure(error, dict(hp.values)))
                if _SAME_STRUCTURE.issuperset(hp.asked) or len(failures) == 5:
                    raise failures[0].error from error
        if failures:
            warnings.append(failures[0].warning())
        if tried.warning:
            warnings.append(tried.warning)
        return Checked(
            Asked(frozenset(hp.asked), hp.distributions),
            tried.training,
            replace(self.uncertainty, from_logits=tried.from_logits),
            self._varies(tried),
            warnings,
            code_digest(self.makers, lambda: self._built(self._hyperparameters(len(failures)))),
        )

    def _hyperparameters(self, seed: int) -> _Drawn:
        return _Drawn(seed, self.architecture.space)

    def _try(self, hp: _Drawn) -> _Tried:
        """Do with one model what a trial does with its model.

        Raises:
            ModelError: The model cannot be built, trained, saved or loaded, or its outputs are no
                probabilities of the classes.
        """
        with self._limited():
            hypermodel, model = self._built(hp)
            images = self.data.train.inputs
            structure = None
            if not owns_fit(hypermodel):
                self.architecture.space.check_used(hp.asked)
                structure = known_structure(model, images)
            training = directed(self.training, hypermodel, model, self.data)
            trains_itself = owns_fit(hypermodel) or has_own_step(model)
            from_logits = self._gives_logits(model, may_have_several=trains_itself)
            if self._may_be_mistaken:
                self._train(hypermodel, hp, model, training)
            kept = kept_model(hypermodel, model)
            if training.swag and (kept is not model or may_change_form(hypermodel)):
                raise ConfigError(
                    "training.swag=true collects the weights of a model that keeps its form, and "
                    "training changes that of these models: leave out training.swag, or what "
                    "changes them, such as sparsity."
                )
        # These are as many images as metrics are built with, so that JAX compiles no operation for
        # another size.
        shown = self.data.val.inputs[:2]
        warning = check_before(kept, shown, self.training.precision)
        return _Tried(hp, hypermodel, training, from_logits, structure, warning)

    def _built(self, hp: _Drawn) -> tuple[keras_tuner.HyperModel, keras.Model]:
        """Return a model and the HyperModel that has built it."""
        with _told("built"):
            hypermodel = self.architecture.hypermodel(hp)
            shape = self.architecture.statistics.image_shape
            model = build_model(hypermodel, hp, shape)
        if not owns_fit(hypermodel) or model.compiled:
            check_compiled(model)
        return hypermodel, model

    @property
    def _may_be_mistaken(self) -> bool:
        """Whether code makes the models that neither others have tested nor this check before.

        A worker that is replaced by a fresh process has checked the models in its first one.
        """
        if this_process.n_restarts(os.getpid()):
            return False
        for maker in self.makers:
            code = getattr(maker, "func", maker)
            if not hasattr(code, "__module__"):
                continue
            package = str(code.__module__).partition(".")[0]
            if package not in ("hpsearch", "keras", "keras_tuner", "builtins"):
                return True
        return False

    def _gives_logits(self, model: keras.Model, *, may_have_several: bool) -> bool:
        """Return whether a model gives logits; the person says so, or its loss.

        Args:
            model: The model.
            may_have_several: Whether the model may have several outputs. Keras's own training
                has no labels for more than one.

        Raises:
            ModelError: Its outputs are neither logits nor probabilities of the classes.
        """
        given = self.uncertainty.from_logits
        said = returns_logits(model)
        if given is None:
            given = said is True
        elif said is not None and given != said:
            raise ModelError(
                f"uncertainty.from_logits={str(given).lower()} contradicts the loss of the model, "
                f"which is trained with from_logits={said}: change the loss, or leave the setting "
                "out."
            )
        images = keras.ops.convert_to_tensor(self.data.val.inputs[:2])
        try:
            outputs = model(images, training=False)
        except Exception:  # a model that cannot be called so may still be trained
            return given
        if may_have_several and len(keras.tree.flatten(outputs)) > 1:
            return given
        rounding = rounding_of(model)
        _check_outputs(outputs, self.data.n_classes, given, said is not None, rounding)
        return given

    def _train(
        self,
        hypermodel: keras_tuner.HyperModel,
        hp: _Drawn,
        model: keras.Model,
        training: Training,
    ) -> None:
        """Train a model on one batch; a HyperModel with a `fit` of its own gets two.

        A `fit` may need more examples than that, so it has failed only if it fails on all of them.
        """
        batch_size = int(hp.values.get("batch_size", training.batch_size))
        if not owns_fit(hypermodel):
            self._train_on(self._little(batch_size), hypermodel, hp, model, training)
            return
        try:
            self._train_on(self._little(2 * batch_size), hypermodel, hp, model, training)
        except ModelError as error:
            if error.__cause__ is None:  # no error of the person's code
                raise
            self._train_on(self.data, hypermodel, hp, model, training)

    def _little(self, n_examples: int) -> SearchData:
        """Return data of at most `n_examples` in each part."""
        train, val = (_some(part, n_examples) for part in (self.data.train, self.data.val))
        return replace(self.data, train=train, val=val)

    def _train_on(
        self,
        data: SearchData,
        hypermodel: keras_tuner.HyperModel,
        hp: _Drawn,
        model: keras.Model,
        training: Training,
    ) -> None:
        """Train a model for one epoch.

        Raises:
            ModelError: It cannot be trained.
        """
        settings = replace(training, epochs=1, swag=False)
        trainer = Trainer(settings, data, self.schedule)
        # Keras's own fit then trains the model. A program takes the same steps, and is proved to.
        trainer.varies = True
        shape = self.architecture.statistics.image_shape
        with _told("trained", f" on inputs of shape (N, {', '.join(map(str, shape))})"):
            try:
                trainer.fit(hypermodel, hp, model, 0, lambda _epoch, _metrics, _is_last: None)
            except DivergedError:  # a few steps say nothing about that
                return

    def _varies(self, tried: _Tried) -> bool:
        """Return whether models of other hyperparameters may have other structures."""
        hypermodel = tried.hypermodel
        if owns_fit(hypermodel) or _SAME_STRUCTURE.issuperset(tried.hp.asked):
            return False
        structures = {tried.structure}
        for seed in (1, 2):
            try:
                with self._limited():
                    _, model = self._built(self._hyperparameters(seed))
            except ModelError:  # such a trial will fail, and say why
                continue
            structures.add(known_structure(model, self.data.train.inputs))
        return len(structures) > 1

    @contextmanager
    def _limited(self) -> Iterator[None]:
        """End what hangs in the block once it takes longer than a trial may.

        Raises:
            ModelError: It took longer than `budget.trial_timeout_s`.
        """
        budget = self.budget
        try:
            with Watch(budget.trial_timeout_s, budget.grace_s, _end_build):
                yield
        except TrialTimedOutError:
            raise _takes_too_long() from None


class _Drawn(OptunaHyperParameters):
    """Hyperparameters that are drawn at random, as a model asks for them.

    Args:
        seed: The seed of the draws.
        space: The bounds of the search.
    """

    def __init__(self, seed: int, space: Space) -> None:
        sampler = optuna.samplers.RandomSampler(seed=seed)
        self._probe = optuna.create_study(sampler=sampler).ask()
        super().__init__(self._probe, space)

    @property
    def distributions(self) -> Mapping[str, BaseDistribution]:
        """The distributions that the values were drawn from, by name."""
        return self._probe.distributions


class _Tried(NamedTuple):
    """A model that was tried, and what is known of it.

    Attributes:
        hp: Its hyperparameters.
        hypermodel: The HyperModel that has built it.
        training: The settings, with the direction of the monitored metric.
        from_logits: Whether it gives logits.
        structure: Its fingerprint before it was trained, or None.
        warning: A sentence for the person, or None.
    """

    hp: _Drawn
    hypermodel: keras_tuner.HyperModel
    training: Training
    from_logits: bool
    structure: str | None
    warning: str | None


class _Failure(NamedTuple):
    """A model that could not be used, while one of other hyperparameters could.

    Attributes:
        error: Why it could not be used.
        values: Its hyperparameters.
    """

    error: ModelError
    values: Mapping[str, object]

    def warning(self) -> str:
        """Return a sentence for the person."""
        drawn = ", ".join(f"{name}={value}" for name, value in self.values.items())
        return (
            f"A model of {drawn} does not work, so trials of such models will fail while others "
            f"go on: {self.error}"
        )


def _some(part: Examples, n_examples: int) -> Examples:
    """Return `n_examples` of a part, with as many of its classes as that allows.

    The examples may be in the order of their classes, of which the first ones have few.
    """
    n = len(part)
    if n <= n_examples:
        return part
    by_class = np.argsort(part.targets, kind="stable")
    rows = np.sort(by_class[np.arange(n_examples) * n // n_examples])
    return Examples(part.inputs[rows], part.targets[rows])


def _check_outputs(
    outputs: object,
    n_classes: int,
    from_logits: bool,
    is_said: bool,
    rounding: float,
) -> None:
    """Raise ModelError unless the outputs of a model are class probabilities, or logits.

    Args:
        outputs: What the model returned for a few images.
        n_classes: The number of classes, C.
        from_logits: Whether the model returns logits.
        is_said: Whether the loss says so, and not a setting or nobody.
        rounding: How far a sum of probabilities may be from one.
    """
    shape = getattr(outputs, "shape", None)
    if shape is None or len(shape) != 2 or n_classes_of(shape) != n_classes:
        received = f"a {type(outputs).__name__} of outputs"
        if shape is not None:
            sizes = ", ".join(map(str, shape[1:]))
            received = f"outputs (N, {sizes})"
            if shape[-1] == 1:
                received += ", which tell two classes apart"
        raise ModelError(
            f"Expected a model that returns a probability for each of the {n_classes} classes, "
            f"(N, {n_classes}); received {received}."
        )
    numbers = np.asarray(keras.ops.convert_to_numpy(outputs), np.float64)
    if not np.isfinite(numbers).all():  # a model that has not been trained may overflow
        return
    if not from_logits and is_said and not are_probabilities(numbers, rounding):
        raise ModelError(
            "Expected class probabilities that sum to one, as the loss of the model takes them; "
            f"received values from {numbers.min():.4g} to {numbers.max():.4g}: end the model with "
            "a softmax, or compile it with a loss of from_logits=True."
        )
    check_outputs(numbers, from_logits=from_logits, rounding=rounding)


@contextmanager
def _told(done: str, on: str = "") -> Iterator[None]:
    """Raise ModelError in place of an error of a person's code or of a library in the block.

    Args:
        done: What the block does with a model, such as `built`.
        on: On what, if that helps.
    """
    try:
        yield
    except HpsearchError:
        raise
    except Exception as error:  # a person's code may raise anything
        raise ModelError(
            f"A model of this search cannot be {done}{on}: {described(error)}."
        ) from error


def _takes_too_long() -> ModelError:
    return ModelError(
        "A model took longer than budget.trial_timeout_s to build and to train on one batch; look "
        "for what hangs in its code."
    )


def _end_build() -> None:
    """Exit the process, since nothing else ends a build that hangs."""
    standard_error.tell(f"Error: {_takes_too_long()}")
    os._exit(ModelError.exit_status)
