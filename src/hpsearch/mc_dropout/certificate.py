"""Self-test of the Monte Carlo Dropout conversion, run on every model that is evaluated.

`Certificate.of` shows that the converted model draws different samples, changes no variable of the
model, and gives the plain output when all dropout rates are 0. It raises an error where a check
fails.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from hpsearch.errors import ModelError
from hpsearch.mc_dropout.mc_layers import McAlphaDropout, Site
from hpsearch.mc_dropout.passes import Sampler
from hpsearch.models.dropout_masks import row_keys


@dataclass(frozen=True)
class Certificate:
    """Results of the self-test of a conversion.

    Attributes:
        n_active: Number of calls of active dropout layers.
        left_off: Names of the layers that contain dropout which stays off.
        samples_vary: Whether passes of different seeds differ.
        variables_unchanged: Whether all variables except the states of seed generators are
            bit-identical before and after the passes.
        plain_gap: Largest difference between the plain output and a pass with all rates at 0.
        alpha_errors: Deviation of mean and variance after AlphaDropout of a standard normal, in
            standard errors; 0 without AlphaDropout.
    """

    n_active: int
    left_off: tuple[str, ...]
    samples_vary: bool
    variables_unchanged: bool
    plain_gap: float
    alpha_errors: float

    @classmethod
    def of(cls, sampler: Sampler, images: np.ndarray) -> Certificate:
        """Test the conversion of a sampler's model on a few images.

        Args:
            sampler: The sampler of the model.
            images: Model input, (N, ...); the test uses the first 64.

        Raises:
            ModelError: A check failed, so numbers from this conversion must not be used.
        """
        model = sampler.model
        converted = sampler.split
        probes = images[:64]
        before = fingerprint(model)
        first = sampler.predict(probes, n_samples=1, seed=1)
        second = sampler.predict(probes, n_samples=1, seed=2)
        change = np.abs(first.probs - second.probs)
        zeros = [0.0] * len(converted.rates)
        at_zero = sampler.predict(probes, n_samples=1, rates=zeros)
        inputs = ops.convert_to_tensor(probes)
        plain = model(inputs, training=False)
        if sampler.settings.from_logits:
            plain = ops.softmax(plain)
        expected = ops.convert_to_numpy(plain)
        gap = np.abs(expected - at_zero.probs)
        after = fingerprint(model)
        alpha_errors = [_alpha_errors(site) for site in converted.sites]
        certificate = cls(
            n_active=len(converted.sites),
            left_off=converted.left_off,
            samples_vary=bool(change.max() > 1e-6),
            variables_unchanged=after == before,
            plain_gap=float(gap.max()),
            alpha_errors=max(alpha_errors),
        )
        failures = certificate.failures
        if failures:
            raise ModelError(
                f"Expected {model.name!r} to pass the self-test of MC Dropout, received: "
                f"{'; '.join(failures)}."
            )
        return certificate

    def sentence(self) -> str:
        """Return the results of a passed self-test as text for people."""
        layers = "layers"
        if self.n_active == 1:
            layers = "layer"
        text = (
            f"Certificate: {self.n_active} dropout {layers} active, "
            "samples vary, all variables but seeds bit-identical "
            f"before and after, {self.plain_gap:.1g} off the plain output with all rates at 0."
        )
        if self.left_off:
            names = ", ".join(self.left_off)
            text += f" Dropout inside of {names} stays off."
        return text

    @property
    def failures(self) -> list[str]:
        """The checks that failed, each in a few words."""
        failures = []
        if not self.samples_vary:
            failures.append("the samples do not vary")
        if not self.variables_unchanged:
            failures.append("variables changed")
        # Rounding in float32, through a deep net that is compiled in another way.
        if not self.plain_gap <= 1e-4:
            failures.append(
                f"with all rates at 0 the output is {self.plain_gap:.2g} off the plain one"
            )
        # False alarms are rarer than one in 10**8.
        if not self.alpha_errors <= 6:
            failures.append(
                f"AlphaDropout moves mean or variance by {self.alpha_errors:.1f} standard errors"
            )
        return failures


def fingerprint(model: keras.Model) -> str:
    """Return a hash of the bytes of all variables except the states of seed generators."""
    digest = hashlib.sha256()
    for variable in model.variables:
        if "seed_generator" not in variable.path:
            values = np.asarray(variable)
            digest.update(values.tobytes())
    return digest.hexdigest()


def _alpha_errors(site: Site) -> float:
    """Return how far AlphaDropout moves mean 0 and variance 1, in standard errors.

    The value is 0 for other layers.
    """
    layer = site.mc_layer()
    if not isinstance(layer, McAlphaDropout):
        return 0.0
    rng = np.random.default_rng(0)
    n_rows = 1000
    normal = rng.standard_normal((n_rows, 200))
    centred = normal - normal.mean()
    normal = centred / normal.std()
    inputs = ops.convert_to_tensor(normal, "float32")
    rows = ops.arange(n_rows, dtype="int32")
    keys = row_keys([1, 2], 0, rows)
    shape = (site.position + 1,)
    rates = ops.full(shape, site.rate, dtype="float32")
    outputs = layer(inputs, keys, rates)
    noisy = np.float64(ops.convert_to_numpy(outputs))
    square = np.square(noisy)
    root_n = noisy.size**0.5
    error_of_mean = noisy.std() / root_n
    error_of_variance = square.std() / root_n
    of_mean = abs(noisy.mean()) / error_of_mean
    of_variance = abs(square.mean() - 1.0) / error_of_variance
    return float(max(of_mean, of_variance))
