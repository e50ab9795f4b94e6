"""Compiled programs train as `fit` would, and carry nothing from one trial into the next."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from hpsearch.training.programs.averages import average_weights
from hpsearch.training.programs.fingerprint import fingerprint
from hpsearch.training.programs.order import Batches, Order
from hpsearch.training.programs.program import Program

N, BATCH = 96, 16


def build(  # noqa: PLR0917
    rate: float = 0.3,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    units: int = 8,
    sgd: bool = False,
    dropout: Any = keras.layers.AlphaDropout,
) -> Any:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Flatten(),
            layers.Dense(
                units, use_bias=False
            ),  # its gradient would be rounding noise, which Nadam blows up
            layers.BatchNormalization(),
            layers.Activation("elu"),
            dropout(rate),
            layers.Dense(3, "softmax"),
        ]
    )
    optimizer = (
        keras.optimizers.SGD(learning_rate, momentum=momentum, nesterov=True)
        if sgd
        else keras.optimizers.Nadam(learning_rate, beta_1=momentum)
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (N, 4, 4, 1)).astype(np.float32) / 255, rng.integers(
        0, 3, N
    ).astype(np.int32)


def program(model: Any, data: tuple[np.ndarray, np.ndarray], averaging: float = 0.0) -> Program:
    images, labels = map(keras.ops.convert_to_tensor, data)
    return Program("", model, images, labels, averaging=averaging, jit=True)


def train(program: Program, model: Any, seed: int = 1, epochs: int = 2) -> list[np.ndarray]:
    program.load(model, lambda layer: seed + layer)
    order = Order(N, BATCH, 4, lambda epoch: seed * 1000 + epoch)
    turn = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: setattr(order, "epoch", epoch)
    )
    program.model.fit(order, epochs=epochs, shuffle=False, verbose=0, callbacks=[turn])
    return program.state()


def assert_equal(some: list[np.ndarray], others: list[np.ndarray], **tolerance: float) -> None:
    for one, other in zip(some, others, strict=True):
        np.testing.assert_allclose(one, other, **(tolerance or {"rtol": 0, "atol": 0}))


def test_order_is_a_permutation_whose_smaller_batch_comes_last() -> None:
    order = Order(50, 8, 4, lambda epoch: epoch)
    rows, counts, _, last, comes, _ = zip(
        *(order.element_at(i) for i in range(len(order))), strict=True
    )
    assert [c.tolist() for c in counts] == [[4], [2]]
    assert [c.tolist() for c in comes] == [[0], [1]]
    seen = [*(r[: c[0]].ravel() for r, c in zip(rows, counts, strict=True)), last[1]]
    assert sorted(np.concatenate(seen)) == list(range(50))
    assert order.n_steps == 7
    order.epoch = 1
    assert not np.array_equal(order.element_at(0)[0], rows[0])


def test_batches_are_those_of_the_order() -> None:
    order = Order(50, 8, 4, lambda epoch: epoch)
    x = np.arange(50)
    batches = Batches(order, x, 2 * x)
    order.epoch = 3
    found = [batches[i] for i in range(len(batches))]
    first, rest = order.element_at(0), order.element_at(1)
    assert np.array_equal(np.stack([b[0] for b in found[:4]]), first[0])
    assert np.array_equal(found[-1][0], rest[3])
    assert all(np.array_equal(2 * x, y) for x, y in found)


def test_order_with_a_batch_larger_than_the_data_is_one_batch() -> None:
    rows, count, _, last, comes, _ = Order(5, 8, 0, lambda epoch: 0).element_at(0)
    assert rows.shape == (1, 5)
    assert (count.tolist(), len(last), comes.tolist()) == ([1], 0, [0])


@pytest.mark.parametrize("sgd", [False, True])
def test_equals_keras_fit_on_the_same_batches(data: Any, sgd: bool) -> None:
    """With dropout at 0 only the order is random, so plain train_on_batch is the reference."""
    ours = train(program(build(0.0, sgd=sgd), data), build(0.0, sgd=sgd))
    model = build(0.0, sgd=sgd)
    for epoch in range(2):
        order = Order(N, BATCH, 0, lambda epoch: 1000 + epoch)
        order.epoch = epoch
        for rows in order.element_at(0)[0]:
            model.train_on_batch(data[0][rows], data[1][rows])
    theirs = [
        keras.ops.convert_to_numpy(v)
        for layer in model.layers
        for v in layer.variables
        if "seed" not in v.path
    ]
    assert_equal(ours, theirs, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("sgd", [False, True])
def test_a_trial_alone_equals_the_same_trial_after_others(data: Any, sgd: bool) -> None:
    def seventh() -> Any:
        return build(0.2, learning_rate=0.003, momentum=0.8, sgd=sgd)

    alone = train(program(seventh(), data, averaging=0.9), seventh(), seed=7)
    shared = program(build(0.5, sgd=sgd), data, averaging=0.9)
    for i in range(1, 4):
        train(shared, build(0.1 * i, learning_rate=0.1 / i, momentum=0.5, sgd=sgd), seed=i)
    assert_equal(train(shared, seventh(), seed=7), alone)


@pytest.mark.parametrize(
    "changed", [{"rate": 0.0}, {"learning_rate": 0.001}, {"momentum": 0.5}, {"seed": 2}]
)
def test_every_input_counts(data: Any, changed: dict[str, Any]) -> None:
    shared = program(build(), data)
    seed = changed.pop("seed", 1)
    first = train(shared, build())
    other = train(shared, build(**changed), seed=seed)
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_rate_zero_needs_no_seed_generator(data: Any) -> None:
    train(program(build(0.0), data), build(0.4))
    train(program(build(0.4), data), build(0.0))


def test_unload_gives_a_fresh_model_the_trained_weights(data: Any) -> None:
    shared = program(build(), data)
    state = train(shared, build())
    target = build()
    shared.unload(target, state)
    np.testing.assert_allclose(
        target.predict(data[0], verbose=0), shared.model.predict(data[0], verbose=0), rtol=1e-5
    )
    assert target.layers[4].rate == 0.3  # a plain number, as the registry wants it


@pytest.mark.parametrize("changed", [{"rate": 0.0}, {"learning_rate": 0.5}, {"momentum": 0.1}])
def test_signature_ignores_inputs(changed: dict[str, Any]) -> None:
    assert fingerprint(build()) == fingerprint(build(**changed))


def test_signature_tells_architectures_apart() -> None:
    assert fingerprint(build()) != fingerprint(build(units=9))
    assert fingerprint(build()) != fingerprint(build(sgd=True))


@pytest.mark.parametrize("dropout", [keras.layers.Dropout, keras.layers.AlphaDropout])
def test_live_dropout_drops_its_rate_and_keeps_the_mean(data: Any, dropout: Any) -> None:
    shared = program(build(0.5, dropout=dropout), data)
    shared.load(build(0.2, dropout=dropout), lambda layer: 3)
    live = shared.model.layers[4]
    ones = np.ones((200, 500), np.float32)
    values = keras.ops.convert_to_numpy(live(ones, training=True))
    dropped = values != values.max()
    assert dropped.mean() == pytest.approx(0.2, abs=0.01)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(live(ones, training=False)), ones)
    if dropout is keras.layers.Dropout:
        assert values.mean() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("dropout", [keras.layers.Dropout, keras.layers.GaussianDropout])
def test_trains_with_any_dropout_layer(data: Any, dropout: Any) -> None:
    shared = program(build(0.3, dropout=dropout), data)
    assert all(np.isfinite(v).all() for v in train(shared, build(0.3, dropout=dropout)))


def test_averages_look_back_over_a_fifth_of_the_steps_then_over_their_window():
    optimizer, weight = (
        keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.6),
        keras.Variable([0.0]),
    )
    optimizer.build([weight])
    average_weights(optimizer, 0.6)
    averages = []
    for _ in range(12):
        optimizer.apply([keras.ops.array([-1.0])])  # the weight is 1, 2, 3, ...
        averages.append(float(optimizer._model_variables_moving_average[0][0]))
    assert averages[:3] == pytest.approx([1, 1 / 6 + 2 * 5 / 6, (11 / 6) * 2 / 7 + 3 * 5 / 7])
    for step in range(8, 12):  # 8 / (8 + 5) is more than 0.6
        assert averages[step] == pytest.approx(0.6 * averages[step - 1] + 0.4 * (step + 1))


def test_the_initial_weights_have_faded_from_the_averages_after_an_epoch():
    optimizer, weight = (
        keras.optimizers.SGD(0.0, use_ema=True, ema_momentum=0.999),
        keras.Variable([1.0]),
    )
    optimizer.build([weight])
    average_weights(optimizer, 0.999)
    for _ in range(100):
        optimizer.apply([keras.ops.array([0.0])])
        weight.assign([0.0])
    assert float(optimizer._model_variables_moving_average[0][0]) < 1e-3
