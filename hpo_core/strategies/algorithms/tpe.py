"""Proposes by the tree-structured Parzen estimator: what resembles the good trials and not the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
from pydantic.dataclasses import dataclass

from hpo_core.base.arrays import Array
from hpo_core.base.seeding import trial_rng
from hpo_core.base.settings import STRICT, Count, Share
from hpo_core.history.history import History
from hpo_core.history.prior import Source, comparable
from hpo_core.history.trial import Proposal, TrialState
from hpo_core.numerics.parzen import Parzen
from hpo_core.space.cube import Cube
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.base import Strategy
from hpo_core.strategies.common.sampling import fill_ranked
from hpo_core.strategies.common.transfer import suggested

FADE = 10.0
"""The number of trials that halves the weight of a past observation."""


@dataclass(frozen=True, config=STRICT)
class Tpe(Strategy):
    """Proposes the candidate with the highest ratio of two densities: that of the best trials over that of the rest.

    Bergstra et al. (2011), "Algorithms for hyper-parameter optimization", section 4, over the joint space as in
    Falkner et al. (2018), arXiv:1807.01774.

    Args:
        start: The number of scrambled Sobol points that come first.
        gamma: The share of trials that counts as good.
        most: The maximum number of trials that count as good.
        candidates: How many draws from the density of the good trials are compared.
        narrowest: The least bandwidth, as a share of a parameter's range.
        spread: With ``n`` trials, a categorical kernel gives options other than its own the probability
            ``spread / (n + 1)``.
        old: The weight of the oldest trial that is not good; it rises to 1 for the last 25. Early trials lie far from
            where the search is now.

    Failed trials count among the rest. So do running ones (a constant liar), unless their configuration already has a
    result. With several fidelities, the highest one with at least ``start`` trials is modelled, as in Falkner et al.;
    trials stopped early at another fidelity count among the rest. Trials whose configuration does not belong to the
    space are ignored. Past observations on the study's own scale count like its trials; the others are good or not
    within their source, and their weight fades.
    """

    name: ClassVar[str] = "tpe"
    uses_prior: ClassVar[bool] = True
    start: Count = 10
    gamma: Share = 0.1
    most: Count = 25
    candidates: Count = 128
    narrowest: Share = 0.03
    spread: Share = 0.5
    old: Share = 1.0

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]:
        cube = Cube(space)
        return fill_ranked(
            space,
            history,
            n,
            seed=seed,
            start=self.start,
            model=lambda seen, number: self._ranked(cube, seen, trial_rng(seed, number, stream=3)),
            first=suggested(space, history.prior),
        )

    def _ranked(self, cube: Cube, history: History, rng: np.random.Generator) -> Iterator[Proposal]:
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
