"""What past studies let one expect of a configuration: a mean for the study's own process to start from.

Each source of the past has a process of its own, fitted to its aligned losses; ``m_s(x)`` is its posterior mean. The
study's own standardised losses ``z`` are modelled as

    z(x) = a + sum_s b_s m_s(x) + r(x),        b_s >= 0,

with ``r`` the study's own Gaussian process. This is the stacking of Golovin et al. (2017, "Google Vizier", section 3.3)
with weights: ``a`` and ``b`` are least squares with a penalty ``RIDGE sum_s (b_s - 1/S)^2``. A source that does not
agree with what the study has seen loses its weight, and where the study has trials, ``r`` has the last word.
The comparison is made at the very configurations that the study has tried. Aligning the two sets of losses by their
means instead would take the few trials that the past suggested, all good ones, for average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.optimize import nnls

from hpo_core.cube import Cube
from hpo_core.gaussian_process import GaussianProcess, fit
from hpo_core.prior import Source
from hpo_core.space import Array

RIDGE = 4.0
"""So many trials of variance 1 outweigh the expectation that all sources tell the same."""

ELITE = 5
"""Around so many of the past's best configurations candidates are drawn."""

MOST = 200
"""At most so many observations of a source are modelled: the best half, and an even choice of the rest."""


@dataclass(frozen=True)
class Trend:
    """``a + sum_s b_s m_s(x)``; 0 everywhere where there is no past.

    Args:
        cube: The space.
        processes: One a source.
        weights: ``b``, shape ``(S,)``.
        level: ``a``.
        elite: The configurations of the past that are expected to be best, shape ``(k, d)``, the best first.
    """

    cube: Cube
    processes: tuple[GaussianProcess, ...]
    weights: Array
    level: float
    elite: Array

    def __bool__(self) -> bool:
        return bool(self.processes)

    def __call__(self, X: Array) -> Array:
        """The trend at the rows, shape ``(n,)``."""
        if not self.processes or not len(X):
            return np.zeros(len(X))
        return self.level + self._means(X) @ self.weights

    def _means(self, X: Array) -> Array:
        F, _ = self.cube.features(X)
        return np.column_stack([process.predict(F)[0] for process in self.processes])

    def fitted(self, X: Array, z: Array) -> Trend:
        """The trend with level and weights for the study's own standardised losses ``z``, shape ``(n,)``, n >= 1."""
        if not self.processes:
            return self
        means, equal = self._means(X), 1.0 / len(self.processes)
        centre, rows = means.mean(axis=0), np.sqrt(RIDGE) * np.eye(len(self.processes))
        weights, _ = nnls(
            np.vstack([means - centre, rows]), np.concatenate([z - z.mean(), rows @ np.full(len(rows), equal)])
        )
        return replace(self, weights=weights, level=float(z.mean() - centre @ weights))


def trend_of(cube: Cube, sources: Sequence[Source]) -> Trend:
    """What all sources whose losses are aligned let expect, each with the same weight."""
    text = cube.space.to_json() if sources else ""
    found = [_model(source.fingerprint, text, _Unhashed(cube, source)) for source in sources if source.align != "none"]
    models = [model for model in found if model is not None]
    processes = tuple(process for process, _ in models)
    raw = Trend(cube, processes, np.full(len(models), 1.0 / max(len(models), 1)), 0.0, np.empty((0, len(cube.columns))))
    if not models:
        return raw
    tried = np.vstack([X for _, X in models])
    return replace(raw, elite=tried[np.argsort(raw(tried), kind="stable")[:ELITE]])


@dataclass(frozen=True)
class _Unhashed:
    """What a cached function is given but not looked up by."""

    cube: Cube
    source: Source

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Unhashed)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=64)
def _model(fingerprint: int, space: str, given: _Unhashed) -> tuple[GaussianProcess, Array] | None:
    """The process of one source and the configurations it knows; None if fewer than two of them came out.

    A source never changes, so its process is fitted once and not for every proposal.
    """
    cube, source = given.cube, given.source
    X, valid = cube.encode([observation.config for observation in source.observations])
    if np.isfinite(source.losses[valid]).sum() < 2:
        return None
    X, z = X[valid], source.aligned[valid]
    some = _even(len(z), MOST)
    X, z = X[some], z[some]
    F, owner = cube.features(X)
    hyperparameters = fit(F, owner, z, active=float((~np.isnan(X)).sum(axis=1).mean()))
    return GaussianProcess.condition(F, owner, z, hyperparameters), X


def _even(count: int, most: int) -> Any:
    """Positions in a list that is sorted by loss: the first half of ``most``, and an even choice of the rest."""
    if count <= most:
        return np.arange(count)
    half = most // 2
    return np.concatenate([np.arange(half), np.linspace(half, count - 1, most - half).round().astype(int)])
