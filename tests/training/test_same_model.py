"""What is trained is the model that a HyperModel's `build` returns: each kind of model beside
Keras's own fit.
"""

from __future__ import annotations

import collections
import itertools
import os
import sys
import types
from typing import Any

import keras
import numpy as np
import pytest

import people
from beside_keras import (
    FLOAT32_ALONE,
    SEED,
    SETTINGS,
    WEIGHTS,
    by_keras,
    hyperparameters,
    precision,
    searched,
    trained,
)
from hpsearch.data.split import SearchData
from hpsearch.training.checkpoints import CheckpointFile
from hpsearch.training.programs.fingerprint import UnknownStateError, fingerprint
from hpsearch.training.programs.proof import untouched_randomness
from hpsearch.training.settings import VAL_BATCH_SIZE, Training
from hpsearch.training.trainer import Trainer

BY_FIT = {"own_compute_loss", "own_test_step", "run_eagerly"}
BY_FIT_ON_JAX = {"random_preprocessing"}
EITHER = {"mixed_float16"}  # whose rounding may be more than the proof allows
QUICK = {
    "adapted_normalization",
    "own_compute_loss",
    "averages_and_clipping",
    "imperative",
    "one_hot_loss",
}
EVERY = [
    *((name, "float32") for name in sorted(QUICK)),
    *(
        pytest.param(
            name, "float32" if name in FLOAT32_ALONE else "float64", marks=pytest.mark.slow
        )
        for name in people.BUILDS
    ),
]


@pytest.fixture(scope="module")
def data() -> SearchData:
    return searched()


@pytest.mark.parametrize(("name", "floatx"), EVERY)
def test_a_search_trains_what_keras_trains(name: str, floatx: str, data: SearchData) -> None:
    build = people.BUILDS[name]
    with precision(floatx):
        epochs, _, way = trained(build, data)
        theirs = by_keras(build, data)["val_loss"]
        ours = [epoch["val/loss"] for epoch in epochs]
        if name in BY_FIT or (name in BY_FIT_ON_JAX and keras.backend.backend() == "jax"):
            assert way.startswith("by Keras's own fit: ")
            assert ours == theirs
            return
        assert way == Trainer.BY_PROGRAM or name in EITHER
        rounding = 1e-4
        if floatx == "float32" and not np.allclose(ours, theirs, rtol=rounding, atol=rounding):
            compiled = by_keras(build, data, jit=True)["val_loss"]
            rounding = max(np.abs(np.subtract(compiled, theirs)))
    np.testing.assert_allclose(ours, theirs, rtol=rounding, atol=rounding)


def test_each_number_of_a_metric_is_reported(data: SearchData) -> None:
    epochs, _, way = trained(people.BUILDS["metrics_of_several_numbers"], data)
    assert way == Trainer.BY_PROGRAM
    theirs = by_keras(people.BUILDS["metrics_of_several_numbers"], data)
    for place in range(people.N_CLASSES):
        ours = [epoch[f"val/f1_score/{place}"] for epoch in epochs]
        np.testing.assert_allclose(
            ours, [values[place] for values in theirs["val_f1_score"]], atol=1e-4
        )
    assert "val/f1_score" not in epochs[0]


def test_two_thirds_of_what_people_write_go_by_the_program() -> None:
    assert len(people.BUILDS) >= 20
    assert people.BUILDS.keys() >= BY_FIT | BY_FIT_ON_JAX | EITHER | QUICK | FLOAT32_ALONE
    assert len(BY_FIT | EITHER) <= len(people.BUILDS) / 3


@pytest.mark.parametrize("name", ["adapted_normalization", "own_compute_loss", "imperative"])
def test_the_model_has_the_value_that_is_reported(name: str, data: SearchData) -> None:
    epochs, model, _ = trained(people.BUILDS[name], data)
    measured = model.evaluate(
        data.val.inputs, data.val.targets, verbose=0, return_dict=True, batch_size=VAL_BATCH_SIZE
    )
    assert measured["loss"] == pytest.approx(min(epoch["val/loss"] for epoch in epochs), rel=1e-5)


