"""Estimates how much each parameter matters: permutation importance of extra-trees on ranks.

A forest of extremely randomised trees (Geurts et al. 2006, doi:10.1007/s10994-006-6226-1) learns the ranks of the
losses from three quarters of the trials. A parameter's importance is the fall of R2 on the other quarter when its
values are shuffled (Breiman 2001, doi:10.1023/A:1010933404324, section 10). Ranks keep one diverged trial from
dominating; several splits show how much depends on the split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.metrics import r2_score

from hpo_core.base.arrays import Array, evenly
from hpo_core.history.history import History, encoded
from hpo_core.history.trial import Trial
from hpo_core.space.search_space import SearchSpace

METHOD = "permutation importance of extra-trees on the ranks of the losses"

FEWEST = 12
"""With fewer complete trials, a held-out quarter is meaningless."""

MOST = 500
"""More complete trials would only take longer; an evenly spaced selection of this many is used."""

SPLITS = 6

SHUFFLES = 3
"""How often a parameter is shuffled in each split."""

TREES = 32

RELIABLE = 0.3
"""The share of the variance of held-out ranks that the forests must explain before importances say anything."""

ABSENT = -1.0
"""The coordinate of an inactive parameter: outside the unit cube, so that a tree can separate it."""


@dataclass(frozen=True)
class Importance:
    """Falls of the held-out R2.

    Args:
        names: The parameters, most important first.
        mean, spread: The mean fall and its standard deviation over the splits, shapes ``(d,)``.
        explained: The mean R2 on held-out trials; near or below 0 the importances are meaningless.
    """

    names: tuple[str, ...]
    mean: Array
    spread: Array
    explained: float

    @property
    def reliable(self) -> bool:
        """Whether the forests explain enough for the importances to be believed."""
        return self.explained >= RELIABLE


def features(space: SearchSpace, complete: Sequence[Trial]) -> Array:
    """Complete trials, shape ``(n, d)`` in the unit cube, or ``(n, d + 1)`` with the fidelity if it varies."""
    X = np.nan_to_num(encoded(space, complete), nan=ABSENT)
    fidelities = np.array([-1.0 if trial.fidelity is None else trial.fidelity for trial in complete])
    return np.column_stack([X, fidelities]) if len(set(fidelities)) > 1 else X


def forest(seed: int) -> ExtraTreesRegressor:
    return ExtraTreesRegressor(TREES, min_samples_leaf=2, random_state=seed, n_jobs=1)


def importance(space: SearchSpace, history: History) -> Importance | None:
    """The importance of each free parameter; None if too few trials are complete or all are equally good."""
    losses = np.array([trial.loss for trial in history.complete], dtype=float)
    if len(losses) < FEWEST or not space.dimensions or losses.min() == losses.max():
        return None
    places = dict(zip((trial.number for trial in history.complete), rankdata(losses), strict=True))
    chosen = evenly(history.complete, MOST)
    X, ranks = features(space, chosen), np.array([places[trial.number] for trial in chosen])
    falls, explained = [], []
    for seed in range(SPLITS):
        rng = np.random.default_rng(seed)
        order, held = rng.permutation(len(ranks)), -(-len(ranks) // 4)
        test, fit = order[:held], order[held:]
        score, fall = _falls(forest(seed).fit(X[fit], ranks[fit]), X[test], ranks[test], space.dimensions, rng)
        explained.append(score)
        falls.append(fall)
    mean, spread = np.mean(falls, axis=0), np.std(falls, axis=0)
    order = np.argsort(-mean, kind="stable")
    return Importance(tuple(space.free[j] for j in order), mean[order], spread[order], float(np.mean(explained)))


def _falls(
    model: ExtraTreesRegressor, X: Array, ranks: Array, dimensions: int, rng: np.random.Generator
) -> tuple[float, Array]:
    """R2, and how far it falls when each of the first columns is shuffled; all copies are predicted at once."""
    copies = np.tile(X, (1 + dimensions * SHUFFLES, 1, 1))
    for k in range(dimensions * SHUFFLES):
        column = k // SHUFFLES
        copies[1 + k, :, column] = rng.permutation(X[:, column])
    predicted = model.predict(copies.reshape(-1, X.shape[1])).reshape(len(copies), len(X))
    scores = np.array([r2_score(ranks, each) for each in predicted])
    return float(scores[0]), scores[0] - scores[1:].reshape(dimensions, SHUFFLES).mean(axis=1)
