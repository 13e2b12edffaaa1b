"""Successive halving (Jamieson and Talwalkar 2016, arXiv:1502.07943): many trainings begin, the best few go on."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from hpo_core.brackets import Brackets, propose
from hpo_core.fidelity import Fidelity
from hpo_core.history import History
from hpo_core.space import SearchSpace
from hpo_core.strategies.base import Strategy
from hpo_core.trial import Proposal


@dataclass(frozen=True)
class SuccessiveHalving:
    """The same bracket again and again, with as many halvings as there are levels.

    Args:
        sampler: The strategy that fills the first rungs.
        fidelity: The study's; a higher ``min`` makes for fewer halvings.

    It waits and fills free slots as Hyperband does.
    """

    name: ClassVar[str] = "successive_halving"
    sampler: Strategy
    fidelity: Fidelity = field(default_factory=Fidelity)

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]:
        sample = partial(self.sampler.propose, space, n=1, seed=seed)
        return propose(self.fidelity, self._halvings, history, n, sample)

    def promotable(self, history: History) -> frozenset[int]:
        return Brackets(self.fidelity, self._halvings, history).promotable()

    def _halvings(self, bracket: int) -> int:
        return len(self.fidelity.levels) - 1
