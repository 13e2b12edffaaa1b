"""Proposes by Hyperband, and by repeated brackets of successive halving.

Li et al. (2018), jmlr.org/papers/v18/16-558.html.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from pydantic.dataclasses import dataclass

from hpo_core.base.settings import STRICT
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.common.brackets import Brackets, propose
from hpo_core.strategies.common.promoting import Promoting


@dataclass(frozen=True, config=STRICT)
class Hyperband(Promoting):
    """Runs the bracket with the most halvings, then those with fewer and fewer, and repeats until the study ends.

    Args:
        sampler: The strategy that fills the first rungs. With ``random`` this is Hyperband as published; with ``tpe``,
            BOHB (Falkner et al. 2018, arXiv:1807.01774).
        fidelity: The study's fidelity.

    A rung waits for all of its trials before the best are promoted; a failed trial counts as ended. Meanwhile, free
    slots go to the next bracket, so workers do not idle.
    """

    name: ClassVar[str] = "hyperband"

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]:
        sample = partial(self.sample, space, seed=seed)
        return propose(self.fidelity, self._halvings, history, n, sample)

    def promotable(self, history: History) -> frozenset[int]:
        return Brackets(self.fidelity, self._halvings, history).promotable()

    def _halvings(self, bracket: int) -> int:
        count = len(self.fidelity.levels)
        return count - 1 - bracket % count


@dataclass(frozen=True, config=STRICT)
class SuccessiveHalving(Hyperband):
    """Repeats the bracket that starts at the lowest level and uses all levels.

    Args:
        sampler: The strategy that fills the first rungs.
        fidelity: The study's fidelity; a higher ``min`` leads to fewer halvings.

    It waits and fills free slots as Hyperband does.
    """

    name: ClassVar[str] = "successive_halving"

    def _halvings(self, bracket: int) -> int:
        return len(self.fidelity.levels) - 1
