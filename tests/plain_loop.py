"""MC Dropout of a model beside a plain loop of Keras, compared by mean and variance."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

import foreign_models
from hpsearch.errors import ModelError
from hpsearch.mc_dropout.certificate import Certificate
from hpsearch.mc_dropout.passes import Sampler
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.models.outputs import distributions

HEADER = ("model", "S", "variance, ours / loop", "99 % interval", "means, rms of z", "verdict")
N_INPUTS = 64
N_PARTS = 40  # of the passes, from which errors are estimated
MOST_PASSES = 64_000


def row(name: str, n_least: int) -> tuple[str, ...]:
    """Return what the table says of one model."""
    build = foreign_models.BUILDS[name]
    keras.utils.set_random_seed(1)
    model = build()
    keras.utils.set_random_seed(1)
    reference = build(plain=True)
    reference.set_weights(_randomized(model))
    inputs = np.random.default_rng(2).normal(size=(N_INPUTS, *foreign_models.SHAPE))
    inputs = inputs.astype(np.float32)
    from_logits = name == "logits"
    settings = McDropout(
        n_samples=n_least,
        shared_masks=False,
        seed=0,
        batch_size=N_INPUTS,
        memory_mb=1024,
        from_logits=from_logits,
    )
    try:
        sampler = Sampler(model, settings)
        Certificate.of(sampler, inputs)
    except ModelError as error:
        return name, "", "", "", "", str(error)
    loop = _loop(reference, inputs, from_logits)
    n_passes = n_least
    while True:
        ours = [_moments(sampler, inputs, n_passes // N_PARTS, part) for part in range(N_PARTS)]
        theirs = [_of_loop(loop, n_passes // N_PARTS) for _ in range(N_PARTS)]
        ratio, half_width = _ratio(ours, theirs)
        z = _z_of_means(ours, theirs)
        holds = abs(ratio - 1) <= half_width <= 0.05 and z < 1.5
        if holds or n_passes >= MOST_PASSES:
            break
        factor = 4
        if half_width <= 0.05:
            factor = 16
        n_passes = min(MOST_PASSES, n_passes * factor)
    verdict = "agrees" if holds else "DIFFERS"
    low, high = ratio - half_width, ratio + half_width
    return name, f"{n_passes:,}", f"{ratio:.3f}", f"{low:.3f} to {high:.3f}", f"{z:.2f}", verdict


def _randomized(model: keras.Model) -> list[np.ndarray]:
    """Return weights in which BatchNormalization has statistics of its own, after setting them."""
    rng = np.random.default_rng(3)
    weights = []
    for variable in model.weights:
        value = np.asarray(variable)
        if "moving_mean" in variable.path:
            value = rng.normal(0, 0.3, value.shape).astype(value.dtype)
        elif "moving_variance" in variable.path:
            value = rng.uniform(0.5, 2, value.shape).astype(value.dtype)
        weights.append(value)
    model.set_weights(weights)
    return weights


def _loop(
    model: keras.Model,
    inputs: np.ndarray,
    from_logits: bool,
) -> Callable[[], np.ndarray]:
    """Return a function that makes one pass as people write it, (N, C)."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False  # Keras then runs it in inference mode
    x = ops.convert_to_tensor(inputs)

    def outputs(raw: Any) -> np.ndarray:
        return np.asarray(
            ops.convert_to_numpy(distributions(raw, from_logits=from_logits)), np.float64
        )

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # noqa: PLC0415

        once = tf.function(lambda: model(x, training=True), autograph=False)
        return lambda: outputs(once())
    import jax  # noqa: PLC0415

    trainable = [variable.value for variable in model.trainable_variables]
    state = [[variable.value for variable in model.non_trainable_variables]]
    once = jax.jit(lambda state: model.stateless_call(trainable, state, x, training=True))

    def one_pass() -> np.ndarray:
        raw, state[0] = once(state[0])
        return outputs(raw)

    return one_pass


Moments = tuple[np.ndarray, np.ndarray, int]  # mean (N, C), variance (N, C), passes


def _moments(
    sampler: Sampler,
    inputs: np.ndarray,
    n: int,
    seed: int,
) -> Moments:
    found = sampler.predict(inputs, n_samples=n, seed=seed)
    return found.probs, found.variance * n / (n - 1), n


def _of_loop(loop: Callable[[], np.ndarray], n: int) -> Moments:
    passes = np.stack([loop() for _ in range(n)])
    return passes.mean(axis=0), passes.var(axis=0, ddof=1), n


def _ratio(ours: list[Moments], theirs: list[Moments]) -> tuple[float, float]:
    """Return the ratio of the summed variances, and half the width of its 99 % interval."""
    sums = [np.array([part[1].sum() for part in parts]) for parts in (ours, theirs)]
    means = [values.mean() for values in sums]
    errors = [values.std(ddof=1) / len(values) ** 0.5 / values.mean() for values in sums]
    ratio = means[0] / means[1]
    return ratio, 2.576 * ratio * float(np.hypot(*errors))


def _z_of_means(ours: list[Moments], theirs: list[Moments]) -> float:
    """Return the root mean square of the differences of means, in standard errors."""
    stacks = [np.stack([part[0] for part in parts]) for parts in (ours, theirs)]
    gap = stacks[0].mean(axis=0) - stacks[1].mean(axis=0)
    variances = [stack.var(axis=0, ddof=1) / len(stack) for stack in stacks]
    error = np.sqrt(np.maximum(sum(variances), 1e-14))
    return float(np.sqrt(np.mean(np.square(gap / error))))