@pytest.mark.parametrize(
    "name", ["adapted_normalization", "own_layer_with_state", "told_after_it_was_made"]
)
def test_the_fingerprint_is_that_of_any_model_built_alike(name: str) -> None:
    assert fingerprint(people.BUILDS[name]()) == fingerprint(people.BUILDS[name]())


def changed_layer(value: Any) -> keras.Model:
    scaled = people.Scaled()
    scaled.factor = value
    return people.compiled(people.dense(scaled))


def changed_optimizer(**attributes: Any) -> keras.Model:
    optimizer = keras.optimizers.Adam(0.01)
    for name, value in attributes.items():
        setattr(optimizer, name, value)
    return people.compiled(people.dense(), optimizer)


def changed_closure(scale: float) -> keras.Model:
    return people.compiled(people.dense(activation=lambda x: scale * x))


def changed_constraint(limit: float) -> keras.Model:
    model = people.dense()
    model.layers[2].kernel.constraint = keras.constraints.MaxNorm(limit)
    return people.compiled(model)


KNOBS = types.ModuleType("knobs_of_nobody")
KNOBS.inner = types.ModuleType("knobs_of_nobody.inner")
sys.modules[KNOBS.__name__] = KNOBS


def by_module(x: Any) -> Any:
    return x * KNOBS.scale


def by_inner_module(x: Any) -> Any:
    return x * KNOBS.inner.scale


def by_import(x: Any) -> Any:
    import knobs_of_nobody  # noqa: PLC0415 (people do)

    return x * knobs_of_nobody.scale


def by_name(x: Any) -> Any:
    return x * getattr(KNOBS, "scale")  # noqa: B009 (people do)


def by_environment(x: Any) -> Any:
    return x * float(os.environ["SCALE_OF_NOBODY"])


class Blend(keras.layers.Layer):
    """Its attributes have names that libraries use for themselves on other objects."""

    def __init__(self, **values: float) -> None:
        super().__init__()
        self.history = self._seed = self._self_scale = 0.5
        for name, value in values.items():
            setattr(self, name, value)

    def call(self, inputs: Any) -> Any:
        return inputs * self.history * self._seed * self._self_scale


@pytest.mark.parametrize("read", [by_module, by_inner_module, by_import, by_name, by_environment])
def test_what_a_function_reads_elsewhere_is_in_the_fingerprint(read: Any, monkeypatch: Any) -> None:
    found = []
    for scale in (1.0, 2.0, 1.0):
        monkeypatch.setenv("SCALE_OF_NOBODY", str(scale))
        KNOBS.scale = KNOBS.inner.scale = scale
        found.append(fingerprint(people.compiled(people.dense(activation=read))))
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("name", ["history", "_seed", "_self_scale"])
def test_no_attribute_of_ones_own_is_passed_over_for_its_name(name: str) -> None:
    found = [
        fingerprint(people.compiled(people.dense(Blend(**{name: value}))))
        for value in (0.5, 0.7, 0.5)
    ]
    assert found[0] == found[2] != found[1]


def test_what_keras_is_told_of_everything_is_in_the_fingerprint(monkeypatch: Any) -> None:
    before = fingerprint(people.compiled(people.dense()))
    monkeypatch.setattr(keras.src.backend.config, "_EPSILON", 1e-3)
    assert fingerprint(people.compiled(people.dense())) != before


@pytest.mark.parametrize(
    "pair",
    [
        (changed_layer(1.0), changed_layer(1.5)),
        (changed_layer(np.zeros(24)), changed_layer(np.ones(24))),
        (changed_optimizer(), changed_optimizer(beta_2=0.9)),
        (changed_optimizer(), changed_optimizer(clipnorm=1.0)),
        (changed_closure(1.0), changed_closure(2.0)),
        (changed_constraint(1.0), changed_constraint(2.0)),
        (people.frozen_inside_own_layer(), people.compiled(people.dense(people.OpenBase()))),
        (
            people.compiled(people.dense()),
            people.compiled(people.dense(), metrics=[people.confidence]),
        ),
        (people.compiled(people.dense()), people.compiled(people.dense(), loss=people.soft_error)),
    ],
)
def test_what_no_config_holds_is_in_the_fingerprint(pair: tuple[keras.Model, keras.Model]) -> None:
    assert fingerprint(pair[0]) != fingerprint(pair[1])


