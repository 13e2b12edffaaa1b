"""Estimates which parameters decide whether a trial is among the best: PED-ANOVA, with its uncertainty.

Watanabe, Bansal and Hutter (2023, arXiv:2304.10255): of the trials of a region, the best are the target. A parameter
matters as much as its values in the target are distributed otherwise than in the region, by Pearson's divergence of
the two densities (their eq. 15). That is the variance that functional ANOVA gives to the parameter alone, of whether a
trial is in the target. Two regions are asked: all trials, and the best tenth of them, which says what is left to tune.

Densities are of kernels on a grid, with a uniform prior of one trial, which keeps their ratio finite. A parameter that
is active only sometimes is compared among the trials that have it, and counts by their share. The trials are drawn
again (bootstrap) for an interval, and a target of random trials, of the same size, shows what chance alone gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hpo_core.base.arrays import Array, evenly
from hpo_core.history.history import History, encoded
from hpo_core.space.cube import Cube
from hpo_core.space.search_space import SearchSpace

TENTH = 0.1

LEAST = 8
"""A target of fewer trials has no density to speak of."""

LEAST_TIMES = 2
"""How many times as large as the target a region is, at least."""

GRID = 64
"""How many cells a numeric parameter's range is divided into."""

NARROWEST = 1 / 32
"""The least bandwidth, as a share of a parameter's range."""

DRAWS = 200

INTERVAL = 5.0, 95.0
"""Percentiles of the interval. Chance gives less than the last one in all but one of twenty cases."""

MOST = 2_000
"""More trials would only take longer; an evenly spaced selection of this many is used."""


@dataclass(frozen=True)
class Deciding:
    """How much each parameter decides whether a trial is in the target, as shares that add up to 1.

    Args:
        names: The parameters, most important first.
        share, low, high: Their shares and the ends of the intervals, shapes ``(d,)``.
        seen: Which of them decide more than chance would have it, shape ``(d,)``.
        region, target: How many trials each of the two has.
    """

    names: tuple[str, ...]
    share: Array
    low: Array
    high: Array
    seen: Array
    region: int
    target: int


@dataclass(frozen=True)
class TooFew:
    """The result where too few trials are complete to say anything.

    Args:
        complete: How many there are.
        needed: How many it takes.
    """

    complete: int
    needed: int


def deciding(space: SearchSpace, history: History, region: float = 1.0) -> Deciding | TooFew:
    """What decides whether a trial of the best ``region`` of all is among the best of these.

    The target of all trials is the best tenth, and that of the best tenth its better half; at least :data:`LEAST`.
    Ties are broken by number, so equally good trials need not be in the target together.
    """
    chosen = evenly(history.merged.complete, MOST)
    X, losses = encoded(space, chosen), np.array([trial.loss for trial in chosen], dtype=float)
    inside = math.ceil(region * len(losses))
    target = max(LEAST, round((TENTH if region == 1 else 0.5) * inside))
    needed = math.ceil(LEAST_TIMES * LEAST / region)
    if len(losses) < needed or inside < LEAST_TIMES * LEAST or not space.dimensions:
        return TooFew(len(history.merged.complete), needed)
    order = np.argsort(losses, kind="stable")[:inside]
    return _deciding(Cube(space), X[order], target)


def _deciding(cube: Cube, X: Array, target: int) -> Deciding:
    """The shares, of a region whose rows ``X``, shape ``(n, d)``, are sorted by loss."""
    n, rng = len(X), np.random.default_rng(0)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(float)
    weights = np.vstack([np.ones(n), drawn])
    before = np.cumsum(weights, axis=1) - weights
    best = np.clip(target - before, 0.0, weights)
    chance = np.array([rng.permutation(np.arange(n) < target) for _ in range(DRAWS)], dtype=float)
    divergences, seen = [], []
    for column, options in zip(X.T, cube.categories.tolist(), strict=True):
        K = _kernels(column, int(options), target)
        on = ~np.isnan(column)
        found = divergence(K, weights * on, best * on)
        by_chance = divergence(K, np.ones((DRAWS, n)) * on, chance * on)
        divergences.append(found * (weights @ on) / n)
        seen.append(found[0] > np.percentile(by_chance, INTERVAL[1]))
    every = np.array(divergences)
    shares = every / np.maximum(every.sum(axis=0), 1e-12)
    low, high = np.percentile(shares[:, 1:], INTERVAL, axis=1)
    ranked = np.argsort(-shares[:, 0], kind="stable")
    names, share = tuple(cube.space.free[j] for j in ranked), shares[ranked, 0]
    low, high = np.minimum(low[ranked], share), np.maximum(high[ranked], share)
    return Deciding(names, share, low, high, np.array(seen)[ranked], n, target)


def _kernels(column: Array, options: int, target: int) -> Array:
    """The kernel of each trial on the grid, shape ``(n, cells)``, of mean 1 over the grid; 0 where it is inactive.

    A parameter with options has a cell for each, and a trial is in its own alone. The best ``target`` trials come
    first.
    """
    on = np.flatnonzero(~np.isnan(column))
    u = column[on]
    K = np.zeros((len(column), options or GRID))
    if options:
        K[on, np.minimum((u * options).astype(int), options - 1)] = options
        return K
    # Scott's rule for the best, which lie closer together; another width for the others would itself be a difference.
    best = column[on[on < target]]
    width = max(1.06 * float(best.std()) * len(best) ** -0.2, NARROWEST) if len(best) else NARROWEST
    centres = (np.arange(GRID) + 0.5) / GRID
    bells = np.exp(-0.5 * ((centres - u[:, None]) / width) ** 2)
    K[on] = bells / bells.mean(axis=1, keepdims=True)  # truncated at the ends of the range
    return K


def divergence(K: Array, region: Array, target: Array) -> Array:
    """Pearson's divergence of the target's density from the region's, for each row of weights; shape ``(b,)``.

    Args:
        K: The kernels of ``n`` trials on a grid, shape ``(n, cells)``.
        region, target: How much each trial counts in the two, shape ``(b, n)``; 0 where the parameter is inactive.

    >>> K = np.array([[2.0, 0.0], [0.0, 2.0]])  # a trial of either option
    >>> divergence(K, np.array([[500.0, 500.0]]), np.array([[500.0, 0.0]])).round(2)
    array([1.])
    """
    densities = [(weights @ K + 1) / (weights.sum(axis=1, keepdims=True) + 1) for weights in (region, target)]
    pearson: Array = ((densities[1] / densities[0] - 1) ** 2 * densities[0]).mean(axis=1)
    return pearson
