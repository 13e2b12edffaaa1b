"""Proposes by asynchronous successive halving (ASHA): a trial is promoted as soon as it is among the best.

Li et al. (2020), arXiv:1810.05934.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass

from hpo_core.base.settings import STRICT
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal, Trial, TrialState
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.common.batch import one_by_one
from hpo_core.strategies.common.brackets import Rung, best_first, entering, promoted
from hpo_core.strategies.common.promoting import Promoting


@dataclass(frozen=True, config=STRICT)
class Asha(Promoting):
    """Promotes a trial in the best ``1 / eta`` of those that ended on its rung; without one, starts a new trial.

    Algorithm 2 of Li et al., with promotions from the highest rung first. No trial waits for another; the price is that
    some trials promoted early would not be among the best later.

    Args:
        sampler: The strategy that fills the lowest rung.
        fidelity: The study's fidelity.

    Failed trials count as ended. Once the space is exhausted and nothing runs, the best trial of a rung is promoted
    however few trials the rung has, so that the study ends with a full training.
    """

    name: ClassVar[str] = "asha"

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]:
        return one_by_one(history, n, lambda seen: self._next(space, seen, seed))

    def promotable(self, history: History) -> frozenset[int]:
        """The numbers of the trials that have been promoted or may still be: the best of each rung once it has doubled.

        In principle any trial is promoted once enough worse ones have followed. A trial that needs its rung to more
        than double without a better one is given up; if it is promoted after all, it starts from scratch.
        """
        kept = [
            trial.number
            for rung in self._rungs(history)[:-1]
            for trial in best_first(rung.values())[: max(2 * self._share(rung), int(2 * self.fidelity.eta))]
        ]
        return frozenset(kept)

    def _next(self, space: SearchSpace, history: History, seed: int) -> Proposal | None:
        proposal = self._promotion(history) or self._new(space, history, seed)
        if proposal is None and not history.running:
            return self._promotion(history, least=1)
        return proposal

    def _new(self, space: SearchSpace, history: History, seed: int) -> Proposal | None:
        sampled = self.sample(space, history, 0, seed=seed)
        return entering(sampled[0], self.fidelity, 0, 0) if sampled else None

    def _promotion(self, history: History, least: int = 0) -> Proposal | None:
        rungs = self._rungs(history)
        tried: set[str] = set(rungs[-1])
        for level in range(len(rungs) - 2, -1, -1):
            best = best_first(rungs[level].values())[: max(least, self._share(rungs[level]))]
            waiting: list[Trial] = [trial for trial in best if trial.identity not in tried]
            if waiting:
                return promoted(waiting[0], self.fidelity, level + 1, 0, level + 1)
            tried |= set(rungs[level])
        return None

    def _share(self, rung: Rung) -> int:
        ended = sum(trial.state is not TrialState.RUNNING for trial in rung.values())
        return int(ended / self.fidelity.eta)

    def _rungs(self, history: History) -> list[Rung]:
        rungs: list[Rung] = [{} for _ in self.fidelity.levels]
        for trial in history:
            level = self.fidelity.level_of(trial.requested_fidelity)
            if level is not None:
                rungs[level][trial.identity] = trial
        return rungs
