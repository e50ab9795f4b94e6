"""Self-test of the Monte Carlo Dropout conversion, run on every model that is evaluated.

`Certificate.of` shows that the samples differ, that no variable of the model changes, and that the
plain output comes out when all dropout rates are 0. It raises an error where a check fails.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from hpsearch.errors import ModelError
from hpsearch.mc_dropout.passes import Sampler
from hpsearch.mc_dropout.plain import PlainModel
from hpsearch.metrics import SUM_TOLERANCE
from hpsearch.models.dropout_masks import alpha_dropped, random_bits, row_keys, uniform_of
from hpsearch.models.outputs import rounding_of


@dataclass(frozen=True)
class Certificate:
    """Results of the self-test of a conversion.

    Attributes:
        n_active: Number of random draws in a pass.
        other_draws: Names of own layers with random draws that are on, but no dropout of Keras.
        left_off: Names of layers with random draws that are off, since Keras does not make them.
        samples_vary: Whether passes of different seeds differ.
        variables_unchanged: Whether all variables except the states of seed generators are
            bit-identical before and after the passes.
        plain_gap: Largest difference between the plain output and a pass with all rates at 0; NaN
            where a model has draws without a rate.
        rounding: The largest such difference that rounding explains.
        alpha_errors: Deviation of mean and variance after AlphaDropout of a standard normal, in
            standard errors; 0 without AlphaDropout.
    """

    n_active: int
    other_draws: tuple[str, ...]
    left_off: tuple[str, ...]
    samples_vary: bool
    variables_unchanged: bool
    plain_gap: float
    rounding: float
    alpha_errors: float

    @classmethod
    def of(cls, sampler: Sampler, inputs: np.ndarray) -> Certificate:
        """Test the conversion of a sampler's model on a few images.

        Args:
            sampler: The sampler of the model.
            inputs: Model input, (N, ...); the test uses the first 64.

        Raises:
            ModelError: A check failed, so numbers from this conversion must not be used.
        """
        model = sampler.model
        split = sampler.split
        probes = inputs[:64]
        before = fingerprint(model)
        first = sampler.predict(probes, n_samples=1, seed=1)
        second = sampler.predict(probes, n_samples=1, seed=2)
        change = np.abs(first.probs - second.probs)
        gap = math.nan
        if split.can_be_off:
            zeros = [0.0] * len(split.rates)
            at_zero = sampler.predict(probes, n_samples=1, rates=zeros)
            plain = PlainModel(model, sampler.settings).predict(probes)
            gap = float(np.abs(plain - at_zero.probs).max())
        after = fingerprint(model)
        alpha_errors = [0.0]
        for draw in split.structure.draws:
            if draw.name == "alpha_dropout":
                alpha_errors.append(_alpha_errors(draw.rate))
        certificate = cls(
            n_active=len(split.rates),
            other_draws=split.structure.other_draws,
            left_off=split.structure.left_off,
            samples_vary=bool(change.max() > 1e-6),
            variables_unchanged=after == before,
            plain_gap=gap,
            rounding=max(1e-4, rounding_of(model) - SUM_TOLERANCE),
            alpha_errors=max(alpha_errors),
        )
        failures = certificate.failures
        if failures:
            raise ModelError(
                f"Expected {model.name!r} to pass the self-test of MC Dropout, received: "
                f"{'; '.join(failures)}."
            )
        return certificate

    def record(self) -> dict[str, Any]:
        """Return the results as values of JSON; a gap that was not measured is None."""
        values = asdict(self)
        if math.isnan(self.plain_gap):
            values["plain_gap"] = None
        return values

    def sentence(self) -> str:
        """Return the results of a passed self-test as text for people."""
        draws = "draws"
        if self.n_active == 1:
            draws = "draw"
        text = (
            f"Self-test passed: {self.n_active} {draws} of dropout in each pass, samples vary, and "
            "all variables but seeds are bit-identical before and after."
        )
        if math.isnan(self.plain_gap):
            return text
        if self.plain_gap == 0:
            return f"{text} With all rates at 0 a pass equals the plain output."
        return f"{text} With all rates at 0 a pass is {self.plain_gap:.1g} off the plain output."

    @property
    def qualification(self) -> str:
        """What the passes draw beside Keras's dropout, or what of it is off; often nothing."""
        parts = []
        if self.other_draws:
            parts.append(f"with the random draws of {_listed(self.other_draws)}")
        if self.left_off:
            parts.append(
                f"without those of {_listed(self.left_off)}, which Keras's random functions do not "
                "make"
            )
        return ", ".join(parts)

    @property
    def failures(self) -> list[str]:
        """The checks that failed, each in a few words."""
        failures = []
        if not self.samples_vary:
            failures.append("the samples do not vary")
        if not self.variables_unchanged:
            failures.append("variables changed")
        if self.plain_gap > self.rounding:
            failures.append(
                f"with all rates at 0 the output is {self.plain_gap:.2g} off the plain one"
            )
        # False alarms are rarer than one in 10**8.
        if not self.alpha_errors <= 6:
            failures.append(
                f"AlphaDropout moves mean or variance by {self.alpha_errors:.1f} standard errors"
            )
        return failures


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def fingerprint(model: keras.Model) -> str:
    """Return a hash of the bytes of all variables except the states of seed generators."""
    digest = hashlib.sha256()
    for variable in model.variables:
        if "seed_generator" not in variable.path:
            values = np.asarray(variable)
            digest.update(values.tobytes())
    return digest.hexdigest()


def _alpha_errors(rate: float) -> float:
    """Return how far AlphaDropout moves mean 0 and variance 1, in standard errors."""
    rng = np.random.default_rng(0)
    n_rows = 1000
    normal = rng.standard_normal((n_rows, 200))
    centred = normal - normal.mean()
    normal = centred / normal.std()
    inputs = ops.convert_to_tensor(normal, "float32")
    keys = row_keys([1, 2], 0, ops.arange(n_rows, dtype="int32"))
    uniform = uniform_of(random_bits(keys, 0, 200))
    outputs = alpha_dropped(inputs, uniform, ops.convert_to_tensor(rate, "float32"))
    noisy = np.float64(ops.convert_to_numpy(outputs))
    square = np.square(noisy)
    root_n = noisy.size**0.5
    error_of_mean = noisy.std() / root_n
    error_of_variance = square.std() / root_n
    of_mean = abs(noisy.mean()) / error_of_mean
    of_variance = abs(square.mean() - 1.0) / error_of_variance
    return float(max(of_mean, of_variance))
