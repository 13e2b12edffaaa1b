"""A Gaussian process over the features of configurations, fitted by maximum a posteriori.

Notation: ``X`` are features, shape ``(n, m)``, of ``D`` parameters (``owner`` says whose each feature is); ``y`` are
losses, shape ``(n,)``, transformed and standardised, lower is better. The kernel is Matern-5/2 with one length scale a
parameter (Rasmussen and Williams 2006, eq. 4.17 and 5.1) and a trend (their eq. 2.40, the weights integrated out),

    k(x, x') = s2 (1 + sqrt(5) r + 5/3 r^2) exp(-sqrt(5) r) + t2 f(x)' f(x'),    r^2 = sum_j |x_j - x'_j|^2 / l_j^2,

plus noise ``v`` on the diagonal. The trend ``f`` holds a slope and a curvature of each numeric parameter and a level of
each category: what a parameter does on average is learned from all trials at once, also from those that are far away
in everything else, where the first term knows nothing yet. The length scales' prior is log-normal with a location that
grows with ``log(D)/2`` (Hvarfner et al. 2024, arXiv:2402.02229, eq. 4): distances grow with the square root of the
dimension, and a prior that does not follow makes every point of a large space look unrelated to every other. In a space
with conditions the dimension that counts is ``active``, the number of parameters that a configuration uses on average.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.linalg import lapack
from scipy.optimize import minimize

from hpo_core.space import Array

LENGTH_LOCATION, LENGTH_SCALE = math.sqrt(2.0), math.sqrt(3.0)
NOISE_LOCATION, NOISE_SCALE = -5.0, 2.0
SIGNAL_SCALE = 1.0
TREND_LOCATION, TREND_SCALE = math.log(0.3), 1.5
"""Of all active parameters together, so the variance of a single effect is a share of it."""

JITTER = 1e-8
"""Added to the diagonal: two equal rows without it leave a covariance that has no Cholesky factor."""

_SQRT5 = math.sqrt(5.0)


@dataclass(frozen=True)
class Hyperparameters:
    """Length scales of the ``D`` parameters, and variances: of the signal, the noise, and each effect of the trend."""

    lengths: Array
    signal: float
    noise: float
    trend: float

    @property
    def theta(self) -> Array:
        """Their logarithms in one vector, shape ``(D + 3,)``."""
        theta: Array = np.log(np.concatenate([self.lengths, [self.signal, self.noise, self.trend]]))
        return theta

    @staticmethod
    def of(theta: Array) -> Hyperparameters:
        """The inverse of :attr:`theta`."""
        values = np.exp(theta)
        return Hyperparameters(values[:-3], *values[-3:].tolist())

    @staticmethod
    def prior_mode(dimensions: int, active: float) -> Hyperparameters:
        """Where the prior's density is highest."""
        length = math.exp(LENGTH_LOCATION + math.log(active) / 2 - LENGTH_SCALE**2)
        trend = math.exp(TREND_LOCATION) / active
        return Hyperparameters(np.full(dimensions, length), 1.0, math.exp(NOISE_LOCATION), trend)


def squared_distances(A: Array, B: Array) -> Array:
    """``|a - b|^2`` between the rows, shape ``(len(A), len(B))``; never negative."""
    r2: Array = (A * A).sum(axis=1)[:, None] + (B * B).sum(axis=1) - 2.0 * (A @ B.T)
    return np.maximum(r2, 0.0, out=r2)


def matern52(r2: Array) -> Array:
    """The kernel at squared scaled distances, for a signal of variance 1.

    >>> matern52(np.array([0.0, 1.0])).round(4)
    array([1.   , 0.524])
    """
    r = _SQRT5 * np.sqrt(r2)
    value: Array = (1.0 + r + 5.0 / 3.0 * r2) * np.exp(-r)
    return value


