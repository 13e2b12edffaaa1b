"""Proposes by random search (Bergstra and Bengio 2012, jmlr.org/papers/v13/bergstra12a.html)."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from hpo_core.base.settings import STRICT
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.base import Strategy
from hpo_core.strategies.common.sampling import fill, uniform_from


@dataclass(frozen=True, config=STRICT)
class Random(Strategy):
    """Takes independent uniform points of the unit cube, one random stream per trial; no configuration repeats."""

    name: ClassVar[str] = "random"

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]:
        return fill(space, history, n, seed=seed, points=lambda number: uniform_from(space.dimensions, seed, number))
