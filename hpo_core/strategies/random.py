"""Random search (Bergstra and Bengio 2012, jmlr.org/papers/v13/bergstra12a.html)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hpo_core.history import History
from hpo_core.sampling import fill, uniform_from
from hpo_core.space import SearchSpace
from hpo_core.trial import Proposal


@dataclass(frozen=True)
class Random:
    """Independent uniform points of the unit cube, one stream a trial; never the same configuration twice."""

    name: ClassVar[str] = "random"

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]:
        return fill(space, history, n, seed=seed, points=lambda number: uniform_from(space.dimensions, seed, number))
