"""Picks a strategy for each trial from the space, the budget and the history; the default strategy of a study."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic.dataclasses import dataclass

from hpo_core.base.settings import STRICT, Count
from hpo_core.history.history import History
from hpo_core.history.spending import EXPECTED
from hpo_core.history.trial import Proposal
from hpo_core.space.configuration import Scalar
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.algorithms.bayesian import Bayesian
from hpo_core.strategies.algorithms.tpe import Tpe
from hpo_core.strategies.base import Strategy
from hpo_core.strategies.common.batch import one_by_one

# The other strategies are independent of each other; this one only chooses among them.

SHORT, SHORT_START = 10, 4
"""A study with at most SHORT trials starts with only SHORT_START Sobol points, or a model would choose too few."""


@dataclass(frozen=True, config=STRICT)
class Auto(Strategy):
    """``bayesian`` up to ``long`` trials, then ``tpe``; each proposal's notes say what was picked and why.

    A Gaussian process makes the most of few trials, but models only a limited number. In a longer study the Parzen
    estimators take over, which use all trials at little cost. So they do with several metrics and with limits. Both
    start with a scrambled Sobol sequence, shorter in a short study. Both exhaust a space that can be enumerated, the
    most promising configurations first. The evidence is in ``docs/decisions/0004-bayesian.md``.

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
        return one_by_one(history, n, lambda seen: self._next(space, seen, seed))

    def _next(self, space: SearchSpace, history: History, seed: int) -> Proposal | None:
        strategy: Bayesian | Tpe = Tpe() if len(history) >= self.long else Bayesian(start=self.start)
        proposals = strategy.propose(space, history, 1, seed=seed)
        if not proposals:
            return None
        notes = self._reason(strategy, space, history, proposals[0])
        return replace(proposals[0], notes={**notes, **proposals[0].notes})

    @property
    def start(self) -> int:
        """The number of Sobol points that come first."""
        return SHORT_START if self.budget is not None and self.budget <= SHORT else Bayesian.start

    def _reason(
        self, strategy: Bayesian | Tpe, space: SearchSpace, seen: History, proposal: Proposal
    ) -> dict[str, Scalar]:
        """What was picked and why, in a few words, as notes of the proposal."""
        priced = EXPECTED in proposal.notes  # a cheap start; what is modelled comes before it
        modelled, source = "acquisition" in proposal.notes, proposal.notes.get("warm_start")
        so_far = f"{len(seen)}" if self.budget is None else f"{len(seen)} of {self.budget}"
        objectives = max((len(trial.losses) for trial in seen.complete), default=0)
        process = f"a Gaussian process of each of {objectives} metrics" if objectives else "a Gaussian process"
        if limited := max((len(trial.excess) for trial in seen.complete), default=0):
            process += f" and one for each of {limited} limits"
        budget: dict[str, Scalar] = {} if self.budget is None else {"budget": self.budget}
        if source is not None:
            why = f"among the best of the past: {source}"
        elif modelled and isinstance(strategy, Tpe):
            why = f"{so_far} trials are more than {process} can model; Parzen estimators use them all"
        elif modelled and self.budget is not None and space.size <= self.budget:
            why = f"all {space.size:.0f} configurations fit the budget; {process} chooses their order"
        elif modelled:
            why = f"{so_far} trials over {space.dimensions} parameters: few enough for {process}"
        elif priced:
            why = f"trial {len(seen) + 1} of the {strategy.start} that cover the space, where a model expects it cheap"
        elif len(seen) < strategy.start:
            why = f"trial {len(seen) + 1} of the {strategy.start} that cover the space before a model is used"
        elif len(seen.complete) < 2:
            why = f"{len(seen.complete)} complete trials are too few to compare"
        else:
            why = "the model proposed no new configuration"
        picked = "warm_start" if source is not None else strategy.name if modelled or priced else "quasi_random"
        return {"picked": picked, "why": why, **budget}