def effects(X: Array, owner: Any) -> Array:
    """The trend's ``f`` of each row: numeric features between -1 and 1, one-hot ones as they are, numeric ones squared.

    What is inactive stands at the centre, where its slope and curvature are 0.

    >>> effects(np.array([[0.0, 0.5, 0.7, 0.0]]), np.array([0, 1, 2, 2]))
    array([[-1. ,  0. ,  0.7,  0. ,  1. ,  0. ]])
    """
    numeric = np.bincount(owner)[owner] == 1
    U = np.where(numeric, 2.0 * X - 1.0, X)
    return np.hstack([U, U[:, numeric] ** 2])


def covariance(h: Hyperparameters, owner: Any, A: Array, B: Array) -> Array:
    """The covariances of the noise-free losses at the rows, shape ``(len(A), len(B))``."""
    lengths = h.lengths[owner]
    K: Array = h.signal * matern52(squared_distances(A / lengths, B / lengths))
    K += h.trend * (effects(A, owner) @ effects(B, owner).T)
    return K


def _cholesky(K: Array) -> Array:
    jitter = JITTER
    while True:
        L, info = lapack.dpotrf(K + jitter * np.eye(len(K)), lower=1, clean=1)
        if info == 0:
            factor: Array = L
            return factor
        jitter *= 10.0


