"""Fits a Gaussian process to losses over the features of configurations, by maximum a posteriori.

Notation: ``X`` are features, shape ``(n, m)``, of ``D`` parameters (``owner`` maps features to parameters); ``y`` are
losses, shape ``(n,)``, transformed and standardised, lower is better. The kernel is Matern-5/2 with one length scale
per parameter (Rasmussen and Williams 2006, eq. 4.17 and 5.1), plus a trend (their eq. 2.40, weights integrated out),

    k(x, x') = s2 (1 + sqrt(5) r + 5/3 r^2) exp(-sqrt(5) r) + t2 f(x)' f(x'),    r^2 = sum_j |x_j - x'_j|^2 / l_j^2,

plus noise ``v / c`` on the diagonal, where a loss is the mean of ``c`` losses of one configuration. The trend ``f``
has a slope and a curvature for each numeric parameter and a level for each category. It learns the average effect of a
parameter from all trials, including distant ones, where the first term has no information yet. The prior over length
scales is log-normal with a location that grows with ``log(D)/2`` (Hvarfner et al. 2024, arXiv:2402.02229, eq. 4):
distances grow with the square root of the dimension, and under a prior that ignores this, all points of a large space
look unrelated. In a space with conditions, ``active`` replaces ``D``: the number of parameters that a configuration
uses on average.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy

from hpo_core.base.arrays import Array
from hpo_core.base.threads import one_thread

LENGTH_LOCATION, LENGTH_SCALE = math.sqrt(2.0), math.sqrt(3.0)

NOISE_LOCATION, NOISE_SCALE = -5.0, 2.0

SIGNAL_SCALE = 1.0

TREND_LOCATION, TREND_SCALE = math.log(0.3), 1.5
"""For all active parameters together; the variance of a single effect is its share of that."""

JITTER = 1e-8
"""Added to the diagonal: otherwise two equal rows give a covariance without a Cholesky factor."""

_SQRT5 = math.sqrt(5.0)


@dataclass(frozen=True)
class Spread:
    """What repeats of configurations tell of the noise; by default that there are none.

    Args:
        counts: How many losses each of the modelled ones is the mean of, shape ``(n,)`` or one number for all; less
            than 1 for one that rests on part of a training's folds.
        squares: The sum of the squared deviations of the single losses from these means, transformed like them.
        degrees: The degrees of freedom of ``squares``, the number of losses less that of means.
    """

    counts: Any = 1.0
    squares: float = 0.0
    degrees: int = 0

    @property
    def variance(self) -> float:
        """The variance of the noise that repeats show; 0 if there are none."""
        return self.squares / self.degrees if self.degrees else 0.0

    def at(self, rows: Any) -> Spread:
        """The same for some of the losses."""
        return replace(self, counts=self.counts[rows])


@dataclass(frozen=True)
class Hyperparameters:
    """The length scales of the ``D`` parameters, and the variances of the signal, the noise and each trend effect."""

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
        """The mode of the prior."""
        length = math.exp(LENGTH_LOCATION + math.log(active) / 2 - LENGTH_SCALE**2)
        trend = math.exp(TREND_LOCATION) / active
        return Hyperparameters(np.full(dimensions, length), 1.0, math.exp(NOISE_LOCATION), trend)


def squared_distances(A: Array, B: Array) -> Array:
    """``|a - b|^2`` between the rows, shape ``(len(A), len(B))``; clamped, since rounding can leave it below 0."""
    r2: Array = (A * A).sum(axis=1)[:, None] + (B * B).sum(axis=1) - 2.0 * (A @ B.T)
    return np.maximum(r2, 0.0, out=r2)


def matern52(r2: Array) -> Array:
    """The kernel at squared scaled distances, for a signal variance of 1.

    >>> matern52(np.array([0.0, 1.0])).round(4)
    array([1.   , 0.524])
    """
    r = _SQRT5 * np.sqrt(r2)
    value: Array = (1.0 + r + 5.0 / 3.0 * r2) * np.exp(-r)
    return value


def effects(X: Array, owner: Any) -> Array:
    """The trend's ``f`` of each row: numeric features in [-1, 1], one-hot features unchanged, numeric features squared.

    Inactive parameters are at the centre, where their slope and curvature terms are 0.

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
    # Near-singular matrices may need more than the usual jitter: it grows until a factor exists.
    jitter = JITTER
    while True:
        L, info = scipy.linalg.lapack.dpotrf(K + jitter * np.eye(len(K)), lower=1, clean=1)
        if info == 0:
            factor: Array = L
            return factor
        jitter *= 10.0


