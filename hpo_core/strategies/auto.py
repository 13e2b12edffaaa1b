"""Picks a strategy for each trial from the space, the budget and the history; the default strategy of a study."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic.dataclasses import dataclass

from hpo_core.base.settings import STRICT, Count
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal
from hpo_core.space.configuration import Scalar
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.algorithms.bayesian import Bayesian
from hpo_core.strategies.algorithms.tpe import Tpe
from hpo_core.strategies.base import Strategy

# The other strategies are independent of each other; this one only chooses among them.

SHORT, SHORT_START = 10, 4
"""A study with at most SHORT trials starts with only SHORT_START Sobol points, or a model would choose too few."""


@dataclass(frozen=True, config=STRICT)
class Auto(Strategy):
    """``bayesian`` up to ``long`` trials, then ``tpe``; each proposal's notes say what was picked and why.

    A Gaussian process makes the most of few trials, but models only a limited number. In a longer study the Parzen
    estimators take over, which use all trials at little cost. So they do with several metrics. Both start with a scrambled Sobol sequence, shorter in a
    short study. Both exhaust a space that can be enumerated, the most promising configurations first. The evidence is
    in ``docs/decisions/0004-bayesian.md``.

    Args:
        long: The number of trials from which a study counts as long.
        budget: How many trials the study will have; by default the study's ``stop.trials``.
    """

    name: ClassVar[str] = "auto"
    uses_prior: ClassVar[bool] = True
    uses_budget: ClassVar[bool] = True
    long: Count = 2000
    budget: Count | None = None

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
        """The number of Sobol points that come first."""
        return SHORT_START if self.budget is not None and self.budget <= SHORT else Bayesian.start

    def _reason(
        self, strategy: Bayesian | Tpe, space: SearchSpace, seen: History, proposal: Proposal
    ) -> dict[str, Scalar]:
        """What was picked and why, in a few words, as notes of the proposal."""
        modelled, source = "acquisition" in proposal.notes, proposal.notes.get("warm_start")
        so_far = f"{len(seen)}" if self.budget is None else f"{len(seen)} of {self.budget}"
        objectives = max((len(trial.losses) for trial in seen.complete), default=0)
        process = f"a Gaussian process of each of {objectives} metrics" if objectives else "a Gaussian process"
        budget: dict[str, Scalar] = {} if self.budget is None else {"budget": self.budget}
        if source is not None:
            why = f"among the best of the past: {source}"
        elif modelled and isinstance(strategy, Tpe):
            why = f"{so_far} trials are more than {process} can model; Parzen estimators use them all"
        elif modelled and self.budget is not None and space.size <= self.budget:
            why = f"all {space.size:.0f} configurations fit the budget; {process} chooses their order"
        elif modelled:
            why = f"{so_far} trials over {space.dimensions} parameters: few enough for {process}"
        elif len(seen) < strategy.start:
            why = f"trial {len(seen) + 1} of the {strategy.start} that cover the space before a model is used"
        elif len(seen.complete) < 2:
            why = f"{len(seen.complete)} complete trials are too few to compare"
        else:
            why = "the model proposed no new configuration"
        picked = "warm_start" if source is not None else strategy.name if modelled else "quasi_random"
        return {"picked": picked, "why": why, **budget}
