"""Predict with the Laplace approximation of a trained model's last layer.

The posterior of the weights of the last layer is a Gaussian around the trained weights. Its
precision is the generalized Gauss-Newton matrix of the training examples plus that of a Gaussian
prior around 0. The precision of the prior maximizes the marginal likelihood. The logits of an
example are then Gaussian, too, and their softmax is averaged over draws.

References: Kristiadi, Hein and Hennig, "Being Bayesian, Even Just a Bit, Fixes Overconfidence in
ReLU Networks", 2020; Daxberger et al., "Laplace Redux", 2021.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import keras
import numpy as np
from scipy.optimize import minimize_scalar

from hpsearch.alternatives.last_layer import LastLayer
from hpsearch.data.forms import Images
from hpsearch.data.split import Examples
from hpsearch.errors import ModelError
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.metrics import Floats
from hpsearch.seeds import derive

# Up to so many weights the matrix of all of them is used, and Kronecker factors beyond.
LARGEST_FULL = 2000
_LARGEST_FACTOR = 6000  # rows of a Kronecker factor, whose eigenvectors take minutes
PRECISIONS = (1e-6, 1e8)  # the range in which the precision of the prior is searched


class Curvature(Protocol):
    """The generalized Gauss-Newton matrix of the last layer's weights."""

    @property
    def name(self) -> str:
        """What it is, in words."""

    @property
    def eigenvalues(self) -> Floats:
        """All of its eigenvalues, (P,)."""

    def posterior(self, precision: float) -> Callable[[Floats], Floats]:
        """Return a function from features (B, D) to the covariances of their logits, (B, C, C).

        Args:
            precision: That of the prior.
        """


class Laplace:
    """A model whose last layer is a Gaussian.

    Args:
        model: A trained model; no variable of it changes.
        settings: `n_samples` is the number of draws of an example's logits.
        train: The examples on which the model was trained.

    Raises:
        ModelError: The last layer is not linear, or too large.
    """

    needs = "the training examples"
    is_random = True

    def __init__(self, model: keras.Model, settings: McDropout, train: Examples) -> None:
        begin = time.perf_counter()
        self.settings = settings
        self.layer = LastLayer(model, settings, train.inputs)
        self.curvature = curvature_of(self.layer, train.inputs)
        self.precision = prior_precision(self.curvature.eigenvalues, self.layer.parameters)
        self.covariances = self.curvature.posterior(self.precision)
        self.made_in_s = time.perf_counter() - begin
        self.how = (
            f"The {len(self.layer.parameters):,} weights of the last layer are Gaussian, "
            f"with {self.curvature.name} of {len(train):,} training examples and a prior of "
            f"precision {self.precision:.3g}, which maximizes the marginal likelihood; "
            f"{settings.n_samples} draws of each example's logits."
        )
        if not _is_inside(self.precision):
            self.how += (
                " This precision is an end of the range that is searched, so the training examples "
                "do not determine it."
            )

    def predict(self, inputs: Images, *, seed: int | None = None) -> Floats:
        """Return the distributions of inputs (N, ...), (N, C).

        Args:
            inputs: Model input.
            seed: Root of the draws; None takes that of the settings.

        Raises:
            ModelError: The outputs are not finite.
        """
        if seed is None:
            seed = self.settings.seed
        rng = np.random.default_rng(derive(seed, "laplace"))
        n_columns = self.layer.kernel.shape[1]
        # At once there are four arrays of the draws' size and four of the covariances' size.
        bytes_per_row = 8 * 4 * (self.settings.n_samples * n_columns + n_columns**2)
        n_rows = max(1, int(self.settings.memory_mb * 1e6 / bytes_per_row))
        found = []
        for features in self.layer.features(inputs):
            for start in range(0, len(features), n_rows):
                found.append(self._predict(features[start : start + n_rows], rng))
        return np.concatenate(found)

    def _predict(self, features: Floats, rng: np.random.Generator) -> Floats:
        logits = self.layer.logits(features)
        roots = _roots(self.covariances(features))
        shape = (len(features), self.settings.n_samples, logits.shape[1])
        noise = rng.standard_normal(shape)
        drawn = logits[:, None, :] + noise @ roots.transpose(0, 2, 1)
        return np.asarray(probabilities(drawn).mean(axis=1))


