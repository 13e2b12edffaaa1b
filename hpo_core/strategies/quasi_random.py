"""Quasi-random search: a scrambled Sobol sequence covers the cube more evenly than independent points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hpo_core.history import History
from hpo_core.sampling import fill, sobol_from
from hpo_core.space import SearchSpace
from hpo_core.trial import Proposal


@dataclass(frozen=True)
class QuasiRandom:
    """Trial ``t`` takes point ``t`` of the sequence, or the next one that is feasible and new."""

    name: ClassVar[str] = "quasi_random"

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]:
        return fill(space, history, n, seed=seed, points=lambda number: sobol_from(space.dimensions, seed, number))
