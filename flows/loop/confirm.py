"""Trains the best configurations again once the search is over, so that the best one is not merely the luckiest."""

from __future__ import annotations

from collections.abc import Iterator

from hpo_core.history.history import History
from hpo_core.history.spending import spent
from hpo_core.ledger.ledger import Ledger
from hpo_core.selection.evaluation import Training
from hpo_core.study.spec import StudySpec
from hpo_flows.loop.search import SearchStage
from hpo_flows.loop.stage import Step, collect, reserve_trial
from hpo_flows.reports.description import study_description


class ConfirmStage:
    """The confirmation of one study's best configurations, shared with all other flows that work on it.

    Its trainings are trials of the study; :mod:`hpo_core.selection.repeats` decides which. None starts while a trial of
    the search runs, since that may yet be one of the best.

    Args:
        ledger: The study.
        search: The study's search.

    Attributes:
        left: How many trainings are still to be started, as last loaded.
    """

    def __init__(self, ledger: Ledger, search: SearchStage) -> None:
        self._ledger, self._search = ledger, search
        self.left = 0

    @property
    def _spec(self) -> StudySpec:
        return self._ledger.spec  # which changes while the study runs: hpo set

    def load(self, history: History) -> bool:
        self.left = 0 if self._late(history) else self._spec.confirmations_left(history, self._search.exhausted)
        return self.left == 0 and not history.running

    def advance(self, history: History, free: int) -> Step:
        over = self.load(history)
        if over or any(not trial.confirms for trial in history.running):
            return Step(over=over)
        return collect(self._reserve(history, free))

    def _reserve(self, history: History, free: int) -> Iterator[Training | None]:
        """Reserve what confirms best for each free slot; None if another flow was faster."""
        while free > 0 and not self._late(history) and not self._search.halted:
            proposal = self._spec.confirm(history, self._search.exhausted)
            if proposal is None:
                return
            training, history = reserve_trial(self._ledger, proposal, history)
            yield training
            free -= 1

    def _late(self, history: History) -> bool:
        """Whether so much time has passed since the study's minutes were over that no further training may start.

        The same holds for a cost.
        """
        stop, repeats = self._spec.stop, self._spec.repeating
        if repeats is None:
            return True
        most = 1 + repeats.share
        if stop.cost is not None and spent(history) > stop.cost * most:
            return True
        return stop.minutes is not None and self._search.minutes > stop.minutes * most

    def record(self, history: History) -> None:
        self._ledger.study.describe(study_description(self._spec, history))