def curvature_of(layer: LastLayer, inputs: Images) -> Curvature:
    """Return the generalized Gauss-Newton matrix of the cross-entropy of inputs (N, ...).

    Raises:
        ModelError: The layer has too many inputs or outputs.
    """
    n_features, n_columns = layer.kernel.shape
    if max(n_features, n_columns) > _LARGEST_FACTOR:
        raise ModelError(
            f"Laplace takes a last layer of at most {_LARGEST_FACTOR:,} inputs and as many "
            f"outputs, received one of {n_features:,} inputs and {n_columns:,} outputs: give "
            "uncertainty.methods without laplace."
        )
    if len(layer.parameters) <= LARGEST_FULL:
        return Full.of(layer, inputs)
    return Kronecker.of(layer, inputs)


@dataclass(frozen=True)
class Full:
    """The matrix of all weights.

    Attributes:
        eigenvalues: Its eigenvalues, (P,).
        eigenvectors: Its eigenvectors, (C, D, P), where D counts the bias as a feature that is 1.
        has_bias: Whether the layer has biases.
    """

    name = "the full Gauss-Newton matrix"

    eigenvalues: Floats
    eigenvectors: Floats
    has_bias: bool

    @classmethod
    def of(cls, layer: LastLayer, inputs: Images) -> Full:
        """Return the matrix of model inputs (N, ...)."""
        has_bias = layer.bias is not None
        n_features, n_columns = layer.kernel.shape
        size = n_features + has_bias
        total = np.zeros((n_columns, n_columns, size, size))
        for features in layer.features(inputs):
            probs = _by_column(layer.logits(features))
            extended = _extended(features, has_bias)
            for i in range(n_columns):
                for j in range(i + 1):
                    # The second derivative of the cross-entropy by the logits i and j.
                    weights = probs[:, i] * ((i == j) - probs[:, j])
                    block = extended.T @ (extended * weights[:, None])
                    total[i, j] += block
                    if i != j:
                        total[j, i] += block
        matrix = total.transpose(0, 2, 1, 3).reshape(n_columns * size, n_columns * size)
        values, vectors = np.linalg.eigh(matrix)
        return cls(np.maximum(values, 0.0), vectors.reshape(n_columns, size, -1), has_bias)

    def posterior(self, precision: float) -> Callable[[Floats], Floats]:
        """Return a function from features to covariances of logits; see `Curvature`."""
        n_columns, size, _ = self.eigenvectors.shape
        flat = self.eigenvectors.reshape(n_columns * size, -1)
        covariance = (flat / (self.eigenvalues + precision)) @ flat.T
        blocks = covariance.reshape(n_columns, size, n_columns, size)

        def covariances(features: Floats) -> Floats:
            extended = _extended(features, self.has_bias)
            found = np.empty((len(extended), n_columns, n_columns))
            for i in range(n_columns):
                for j in range(i + 1):
                    values = ((extended @ blocks[i, :, j]) * extended).sum(axis=1)
                    found[:, i, j] = values
                    found[:, j, i] = values
            return found

        return covariances