def negative_log_posterior(theta: Array, X: Array, owner: Any, y: Array, active: float) -> tuple[float, Array]:
    """What the fit minimises, up to a constant, and its gradient by ``theta``.

    Rasmussen and Williams (2006), eq. 5.8 and 5.9, less the logarithm of the prior's density over the length scales
    (log-normal over ``l``, hence the extra ``log l``), the signal, the noise and the trend.
    """
    h = Hyperparameters.of(theta)
    n, D = len(y), len(h.lengths)
    scaled = X / h.lengths[owner]
    r2 = squared_distances(scaled, scaled)
    r = _SQRT5 * np.sqrt(r2)
    decay = np.exp(-r)
    K = h.signal * (1.0 + r + 5.0 / 3.0 * r2) * decay
    f = effects(X, owner)
    T = h.trend * (f @ f.T)
    L = _cholesky(K + T + h.noise * np.eye(n))
    inverse, _ = lapack.dpotri(L, lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    weights = inverse @ y
    value = 0.5 * float(y @ weights) + float(np.log(np.diag(L)).sum())

    G = 0.5 * (inverse - np.outer(weights, weights))
    # d k / d log l_j = 5/3 s2 (1 + sqrt(5) r) exp(-sqrt(5) r) d_j^2 / l_j^2, summed over pairs without forming the
    # n x n x m differences: sum_ab W_ab (x_a - x_b)^2 = 2 (sum_a x_a^2 sum_b W_ab - x' W x).
    W = G * (5.0 / 3.0 * h.signal) * (1.0 + r) * decay
    by_feature = 2.0 * ((scaled * scaled * W.sum(axis=1)[:, None]).sum(axis=0) - (scaled * (W @ scaled)).sum(axis=0))
    variances = [float((G * K).sum()), h.noise * float(np.trace(G)), float((G * T).sum())]
    gradient = np.concatenate([np.bincount(owner, by_feature, D), variances])

    logs, location = theta[:D], LENGTH_LOCATION + math.log(active) / 2
    value += float((logs + (logs - location) ** 2 / (2 * LENGTH_SCALE**2)).sum())
    gradient[:D] += 1.0 + (logs - location) / LENGTH_SCALE**2
    trend = TREND_LOCATION - math.log(active), TREND_SCALE
    for i, (centre, scale) in enumerate(((0.0, SIGNAL_SCALE), (NOISE_LOCATION, NOISE_SCALE), trend), D):
        value += float((theta[i] - centre) ** 2) / (2 * scale**2)
        gradient[i] += (theta[i] - centre) / scale**2
    return value, gradient


def fit(X: Array, owner: Any, y: Array, *, active: float | None = None, steps: int = 50) -> Hyperparameters:
    """The hyperparameters of highest posterior density that L-BFGS finds, with analytic gradients, from two starts.

    The second start has length scales a quarter of the prior's mode. The first alone often ends where all length
    scales are long and the noise explains the rest.

    Args:
        X: Features, shape ``(n, m)``.
        owner: The parameter that each feature belongs to, shape ``(m,)``.
        y: Standardised losses, shape ``(n,)``.
        active: How many parameters a configuration uses on average; all of them where None.
        steps: At most so many iterations a start.
    """
    D = int(owner.max()) + 1
    active = float(D) if active is None else max(active, 1.0)
    mode = Hyperparameters.prior_mode(D, active)
    bounds = [(math.log(5e-3), math.log(1e3))] * D
    bounds += [(math.log(low), math.log(high)) for low, high in ((1e-2, 1e2), (1e-7, 2.0), (1e-6, 1e2))]
    found = [
        minimize(
            negative_log_posterior,
            replace(mode, lengths=mode.lengths * shrink).theta,
            args=(X, owner, y, active),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": steps, "ftol": 1e-5, "gtol": 1e-2},
        )
        for shrink in (1.0, 0.25)
    ]
    return Hyperparameters.of(min(found, key=lambda result: float(result.fun)).x)


@dataclass(frozen=True)
class GaussianProcess:
    """A process conditioned on ``n`` observations; build it with :meth:`condition`."""

    X: Array
    owner: Any
    y: Array
    hyperparameters: Hyperparameters
    inverse_factor: Array
    """Inverse of the lower Cholesky factor of the covariance: prediction is then matrix products alone."""
    weights: Array

    @staticmethod
    def condition(X: Array, owner: Any, y: Array, hyperparameters: Hyperparameters) -> GaussianProcess:
        """The process given the losses ``y`` at ``X``."""
        L = _cholesky(covariance(hyperparameters, owner, X, X) + hyperparameters.noise * np.eye(len(y)))
        inverse_factor, _ = lapack.dtrtri(L, lower=1)
        weights = inverse_factor.T @ (inverse_factor @ y)
        return GaussianProcess(X, owner, y, hyperparameters, inverse_factor, weights)

    def predict(self, X: Array) -> tuple[Array, Array]:
        """Posterior mean and standard deviation of the noise-free loss, each ``(q,)``, the latter above 0.

        Rasmussen and Williams (2006), eq. 2.25 and 2.26.
        """
        K = covariance(self.hyperparameters, self.owner, self.X, X)
        V = self.inverse_factor @ K
        f = effects(X, self.owner)
        prior = self.hyperparameters.signal + self.hyperparameters.trend * (f * f).sum(axis=1)
        variance = prior - (V * V).sum(axis=0)
        # Rounding may leave a variance just below 0 at an observed point.
        return self.weights @ K, np.sqrt(np.maximum(variance, 1e-12))

    def sample(self, X: Array, rng: np.random.Generator) -> Array:
        """One draw of the noise-free losses at ``X`` jointly, shape ``(q,)``."""
        K = covariance(self.hyperparameters, self.owner, self.X, X)
        V = self.inverse_factor @ K
        prior = covariance(self.hyperparameters, self.owner, X, X)
        L = _cholesky(prior - V.T @ V + 1e-6 * self.hyperparameters.signal * np.eye(len(X)))
        return self.weights @ K + L @ rng.standard_normal(len(X))

    def believing(self, X: Array) -> GaussianProcess:
        """The process once the losses at ``X`` have come out as expected (the kriging believer).

        Ginsbourger et al. (2010), doi:10.1007/978-3-642-10701-6_6. The mean stays as it is; near ``X`` the standard
        deviation shrinks, so that what runs already is not proposed again.
        """
        if not len(X):
            return self
        mean, _ = self.predict(X)
        return GaussianProcess.condition(
            np.vstack([self.X, X]), self.owner, np.concatenate([self.y, mean]), self.hyperparameters
        )
