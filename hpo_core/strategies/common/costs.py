"""Models what a trial will cost, and what a further trial is worth: a Gaussian process of the logarithm of costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpo_core.base.arrays import Array
from hpo_core.history.history import History
from hpo_core.history.spending import EXPECTED, Promise
from hpo_core.history.trial import Proposal, Trial
from hpo_core.numerics.acquisition import log_expected_improvement
from hpo_core.numerics.gaussian_process import GaussianProcess, fit_known, squared_distances
from hpo_core.space.configuration import Scalar

POWER = 0.5
"""The highest power of the expected cost that an expected improvement is divided by.

With 1, as in expected improvement per second (Snoek et al. 2012, arXiv:1206.2944), what is cheap is tried long after it
has nothing more to give; measured in ``docs/decisions/0025-cost.md``."""

ALIKE, APART = 0.5, 1.0
"""Standard deviations of the logarithms of costs: up to the first, costs are not weighed; from the second on in full.

They correspond to factors of about 5 and 30 between what most trials cost. Where costs are alike there is little to
save, and what is cheap may be worse; and a search that has come to trials of similar costs has nothing to weigh."""

START = 0.9
"""From this sample standard deviation of the logarithms on, the first points are cheap ones."""

POOL = 128
"""How many points a cheap start is chosen from."""


def costs_differ(history: History) -> bool:
    """Whether the known costs differ, so that they tell something about others."""
    return len({trial.cost for trial in history.priced if trial.loss is not None}) > 1


def starts_cheap(history: History) -> bool:
    """Whether the known costs differ so much that a model begins with cheap points."""
    logs = np.log([trial.cost for trial in history.priced if trial.cost is not None and trial.loss is not None])
    return len(logs) > 1 and float(logs.std(ddof=1)) >= START


@dataclass(frozen=True)
class Costs:
    """The expected cost of a candidate, in logarithms: costs differ by factors, and are above 0.

    Args:
        process: The process of the standardised logarithm; None if all known costs are equal, or none is known.
        centre, scale: What the logarithm was standardised by; NaN if no cost is known.
    """

    process: GaussianProcess | None = None
    centre: float = math.nan
    scale: float = 1.0

    @classmethod
    def fitted(cls, trials: Sequence[Trial], F: Array, owner: Any, active: float, rows: Any) -> Costs:
        """Fit to the trials whose cost is known.

        Args:
            trials: ``n`` trials.
            F: Their features, shape ``(n, k)``.
            owner: The dimension that each feature belongs to; see :meth:`hpo_core.space.cube.Cube.features`.
            active: How many dimensions are active on average.
            rows: Positions of the trials that hyperparameters are fitted to; each step costs the cube of their number.
        """
        costs = np.array([math.nan if trial.cost is None else trial.cost for trial in trials], dtype=float)
        known = np.flatnonzero(np.isfinite(costs))
        if not len(known):
            return cls()
        logs = np.log(costs[known])
        centre, scale = float(logs.mean()), float(logs.std())
        if scale < 1e-9:
            return cls(None, centre)
        y = (logs - centre) / scale
        return cls(fit_known(F, owner, y, known, rows, active), centre, scale)

    def log_expected(self, F: Array) -> Array:
        """The logarithm of the expected cost of each candidate, with features of shape ``(q, k)``; shape ``(q,)``.

        A cost is log-normal, so what is little known is expected to cost more than its median.
        """
        if self.process is None:
            return np.full(len(F), self.centre)
        mean, std = self.process.predict(F)
        expected: Array = self.centre + self.scale * mean + 0.5 * (self.scale * std) ** 2
        return expected

    @property
    def power(self) -> float:
        """The power of the expected cost that an improvement is divided by."""
        return POWER * min(max((self.scale - ALIKE) / (APART - ALIKE), 0.0), 1.0)

    def log_weight(self, F: Array) -> Array:
        """What is added to the logarithm of an acquisition, so that it counts against the cost; shape ``(q,)``."""
        return np.zeros(len(F)) if self.process is None else -self.power * self.log_expected(F)

    def notes(self, F: Array) -> list[dict[str, Scalar]]:
        """The expected cost of each candidate, as notes of its proposal."""
        with np.errstate(over="ignore"):
            expected = np.exp(self.log_expected(F)).tolist()
        return [{EXPECTED: cost} if math.isfinite(cost) else {} for cost in expected]

    def cheap(self, F: Array, tried: Array) -> list[int]:
        """The positions of the candidates, the best ones to start with first: cheap, and far from what was tried.

        Of the candidates the most expensive and the nearest to what was tried are dropped in turn, until one is left
        (Lee et al. 2020, arXiv:2003.10870, algorithm 2).

        Args:
            F: The candidates' features, shape ``(q, k)``.
            tried: Those of all trials so far, shape ``(n, k)``.
        """
        costs, distances = self.log_expected(F), squared_distances(F, tried).min(axis=1)
        left, dropped = np.arange(len(F)), list[int]()
        while len(left):
            i = int(np.argmin(distances[left]) if len(dropped) % 2 else np.argmax(costs[left]))
            dropped.append(int(left[i]))
            left = np.delete(left, i)
        return dropped[::-1]


def best_promise(candidates: Iterable[Proposal], best: float, widen: float) -> Promise | None:
    """The highest expected gain for its cost; None if no candidate has predictions.

    Args:
        candidates: Proposals with a surrogate's predictions as notes, on the scale of the losses.
        best: The incumbent's loss.
        widen: The factor on standard deviations; see :class:`hpo_core.strategies.algorithms.bayesian.Bayesian`.
    """
    found = list[Promise]()
    for each in candidates:
        mean, std, cost = (each.notes.get(name) for name in ("predicted_mean", "predicted_std", EXPECTED))
        if isinstance(mean, float) and isinstance(std, float) and isinstance(cost, float) and std > 0:
            gain = math.exp(float(log_expected_improvement(np.array([mean]), np.array([widen * std]), best)[0]))
            found.append(Promise(gain, cost))
    return max(found, key=lambda promise: promise.worth, default=None)