@dataclass(frozen=True)
class Kronecker:
    """The matrix as a Kronecker product of a matrix of logits and one of features.

    Weights and biases are independent of each other.

    Attributes:
        of_logits: Eigenvalues of the sum of the curvatures by logits, (C,).
        logit_vectors: Its eigenvectors, (C, C).
        of_features: Eigenvalues of the mean of the features' outer products, (D,).
        feature_vectors: Its eigenvectors, (D, D).
        has_bias: Whether the layer has biases.
    """

    name = "Kronecker factors of the Gauss-Newton matrix"

    of_logits: Floats
    logit_vectors: Floats
    of_features: Floats
    feature_vectors: Floats
    has_bias: bool

    @classmethod
    def of(cls, layer: LastLayer, inputs: Images) -> Kronecker:
        """Return the factors of model inputs (N, ...)."""
        n_features, n_columns = layer.kernel.shape
        by_features = np.zeros((n_features, n_features))
        by_logits = np.zeros((n_columns, n_columns))
        for features in layer.features(inputs):
            by_features += features.T @ features
            probs = _by_column(layer.logits(features))
            by_logits += np.diag(probs.sum(axis=0)) - probs.T @ probs
        of_logits, logit_vectors = np.linalg.eigh(by_logits)
        of_features, feature_vectors = np.linalg.eigh(by_features / len(inputs))
        return cls(
            np.maximum(of_logits, 0.0),
            logit_vectors,
            np.maximum(of_features, 0.0),
            feature_vectors,
            layer.bias is not None,
        )

    @property
    def eigenvalues(self) -> Floats:
        """All eigenvalues, (P,)."""
        of_weights = np.outer(self.of_logits, self.of_features).ravel()
        if not self.has_bias:
            return of_weights
        return np.concatenate([of_weights, self.of_logits])

    def posterior(self, precision: float) -> Callable[[Floats], Floats]:
        """Return a function from features to covariances of logits; see `Curvature`."""
        inverse = 1 / (np.outer(self.of_features, self.of_logits) + precision)
        of_bias = np.zeros(len(self.of_logits))
        if self.has_bias:
            of_bias = 1 / (self.of_logits + precision)
        vectors = self.logit_vectors

        def covariances(features: Floats) -> Floats:
            along = (features @ self.feature_vectors) ** 2
            variances = along @ inverse + of_bias
            return np.asarray((vectors * variances[:, None, :]) @ vectors.T)

        return covariances


def prior_precision(eigenvalues: Floats, parameters: Floats) -> float:
    """Return the precision of the prior that maximizes the marginal likelihood of the data.

    Args:
        eigenvalues: Those of the generalized Gauss-Newton matrix, (P,).
        parameters: The trained weights, (P,).
    """
    square = float(parameters @ parameters)

    def cost(log_precision: float) -> float:
        """Return minus twice the part of the log marginal likelihood that the precision changes."""
        precision = math.exp(log_precision)
        return precision * square + float(np.log1p(eigenvalues / precision).sum())

    low, high = np.log(PRECISIONS)
    tried = np.linspace(low, high, 65)
    best = int(np.argmin([cost(value) for value in tried]))
    bounds = (tried[max(best - 1, 0)], tried[min(best + 1, len(tried) - 1)])
    found = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(math.exp(found.x))


def probabilities(logits: Floats) -> Floats:
    """Return the distributions of logits (..., C), or (..., 1) for two classes, (..., C)."""
    if logits.shape[-1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=-1)
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def _by_column(logits: Floats) -> Floats:
    """Return the probability of the class of each column of logits (B, C) or (B, 1), likewise."""
    return probabilities(logits)[:, -logits.shape[1] :]


def _roots(covariances: Floats) -> Floats:
    """Return matrices L of which L L^T are covariances (B, C, C), (B, C, C).

    A covariance may be singular, such as that of an example whose features are all 0 in a layer
    without biases. So its diagonal gets what is lost in rounding anyway.
    """
    n_columns = covariances.shape[-1]
    traces = np.trace(covariances, axis1=1, axis2=2)
    least = 1e-13 * traces + np.finfo(np.float64).tiny
    return np.linalg.cholesky(covariances + least[:, None, None] * np.eye(n_columns))


def _extended(features: Floats, has_bias: bool) -> Floats:
    """Return features (B, D), with a feature that is 1 for the bias."""
    if not has_bias:
        return features
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)


def _is_inside(precision: float) -> bool:
    low, high = PRECISIONS
    return low * 1.01 < precision < high / 1.01
