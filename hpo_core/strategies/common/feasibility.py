"""Models whether a configuration keeps the study's limits: one Gaussian process per limited metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy

from hpo_core.base.arrays import Array
from hpo_core.history.trial import Trial
from hpo_core.numerics.gaussian_process import GaussianProcess, fit_known
from hpo_core.numerics.transforms import YeoJohnson


@dataclass(frozen=True)
class Feasibility:
    """The probability that a candidate keeps all limits (Gardner et al. 2014, "Bayesian optimization with inequality
    constraints"), each independent of the others and of the loss.

    Args:
        processes: For each limit the process of the transformed excess.
        thresholds: For each limit the largest transformed excess that keeps it.
    """

    processes: Sequence[GaussianProcess] = ()
    thresholds: Sequence[float] = ()

    @classmethod
    def fitted(cls, trials: Sequence[Trial], F: Array, owner: Any, active: float, rows: Any) -> Feasibility:
        """Fit to the complete trials.

        Args:
            trials: ``n`` trials.
            F: Their features, shape ``(n, k)``.
            owner: The dimension that each feature belongs to; see :meth:`hpo_core.space.cube.Cube.features`.
            active: How many dimensions are active on average.
            rows: Positions of the trials that hyperparameters are fitted to; each step costs the cube of their number.
        """
        processes, thresholds = list[GaussianProcess](), list[float]()
        for name in sorted({name for trial in trials for name in trial.excess}):
            excess = np.array([trial.excess.get(name, np.inf) for trial in trials], dtype=float)
            known = np.flatnonzero(np.isfinite(excess))
            if len(known) < 2:
                continue
            transform = YeoJohnson.fit(excess[known])
            z = transform.forward(excess[known])
            processes.append(fit_known(F, owner, z, known, rows, active))
            thresholds.append(float(transform.forward(np.zeros(1))[0]))
        return cls(processes, thresholds)

    def believing(self, F: Array) -> Feasibility:
        """As if running trials, with features ``F``, had come out as predicted."""
        return replace(self, processes=[process.believing(F) for process in self.processes])

    def log_probability(self, F: Array) -> Array:
        """The logarithm of the probability of each candidate, with features ``F`` of shape ``(q, k)``; shape ``(q,)``.

        The logarithm still ranks candidates that are all but certain to break a limit, whose probability underflows
        (Ament et al. 2023, arXiv:2310.20708, section 3.3).
        """
        total = np.zeros(len(F))
        for process, threshold in zip(self.processes, self.thresholds, strict=True):
            mean, std = process.predict(F)
            total += scipy.special.log_ndtr((threshold - mean) / std)
        return total
