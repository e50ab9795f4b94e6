"""The proof, run on every model, that its MC Dropout conversion does what it says and nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from hpsearch.errors import ModelError
from hpsearch.mc_dropout.mc_layers import AlwaysOnAlphaDropout, Site, always_on
from hpsearch.mc_dropout.passes import Sampler
from hpsearch.models.dropout_masks import row_keys

N_PROBES = 64
ROUNDING = 1e-6
PLAIN_TOLERANCE = 1e-4  # float32 rounding, through a deep net compiled in another way
MOMENT_ROWS, MOMENT_UNITS = 1000, 200
MOMENT_ERRORS = 6.0  # standard errors: false alarms are rarer than one in 10**8


@dataclass(frozen=True)
class Certificate:
    """What the self-test of a conversion found.

    Attributes:
        n_active: Active dropout calls.
        left_off: Dropout inside of other layers, which stays off.
        samples_vary: Whether passes differ.
        variables_unchanged: Whether all variables but seeds are bit-identical after the passes.
        plain_gap: Largest difference between the plain output and a pass with all rates at 0.
        alpha_errors: Of mean and variance after AlphaDropout of a standard normal, in standard
            errors; 0 without.
    """

    n_active: int
    left_off: tuple[str, ...]
    samples_vary: bool
    variables_unchanged: bool
    plain_gap: float
    alpha_errors: float

    def sentence(self) -> str:
        """Return what the self-test has shown, in words."""
        off = f" Dropout inside of {', '.join(self.left_off)} stays off." if self.left_off else ""
        return (
            f"Certificate: {self.n_active} dropout layer{'s' * (self.n_active != 1)} active, "
            "samples vary, all variables but seeds bit-identical "
            f"before and after, {self.plain_gap:.1g} off the plain output with all rates at 0.{off}"
        )

    @property
    def failures(self) -> list[str]:
        """What went wrong, each in a few words."""
        checks = {
            "the samples do not vary": self.samples_vary,
            "variables changed": self.variables_unchanged,
            f"with all rates at 0 the output is {self.plain_gap:.2g} off the plain one": (
                self.plain_gap <= PLAIN_TOLERANCE
            ),
            f"AlphaDropout moves mean or variance by {self.alpha_errors:.1f} standard errors": (
                self.alpha_errors <= MOMENT_ERRORS
            ),
        }
        return [text for text, passed in checks.items() if not passed]


def certify(model: keras.Model, sampler: Sampler, images: NDArray[Any]) -> Certificate:
    """Test a conversion on a few images.

    Args:
        model: The model that was converted.
        sampler: Its sampler.
        images: Model input, (N, ...); the first 64 are used.

    Raises:
        ModelError: A check failed: numbers from this conversion must not be used.
    """
    probes = images[:N_PROBES]
    before = fingerprint(model)
    first, second = (sampler.predict(probes, n_samples=1, seed=seed).probs for seed in (1, 2))
    at_zero = sampler.predict(probes, n_samples=1, rates=[0.0] * len(sampler.split.rates))
    plain = model(ops.convert_to_tensor(probes), training=False)
    if sampler.settings.from_logits:
        plain = ops.softmax(plain)
    certificate = Certificate(
        n_active=len(sampler.split.sites),
        left_off=sampler.split.left_off,
        samples_vary=bool(np.abs(first - second).max() > ROUNDING),
        variables_unchanged=fingerprint(model) == before,
        plain_gap=float(np.abs(ops.convert_to_numpy(plain) - at_zero.probs).max()),
        alpha_errors=max((alpha_errors(site) for site in sampler.split.sites), default=0.0),
    )
    if certificate.failures:
        raise ModelError(
            f"Expected {model.name!r} to pass the self-test of MC Dropout, received: "
            f"{'; '.join(certificate.failures)}."
        )
    return certificate


def fingerprint(model: keras.Model) -> str:
    """Return a hash of the bytes of all variables, the states of seed generators apart."""
    digest = hashlib.sha256()
    for variable in model.variables:
        if "seed_generator" not in variable.path:
            digest.update(np.asarray(variable).tobytes())
    return digest.hexdigest()


def alpha_errors(site: Site) -> float:
    """Return how far AlphaDropout moves mean 0 and variance 1, in standard errors; 0 for other
    layers.
    """
    layer = always_on(site)
    if not isinstance(layer, AlwaysOnAlphaDropout):
        return 0.0
    normal = np.random.default_rng(0).standard_normal((MOMENT_ROWS, MOMENT_UNITS))
    normal = (normal - normal.mean()) / normal.std()
    keys = row_keys(np.asarray([1, 2], np.int32), 0, ops.arange(MOMENT_ROWS, dtype="int32"))
    rates = ops.full((site.position + 1,), site.rate, dtype="float32")
    noisy = np.float64(
        ops.convert_to_numpy(layer(ops.convert_to_tensor(normal, "float32"), keys, rates))
    )
    n, square = noisy.size, np.square(noisy)
    of_mean = abs(noisy.mean()) / (noisy.std() / n**0.5)
    of_variance = abs(square.mean() - 1.0) / (square.std() / n**0.5)
    return float(max(of_mean, of_variance))
