"""Estimates densities over a search space by Parzen windows: which configurations resemble a given set.

Notation as in :mod:`hpo_core.space.cube`: ``X`` has shape ``(n, d)``, NaN where inactive. The density is a mixture with
one component per observation, plus the uniform prior as one more,

    p(x) = sum_i w_i prod_j k_j(x_j, x_ij),

with the product over the coordinates that ``x`` uses. A component that does not use a coordinate has the uniform
density there. So every branch of a tree-structured space contributes what it shares with the others, and the mixture
remains a density on each branch. Numeric kernels are normal, truncated to the range (Bergstra et al. 2011, "Algorithms
for hyper-parameter optimization", section 4); categorical kernels are Aitchison and Aitken's (1976,
doi:10.1093/biomet/63.3.413). The kernels of a component are multiplied, so values that belong together are drawn
together (Falkner et al. 2018, arXiv:1807.01774, section 4.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy

from hpo_core.base.arrays import Array
from hpo_core.space.cube import Cube


@dataclass(frozen=True)
class Parzen:
    """A mixture density with one component per observation, plus the uniform prior.

    Args:
        cube: The space.
        X: The observations, shape ``(n, d)``, n >= 0.
        weights: One per observation, shape ``(n,)``, > 0; the prior's component has weight 1.
        narrowest: The least bandwidth of a numeric kernel. Without it, observations clustered at an optimum would form
            a spike, and every draw would repeat the same configuration.
        spread: How readily a draw leaves its component's category, see :attr:`leaving`.
    """

    cube: Cube
    X: Array
    weights: Array
    narrowest: float
    spread: float

    @cached_property
    def _numeric(self) -> Any:
        return self.cube.categories == 0

    @cached_property
    def bandwidths(self) -> Array:
        """The standard deviations of the numeric kernels, shape ``(d,)``.

        Scott's rule (1992, "Multivariate density estimation", eq. 6.42) over the active observations, between
        ``narrowest`` (half a cell, if that is more) and the width of the range.
        """
        on = ~np.isnan(self.X)
        n = np.maximum(on.sum(axis=0), 1)
        filled = np.where(on, self.X, 0.0)
        # The prior counts as one more observation (mean 1/2, variance 1/12), so a single observation has a spread, too.
        mean = (filled.sum(axis=0) + 0.5) / (n + 1)
        square = ((np.where(on, filled - mean, 0.0) ** 2).sum(axis=0) + (0.5 - mean) ** 2 + 1 / 12) / (n + 1)
        width = np.sqrt(square) * n ** (-1.0 / (4.0 + on.sum(axis=1).mean() if len(self.X) else 5.0))
        least = np.maximum(self.narrowest, 0.5 / self.cube.levels)
        bandwidths: Array = np.clip(width, np.minimum(least, 1.0), 1.0)
        return bandwidths

    @cached_property
    def leaving(self) -> Array:
        """The probability that a draw leaves its component's category, shape ``(d,)``.

        It is ``spread / (n + 1)`` for ``n`` active observations, as in the rule of succession: the more observations,
        the more their category is trusted. A constant probability would blur the many ordinary trials as much as the
        few good ones, and draws would too often leave a branch of a tree and what was learned there.
        """
        leaving: Array = np.minimum(self.spread / (1.0 + (~np.isnan(self.X)).sum(axis=0)), 0.5)
        return leaving

    @cached_property
    def _mixture(self) -> Array:
        weights = np.append(self.weights, 1.0)
        mixture: Array = np.log(weights / weights.sum())
        return mixture

    def log_density(self, X: Array) -> Array:
        """Log density at each row, shape ``(q,)``; a category contributes its probability times the number of options.

        Matrix products compare all components with all rows: ``n q d`` multiplications, ``n q`` exponentials.
        """
        logs = np.tile(self._mixture, (len(X), 1))
        logs[:, :-1] += self._numeric_terms(X)
        logs[:, :-1] += self._category_terms(X)
        top = logs.max(axis=1)  # log-sum-exp: without it every exponential could underflow to 0
        logs -= top[:, None]
        density: Array = top + np.log(np.exp(logs, out=logs).sum(axis=1))
        return density

    def _numeric_terms(self, X: Array) -> Array:
        columns = np.flatnonzero(self._numeric)
        A, B, h = X[:, columns], self.X[:, columns], self.bandwidths[columns]
        on_a, on_b = (~np.isnan(A)).astype(float), (~np.isnan(B)).astype(float)
        A, B = np.nan_to_num(A) / h, np.nan_to_num(B) / h
        # The share of each normal inside [0, 1]; the truncated density is divided by it.
        inside = np.log(h * math.sqrt(2.0 * math.pi)) + np.log(scipy.special.ndtr(1.0 / h - B) - scipy.special.ndtr(-B))
        squares = (A * A) @ on_b.T - 2.0 * (A @ B.T) + on_a @ (B * B).T
        terms: Array = -0.5 * squares - on_a @ (inside * on_b).T
        return terms

    def _category_terms(self, X: Array) -> Array:
        left: list[Array] = []
        right: list[Any] = []
        for j in np.flatnonzero(~self._numeric):
            options = int(self.cube.categories[j])
            leaving = float(self.leaving[j]) if options > 1 else 0.0
            # Relative to the uniform probability 1 / options, as for the numeric densities.
            same = math.log((1.0 - leaving) * options)
            other = math.log(max(leaving * options / max(options - 1, 1), 1e-12))
            with np.errstate(invalid="ignore"):
                a, b = (np.floor(x[:, j, None] * options) == np.arange(options) for x in (X, self.X))
            # Both active: `other`, plus the difference to `same` where the categories are equal.
            left += [a * (same - other), a.any(axis=1)[:, None] * other]
            right += [b, b.any(axis=1)[:, None]]
        if not left:
            return np.zeros((len(X), len(self.X)))
        terms: Array = np.hstack(left) @ np.hstack(right).T.astype(float)
        return terms

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Snapped draws, shape ``(count, d)``; the prior's component is used only if there are no observations."""
        d = self.X.shape[1]
        if not len(self.X):
            return self.cube.snap(rng.random((count, d)))
        chosen = rng.choice(len(self.X), count, p=self.weights / self.weights.sum())
        centres, uniform = self.X[chosen], rng.random((count, d))
        h = self.bandwidths
        with np.errstate(invalid="ignore"):
            low, high = scipy.special.ndtr(-centres / h), scipy.special.ndtr((1.0 - centres) / h)
            drawn = np.clip(centres + h * scipy.special.ndtri(low + uniform * (high - low)), 0.0, 1.0)
        leave = rng.random((count, d)) < self.leaving
        for j in np.flatnonzero(~self._numeric):
            options = int(self.cube.categories[j])
            # Move to one of the other options, each with the same probability.
            shift = 1 + np.floor(uniform[:, j] * (options - 1)) if options > 1 else np.zeros(count)
            with np.errstate(invalid="ignore"):
                index = np.floor(centres[:, j] * options)
            drawn[:, j] = ((index + np.where(leave[:, j], shift, 0.0)) % options + 0.5) / options
        return self.cube.snap(np.where(np.isnan(centres), uniform, drawn))
