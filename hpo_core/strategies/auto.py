"""The default: the strategy that measured best for the space and the budget, chosen anew for each trial."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from hpo_core.history import History
from hpo_core.space import SearchSpace
from hpo_core.strategies.base import Strategy, check_whole
from hpo_core.strategies.bayesian import Bayesian
from hpo_core.strategies.tpe import Tpe
from hpo_core.trial import Proposal

# Unlike the other strategies, which stand alone, this one is nothing but a choice among them.


@dataclass(frozen=True)
class Auto:
    """``bayesian`` up to ``long`` trials, then ``tpe``; what was picked stands in the notes of each proposal.

    A Gaussian process makes most of few trials, but models only so many: once a study is longer than that, the Parzen
    estimators, which use all of them at next to no cost, take over. Both begin with a scrambled Sobol sequence, and a
    space that can be written out is searched to its end by either.

    Args:
        long: From how many trials on a study counts as long.
    """

    name: ClassVar[str] = "auto"
    long: int = 2000

    def __post_init__(self) -> None:
        check_whole(self, long=1)

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]:
        proposals: list[Proposal] = []
        for _ in range(n):
            seen = history.with_pending(proposals) if proposals else history
            strategy: Strategy = Tpe() if len(seen) >= self.long else Bayesian()
            one = strategy.propose(space, seen, 1, seed=seed)
            if not one:
                break
            # A proposal that no model scored is a point of the sequence that both begin with.
            picked = strategy.name if "acquisition" in one[0].notes else "quasi_random"
            proposals.append(replace(one[0], notes={"picked": picked, **one[0].notes}))
        return proposals
