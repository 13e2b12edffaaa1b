"""The tree-structured Parzen estimator: propose what resembles the good trials and not the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hpo_core.cube import Cube
from hpo_core.history import History
from hpo_core.parzen import Parzen
from hpo_core.prior import Source, comparable
from hpo_core.sampling import fill_ranked
from hpo_core.seeding import trial_rng
from hpo_core.space import Array, SearchSpace
from hpo_core.strategies.base import check_whole
from hpo_core.transfer import suggested
from hpo_core.trial import Proposal, TrialState

FADE = 10.0
"""So many trials halve the weight of an observation of the past."""


@dataclass(frozen=True)
class Tpe:
    """The candidate with the highest ratio of two densities: of the best trials, and of the rest.

    Bergstra et al. (2011), "Algorithms for hyper-parameter optimization", section 4, over the joint space as in
    Falkner et al. (2018), arXiv:1807.01774.

    Args:
        start: How many trials of a scrambled Sobol sequence come first.
        gamma: The share of trials that counts as good.
        most: At most so many count as good.
        candidates: How many draws from the density of the good ones are compared.
        narrowest: The least bandwidth, as a share of a parameter's range.
        spread: With ``n`` trials the kernel of a category gives the probability ``spread / (n + 1)`` to other options
            than its own.
        old: The weight of the oldest of the trials that are not good; it rises to 1 for the last 25. What the
            search learned early it learned far from where it is now.

    Failed trials count among the rest, and so do running ones (a constant liar), except those that go on with a
    configuration of which something is known. Of several fidelities the highest that has ``start`` trials is looked at,
    as in Falkner et al.; trials that were stopped short of theirs count among the rest. Trials whose configuration is
    not one of the space are passed over. Of the past, what is on the study's own scale counts like its trials; the rest
    is good or not within its source, and fades.
    """

    name: ClassVar[str] = "tpe"
    uses_prior: ClassVar[bool] = True
    start: int = 10
    gamma: float = 0.1
    most: int = 25
    candidates: int = 128
    narrowest: float = 0.03
    spread: float = 0.5
    old: float = 1.0

    def __post_init__(self) -> None:
        check_whole(self, start=1, most=1, candidates=1)
        for field in ("gamma", "narrowest", "spread", "old"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
                raise ValueError(f"{field}: {value!r} is not a number above 0 and up to 1")

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
            or (trial.asked is not None and trial.fidelity != fidelity)
        ]
        X, valid = cube.encode([trial.config for trial in (*good, *others)])
        losses = np.array([trial.loss for trial in good] + [math.inf] * len(others), dtype=float)
        numbers = np.array([trial.number for trial in (*good, *others)])
        X, losses, numbers = X[valid], losses[valid], numbers[valid]
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
    """Of all sources on scales of their own the good observations, judged within each source, and the others."""
    good, others = [np.empty((0, len(cube.columns)))], [np.empty((0, len(cube.columns)))]
    for source in sources:
        if source.align == "none":
            continue  # these stand among the trials
        X, valid = cube.encode([observation.config for observation in source.observations])
        X, losses = X[valid], source.losses[valid]
        count = min(math.ceil(gamma * int(np.isfinite(losses).sum())), most)
        good.append(X[:count])  # a source stands in the order of its losses
        others.append(X[count:])
    return np.vstack(good), np.vstack(others)
