"""Ranks candidates by the ratio of two Parzen densities: that of the best trials over that of the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from pydantic.dataclasses import dataclass

from hpo_core.base.arrays import Array
from hpo_core.base.settings import STRICT, Count, Share
from hpo_core.history.history import History
from hpo_core.history.prior import Source, comparable
from hpo_core.history.trial import Proposal, TrialState
from hpo_core.numerics.parzen import Parzen
from hpo_core.space.cube import Cube

FADE = 10.0
"""The number of trials that halves the weight of a past observation."""


@dataclass(frozen=True, config=STRICT)
class DensityRatio:
    """The estimators of :class:`hpo_core.strategies.algorithms.tpe.Tpe`, which documents the settings."""

    start: Count = 10
    gamma: Share = 0.1
    most: Count = 25
    candidates: Count = 128
    narrowest: Share = 0.03
    spread: Share = 0.5
    old: Share = 1.0

    def ranked(self, cube: Cube, history: History, rng: np.random.Generator) -> Iterator[Proposal]:
        """Draws from the density of the good trials, the highest ratio first."""
        fidelity = self._fidelity(history)
        same = comparable(history.prior)
        good = [*(t for t in history.complete if t.fidelity == fidelity), *(t for t in same if t.loss is not None)]
        known = {trial.identity for trial in history.complete}
        others = [
            trial
            for trial in (*history, *same)
            if (trial.loss is None and not (trial.state is TrialState.RUNNING and trial.identity in known))
            or (trial.stopped_early and trial.fidelity != fidelity)
        ]
        X, valid = cube.encode([trial.config for trial in (*good, *others)])
        losses = np.array([trial.loss for trial in good] + [math.inf] * len(others), dtype=float)
        numbers = np.array([trial.number for trial in (*good, *others)])
        X, losses, numbers = X[valid], losses[valid], numbers[valid]
        # Stable sorts throughout: ties keep the order of the history, so every process proposes the same.
        order = np.argsort(losses, kind="stable")
        count = min(math.ceil(self.gamma * int(np.isfinite(losses).sum())), self.most)
        best, rest = order[:count], order[count:]
        rest = rest[np.argsort(numbers[rest], kind="stable")]
        ramp = np.ones(len(rest))
        if len(rest) > 25:
            ramp[:-25] = np.linspace(self.old, 1.0, len(rest) - 25)
        past = _past(cube, history.prior, self.gamma, self.most)
        weight = FADE / (FADE + len(losses))
        promising, ordinary = (
            Parzen(cube, np.vstack([own, old]), np.append(w, np.full(len(old), weight)), self.narrowest, self.spread)
            for own, w, old in zip((X[best], X[rest]), (np.ones(len(best)), ramp), past, strict=True)
        )
        rows = promising.sample(self.candidates, rng)
        scores = promising.log_density(rows) - ordinary.log_density(rows)
        for i in np.argsort(-scores, kind="stable"):
            yield Proposal(cube.config(rows[i]), notes={"acquisition": float(scores[i])})

    def _fidelity(self, history: History) -> float | None:
        counts: dict[float | None, int] = {}
        for trial in history.complete:
            counts[trial.fidelity] = counts.get(trial.fidelity, 0) + 1
        enough = [fidelity for fidelity, count in counts.items() if count >= self.start] or list(counts)
        return max(enough, key=lambda fidelity: math.inf if fidelity is None else fidelity, default=None)


def _past(cube: Cube, sources: Sequence[Source], gamma: float, most: int) -> tuple[Array, Array]:
    """The good and the other observations of sources with their own scale; each source is judged by itself."""
    good, others = [np.empty((0, len(cube.columns)))], [np.empty((0, len(cube.columns)))]
    for source in sources:
        if source.align == "none":
            continue  # these already count among the trials
        X, valid = cube.encode([observation.config for observation in source.observations])
        X, losses = X[valid], source.losses[valid]
        count = min(math.ceil(gamma * int(np.isfinite(losses).sum())), most)
        good.append(X[:count])  # a source is sorted by loss
        others.append(X[count:])
    return np.vstack(good), np.vstack(others)
