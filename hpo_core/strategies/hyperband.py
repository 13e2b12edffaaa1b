"""Hyperband (Li et al. 2018, jmlr.org/papers/v18/16-558.html): brackets of successive halving, one after another."""

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
class Hyperband:
    """The bracket with the most halvings first, then those with ever fewer, then all over again until the study ends.

    Args:
        sampler: The strategy that fills the first rungs. With ``random`` this is Hyperband as published, with ``tpe``
            BOHB (Falkner et al. 2018, arXiv:1807.01774).
        fidelity: The study's.

    A rung waits for all its trials before the best of them are promoted, and a failed one counts as ended. Slots that
    are free meanwhile go to the next bracket, so workers do not idle.
    """

    name: ClassVar[str] = "hyperband"
    sampler: Strategy
    fidelity: Fidelity = field(default_factory=Fidelity)

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]:
        sample = partial(self.sampler.propose, space, n=1, seed=seed)
        return propose(self.fidelity, self._halvings, history, n, sample)

    def promotable(self, history: History) -> frozenset[int]:
        return Brackets(self.fidelity, self._halvings, history).promotable()

    def _halvings(self, bracket: int) -> int:
        count = len(self.fidelity.levels)
        return count - 1 - bracket % count
