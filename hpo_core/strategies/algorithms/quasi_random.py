"""Proposes by quasi-random search: the points of a scrambled Sobol sequence (Owen 1998)."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from hpo_core.base.settings import STRICT
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.base import Strategy
from hpo_core.strategies.common.sampling import fill, sobol_from


@dataclass(frozen=True, config=STRICT)
class QuasiRandom(Strategy):
    """Trial ``t`` takes point ``t`` of the sequence, or the next point that is feasible and new."""

    name: ClassVar[str] = "quasi_random"

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]:
        return fill(space, history, n, seed=seed, points=lambda number: sobol_from(space.dimensions, seed, number))
