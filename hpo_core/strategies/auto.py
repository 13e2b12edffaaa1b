"""The default: the strategy that measured best for space, budget and history, chosen anew for each trial."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from hpo_core.configuration import Scalar
from hpo_core.history import History
from hpo_core.space import SearchSpace
from hpo_core.strategies.base import check_whole
from hpo_core.strategies.bayesian import Bayesian
from hpo_core.strategies.tpe import Tpe
from hpo_core.trial import Proposal

# Unlike the other strategies, which stand alone, this one is nothing but a choice among them.

SHORT, SHORT_START = 10, 4
"""A study of so few trials begins with fewer points that no model chose, or next to nothing would be learned from."""


@dataclass(frozen=True)
class Auto:
    """``bayesian`` up to ``long`` trials, then ``tpe``; what was picked and why stands in the notes of each proposal.

    A Gaussian process makes most of few trials, but models only so many: once a study is longer than that, the Parzen
    estimators, which use all of them at next to no cost, take over. Both begin with a scrambled Sobol sequence, of
    which a short study takes less; and a space that can be written out is searched to its end by either, the most
    promising configurations first. The evidence is in ``docs/decisions/0004-bayesian.md``.

    Args:
        long: From how many trials on a study counts as long.
        budget: How many trials the study will have; a study's ``stop.trials`` where absent.
    """

    name: ClassVar[str] = "auto"
    uses_prior: ClassVar[bool] = True
    long: int = 2000
    budget: int | None = None

    def __post_init__(self) -> None:
        check_whole(self, long=1)
        if self.budget is not None:
            check_whole(self, budget=1)

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]:
        proposals: list[Proposal] = []
        for _ in range(n):
            seen = history.with_pending(proposals) if proposals else history
            strategy: Bayesian | Tpe = Tpe() if len(seen) >= self.long else Bayesian(start=self.start)
            one = strategy.propose(space, seen, 1, seed=seed)
            if not one:
                break
            notes = self._reason(strategy, space, seen, one[0])
            proposals.append(replace(one[0], notes={**notes, **one[0].notes}))
        return proposals

    @property
    def start(self) -> int:
        """How many points of the Sobol sequence come first."""
        return SHORT_START if self.budget is not None and self.budget <= SHORT else Bayesian.start

    def _reason(
        self, strategy: Bayesian | Tpe, space: SearchSpace, seen: History, proposal: Proposal
    ) -> dict[str, Scalar]:
        """What was picked, and why, in a few words."""
        modelled, source = "acquisition" in proposal.notes, proposal.notes.get("warm_start")
        so_far = f"{len(seen)}" if self.budget is None else f"{len(seen)} of {self.budget}"
        budget: dict[str, Scalar] = {} if self.budget is None else {"budget": self.budget}
        if source is not None:
            why = f"among the best of the past: {source}"
        elif modelled and isinstance(strategy, Tpe):
            why = f"{so_far} trials are more than a Gaussian process models; Parzen estimators use them all"
        elif modelled and self.budget is not None and space.size <= self.budget:
            why = f"all {space.size:.0f} configurations fit the budget; a Gaussian process says which come first"
        elif modelled:
            why = f"{so_far} trials over {space.dimensions} parameters: few enough for a Gaussian process"
        elif len(seen) < strategy.start:
            why = f"trial {len(seen) + 1} of the {strategy.start} that spread over the space before a model is asked"
        elif len(seen.complete) < 2:
            why = f"{len(seen.complete)} complete trials are too few to compare"
        else:
            why = "no candidate of the model was new"
        picked = "warm_start" if source is not None else strategy.name if modelled else "quasi_random"
        return {"picked": picked, "why": why, **budget}
