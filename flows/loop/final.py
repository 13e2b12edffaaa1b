"""Runs the final choice: once the search has ended, the loop fills its free slots with folds instead of trials."""

from __future__ import annotations

from hpo_core.history.history import History
from hpo_core.ledger.evaluations import FoldLedger
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.study_run import name_winner
from hpo_core.selection.evaluation import Evaluation
from hpo_core.selection.final_choice import Choice, Selection
from hpo_flows.loop.stage import Step, collect, reserve


class FinalStage:
    """The final choice of one study, shared with all other flows that work on it.

    Args:
        ledger: The study; its specification asks for a final choice.
        folds: The study's evaluations.

    Attributes:
        choice: The state of the choice, as last loaded; None before.
    """

    def __init__(self, ledger: Ledger, folds: FoldLedger) -> None:
        spec = ledger.spec
        assert spec.final is not None
        self._ledger, self._space, self._folds = ledger, spec.search_space, folds
        self._selection: Selection = spec.final.selection(spec.stands_for if spec.prefer else None, spec.limiting)
        self._evaluations: list[Evaluation] = []
        self.choice: Choice | None = None

    def load(self, history: History) -> bool:
        """Load the choice's state. While trials run, the finalists are unknown."""
        self._evaluations = [] if history.running else self._folds.load()
        self.choice = self._selection.choice(history, self._evaluations, self._space)
        return not self.choice.standings or self.choice.done

    def advance(self, history: History, free: int) -> Step:
        over = self.load(history)
        if over or history.running:
            return Step(over=over)
        wanted = self._selection.wanted(history, self._evaluations, self._space)
        return collect(reserve(self._folds, history, wanted[: max(free, 0)]))

    def record(self) -> None:
        """Write the winner into the study's run, as last loaded. Idempotent."""
        if self.choice is not None:
            name_winner(self._ledger.study, self._ledger.spec, self.choice)


def choice_of(ledger: Ledger, history: History) -> Choice | None:
    """The state of the study's final choice; None if it asks for none."""
    if ledger.spec.final is None:
        return None
    stage = FinalStage(ledger, FoldLedger(ledger))
    stage.load(history)
    return stage.choice