def negative_log_posterior(
    theta: Array, X: Array, owner: Any, y: Array, active: float, spread: Spread = Spread()
) -> tuple[float, Array]:
    """The objective of the fit, up to a constant, and its gradient with respect to ``theta``.

    Rasmussen and Williams (2006), eq. 5.8 and 5.9, minus the log prior density of the length scales (log-normal over
    ``l``, hence the extra ``log l``), the signal, the noise and the trend. The single losses of a configuration are
    normal around their mean, which makes their squared deviations ``v`` times a chi-squared variable.
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
    L = _cholesky(K + T + np.diag(np.full(n, h.noise) / spread.counts))
    inverse, _ = scipy.linalg.lapack.dpotri(L, lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    weights = inverse @ y
    value = 0.5 * float(y @ weights) + float(np.log(np.diag(L)).sum())
    value += 0.5 * (spread.degrees * math.log(h.noise) + spread.squares / h.noise)

    G = 0.5 * (inverse - np.outer(weights, weights))
    # d k / d log l_j = 5/3 s2 (1 + sqrt(5) r) exp(-sqrt(5) r) d_j^2 / l_j^2, summed over pairs without forming the
    # n x n x m differences: sum_ab W_ab (x_a - x_b)^2 = 2 (sum_a x_a^2 sum_b W_ab - x' W x).
    W = G * (5.0 / 3.0 * h.signal) * (1.0 + r) * decay
    by_feature = 2.0 * ((scaled * scaled * W.sum(axis=1)[:, None]).sum(axis=0) - (scaled * (W @ scaled)).sum(axis=0))
    noise = h.noise * float((np.diag(G) / spread.counts).sum()) + 0.5 * (spread.degrees - spread.squares / h.noise)
    variances = [float((G * K).sum()), noise, float((G * T).sum())]
    gradient = np.concatenate([np.bincount(owner, by_feature, D), variances])

    logs, location = theta[:D], LENGTH_LOCATION + math.log(active) / 2
    value += float((logs + (logs - location) ** 2 / (2 * LENGTH_SCALE**2)).sum())
    gradient[:D] += 1.0 + (logs - location) / LENGTH_SCALE**2
    trend = TREND_LOCATION - math.log(active), TREND_SCALE
    for i, (centre, scale) in enumerate(((0.0, SIGNAL_SCALE), (NOISE_LOCATION, NOISE_SCALE), trend), D):
        value += float((theta[i] - centre) ** 2) / (2 * scale**2)
        gradient[i] += (theta[i] - centre) / scale**2
    return value, gradient


@one_thread()
def fit(
    X: Array, owner: Any, y: Array, *, active: float | None = None, spread: Spread = Spread(), steps: int = 50
) -> Hyperparameters:
    """The hyperparameters of highest posterior density found by L-BFGS, with analytic gradients, from two starts.

    The first start is the prior's mode; from there alone, L-BFGS often ends with long length scales and noise that
    explains the rest. The second start therefore has length scales a quarter as long.

    Args:
        X: Features, shape ``(n, m)``.
        owner: The parameter each feature belongs to, shape ``(m,)``.
        y: Standardised losses, shape ``(n,)``.
        active: How many parameters a configuration uses on average; None for all of them.
        spread: What is known of the noise.
        steps: The maximum number of iterations per start.
    """
    D = int(owner.max()) + 1
    active = float(D) if active is None else max(active, 1.0)
    mode = Hyperparameters.prior_mode(D, active)
    # Bounds on the logarithms keep the covariance well conditioned while the prior does the regularising.
    bounds = [(math.log(5e-3), math.log(1e3))] * D
    bounds += [(math.log(low), math.log(high)) for low, high in ((1e-2, 1e2), (1e-7, 2.0), (1e-6, 1e2))]
    found = [
        scipy.optimize.minimize(
            negative_log_posterior,
            replace(mode, lengths=mode.lengths * shrink).theta,
            args=(X, owner, y, active, spread),
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
    """Inverse of the lower Cholesky factor of the covariance, so that prediction needs matrix products only."""
    weights: Array
    noise: Array
    """The variance of the noise in each loss, shape ``(n,)``."""

    @staticmethod
    @one_thread()
    def condition(
        X: Array, owner: Any, y: Array, hyperparameters: Hyperparameters, counts: Any = 1.0
    ) -> GaussianProcess:
        """The process given the losses ``y`` at ``X``, each the mean of several losses of one configuration."""
        noise = np.full(len(y), hyperparameters.noise) / counts
        L = _cholesky(covariance(hyperparameters, owner, X, X) + np.diag(noise))
        inverse_factor, _ = scipy.linalg.lapack.dtrtri(L, lower=1)
        weights = inverse_factor.T @ (inverse_factor @ y)
        return GaussianProcess(X, owner, y, hyperparameters, inverse_factor, weights, noise)

    @property
    def skill(self) -> float:
        """The share of the variance of the losses that the process explains of each from the others; 1 at most.

        That is R-squared by leaving one out, in closed form (Rasmussen and Williams 2006, eq. 5.12), with the
        hyperparameters as they are. Below 0 the mean of all losses would predict better.
        """
        errors = self.weights / (self.inverse_factor**2).sum(axis=0)
        deviations = self.y - self.y.mean()
        return 1.0 - float(errors @ errors) / max(float(deviations @ deviations), 1e-12)

    @one_thread()
    def predict(self, X: Array) -> tuple[Array, Array]:
        """Posterior mean and standard deviation of the noise-free loss, each of shape ``(q,)``; the latter is above 0.

        Rasmussen and Williams (2006), eq. 2.25 and 2.26.
        """
        K = covariance(self.hyperparameters, self.owner, self.X, X)
        V = self.inverse_factor @ K
        f = effects(X, self.owner)
        prior = self.hyperparameters.signal + self.hyperparameters.trend * (f * f).sum(axis=1)
        variance = prior - (V * V).sum(axis=0)
        # Rounding may leave the variance just below 0 at an observed point.
        return self.weights @ K, np.sqrt(np.maximum(variance, 1e-12))

    @one_thread()
    def sample(self, X: Array, rng: np.random.Generator) -> Array:
        """One joint draw of the noise-free losses at ``X``, shape ``(q,)``."""
        K = covariance(self.hyperparameters, self.owner, self.X, X)
        V = self.inverse_factor @ K
        prior = covariance(self.hyperparameters, self.owner, X, X)
        L = _cholesky(prior - V.T @ V + 1e-6 * self.hyperparameters.signal * np.eye(len(X)))
        return self.weights @ K + L @ rng.standard_normal(len(X))

    @one_thread()
    def believing(self, X: Array) -> GaussianProcess:
        """The process if the losses at ``X`` came out as predicted (the kriging believer).

        Ginsbourger et al. (2010), doi:10.1007/978-3-642-10701-6_6. The mean does not change; the standard deviation
        shrinks near ``X``, so configurations that are already running are not proposed again.
        """
        if not len(X):
            return self
        mean, _ = self.predict(X)
        return GaussianProcess.condition(
            np.vstack([self.X, X]),
            self.owner,
            np.concatenate([self.y, mean]),
            self.hyperparameters,
            self.hyperparameters.noise / np.concatenate([self.noise, np.full(len(X), self.hyperparameters.noise)]),
        )


def fit_known(F: Array, owner: Any, y: Array, known: Any, rows: Any, active: float) -> GaussianProcess:
    """The process of a value that only some trials have.

    Args:
        F: The features of all trials, shape ``(n, m)``.
        owner: The parameter each feature belongs to, shape ``(m,)``.
        y: The standardised values of those that have one, shape ``(k,)``.
        known: Their positions among the trials, ascending, shape ``(k,)``.
        rows: Positions of the trials that hyperparameters are fitted to; each step costs the cube of their number.
        active: How many parameters a configuration uses on average.
    """
    some = np.searchsorted(known, np.intersect1d(rows, known))
    hyperparameters = fit(F[known][some], owner, y[some], active=active)
    return GaussianProcess.condition(F[known], owner, y, hyperparameters)
