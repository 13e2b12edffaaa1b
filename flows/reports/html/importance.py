"""Estimates how much each parameter matters, and how certain that is.

A forest of extremely randomized trees (Geurts et al. 2006, doi:10.1007/s10994-006-6226-1) learns the ranks of the
losses from three quarters of the trials. A parameter's importance is the fall of R2 on the other quarter when its
values are shuffled (Breiman 2001, doi:10.1023/A:1010933404324, section 10). Ranks keep one diverged trial from
dominating; several splits show how much depends on the split.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.inspection import permutation_importance
from sklearn.model_selection import train_test_split

from hpo_core.base.arrays import Array
from hpo_core.history.history import History
from hpo_core.space.search_space import SearchSpace

METHOD = "permutation importance of extra-trees on the ranks of the losses"

FEWEST = 12
"""With fewer complete trials, a held-out quarter is meaningless."""

MOST = 1_000
"""More complete trials would only take longer; an evenly spaced selection of this many is used."""

SPLITS = 6

TREES = 40

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


def features(space: SearchSpace, history: History) -> Array:
    """The complete trials, shape ``(n, d)`` in the unit cube, or ``(n, d + 1)`` with the fidelity if it varies."""
    X, _ = history.arrays(space)
    X = np.nan_to_num(X, nan=ABSENT)
    fidelities = np.array([-1.0 if trial.fidelity is None else trial.fidelity for trial in history.complete])
    return np.column_stack([X, fidelities]) if len(set(fidelities)) > 1 else X


def forest(seed: int) -> ExtraTreesRegressor:
    return ExtraTreesRegressor(TREES, min_samples_leaf=2, random_state=seed)


def importance(space: SearchSpace, history: History) -> Importance | None:
    """The importance of each free parameter; None if too few trials are complete or all are equally good."""
    X, (_, losses) = features(space, history), history.arrays(space)
    if len(losses) < FEWEST or not space.dimensions or losses.min() == losses.max():
        return None
    chosen = np.linspace(0, len(losses) - 1, min(len(losses), MOST)).astype(int)
    X, ranks = X[chosen], rankdata(losses)[chosen]
    falls, explained = [], []
    for seed in range(SPLITS):
        X_fit, X_test, y_fit, y_test = train_test_split(X, ranks, test_size=0.25, random_state=seed)
        model = forest(seed).fit(X_fit, y_fit)
        explained.append(model.score(X_test, y_test))
        found = permutation_importance(model, X_test, y_test, n_repeats=3, random_state=seed)
        falls.append(found.importances_mean[: space.dimensions])
    mean, spread = np.mean(falls, axis=0), np.std(falls, axis=0)
    order = np.argsort(-mean, kind="stable")
    return Importance(tuple(space.free[j] for j in order), mean[order], spread[order], float(np.mean(explained)))