def test_a_variable_that_keras_does_not_track_has_no_fingerprint() -> None:
    hidden = keras.Variable([1.0])
    model = people.compiled(people.dense(activation=lambda x: x * hidden))
    with pytest.raises(UnknownStateError, match="does not track"):
        fingerprint(model)


class Counter:
    """Builds another model each time."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self) -> keras.Model:
        self.n += 1
        return people.compiled(people.dense(units=16 + self.n))


def test_a_build_that_never_makes_the_same_model_twice_is_trained_by_fit(data: SearchData) -> None:
    _, model, way = trained(Counter(), data)
    assert way == "by Keras's own fit: building it twice makes two different models"
    assert model.layers[2].units == 17


def test_short_trainings_of_many_structures_are_not_compiled(data: SearchData) -> None:
    trainer = Trainer(Training(**SETTINGS), data)
    trainer.varies = True
    said: list[str] = []
    trainer.fit(
        people.Given(people.plain),
        hyperparameters(),
        people.plain(),
        SEED,
        lambda *_: None,
        told=said.append,
    )
    assert "takes longer than it saves" in said[0]


def test_an_answer_that_is_remembered_is_not_asked_again(data: SearchData) -> None:
    first = Trainer(Training(**SETTINGS), data)
    given, hp = people.Given(people.plain), hyperparameters()
    first.fit(given, hp, people.plain(), SEED, lambda *_: None)
    assert list(first.remembered_proofs.values()) == [""]
    second = Trainer(Training(**SETTINGS), data)
    second.remembered_proofs = {name: "it was so" for name in first.remembered_proofs}
    said: list[str] = []
    second.fit(given, hp, people.plain(), SEED, lambda *_: None, told=said.append)
    assert said == ["by Keras's own fit: it was so"]


@pytest.mark.parametrize("averaging_epochs", [None, 1.0])
def test_a_fit_by_keras_that_goes_on_equals_one_never_stopped(
    averaging_epochs: float | None, data: SearchData, tmp_path: Any
) -> None:
    def made() -> Trainer:
        found = Trainer(Training(**{**SETTINGS, "averaging_epochs": averaging_epochs}), data)
        found.varies = True
        return found

    def run(listener: Any, file: CheckpointFile | None) -> tuple[list[float], keras.Model]:
        keras.utils.set_random_seed(WEIGHTS)
        model = people.gaussian_noise()
        fitted = made().fit(
            people.Given(people.gaussian_noise),
            hyperparameters(),
            model,
            SEED,
            listener,
            checkpoint_file=file,
        )
        return [epoch["val/loss"] for epoch in fitted.history], model

    class StopError(Exception):
        pass

    def stop(epoch: int, *_: object) -> None:
        if epoch == 2:
            raise StopError

    file = CheckpointFile(tmp_path / "1.npz", 0.0)
    with pytest.raises(StopError):
        run(stop, file)
    (whole, model), (again, resumed) = run(lambda *_: None, None), run(lambda *_: None, file)
    assert again == whole
    for one, other in zip(model.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_building_another_model_moves_no_random_number() -> None:
    keras.utils.set_random_seed(3)
    expected = keras.ops.convert_to_numpy(keras.random.normal((3,)))
    keras.utils.set_random_seed(3)
    with untouched_randomness():
        people.recurrent()
        keras.random.normal((5,))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(keras.random.normal((3,))), expected)


def test_objects_without_attributes_are_compared_by_what_makes_them() -> None:
    def built(*fields: str) -> keras.Model:
        scaled = people.Scaled()
        scaled.factor = 1.0
        scaled.kind = collections.namedtuple("Kind", fields)
        scaled.counted = itertools.count(len(fields))
        return people.compiled(people.dense(scaled))

    assert fingerprint(built("a", "b")) == fingerprint(built("a", "b"))
    assert fingerprint(built("a", "b")) != fingerprint(built("a", "b", "c"))


def test_an_open_file_has_no_fingerprint(tmp_path: Any) -> None:
    scaled = people.Scaled()
    with (tmp_path / "notes").open("w") as file:
        scaled.notes = file
        with pytest.raises(UnknownStateError, match="whose state cannot be compared"):
            fingerprint(people.compiled(people.dense(scaled)))
