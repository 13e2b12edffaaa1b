"""Runs the final choice: once the search has ended, the loop fills its free slots with folds instead of trials."""

from __future__ import annotations

from collections.abc import Iterable

from hpo_core.history.history import History
from hpo_core.history.trial import Trial
from hpo_core.ledger.evaluations import FoldLedger, evaluation_name
from hpo_core.ledger.ledger import Ledger
from hpo_core.selection.evaluation import Evaluation, again
from hpo_core.selection.final_choice import Choice, Selection
from hpo_core.study.spec import StudySpec


class FinalStage:
    """The final choice of one study, shared with all other flows that work on it.

    Args:
        ledger: The study; its specification asks for a final choice.
        folds: The study's evaluations.
    """

    def __init__(self, ledger: Ledger, folds: FoldLedger) -> None:
        assert ledger.spec.final is not None
        self._space, self._folds = ledger.spec.search_space, folds
        self._selection: Selection = ledger.spec.final.selection()
        self._evaluations: list[Evaluation] = []

    def load(self, history: History) -> Choice:
        """Load the choice's current state from MLflow. While trials run, the finalists are unknown."""
        self._evaluations = [] if history.running else self._folds.load()
        return self._selection.choice(history, self._evaluations, self._space)

    def start(self, history: History, free: int) -> Started:
        """Reserve as many evaluations as there are free slots, based on the last load."""
        wanted = self._selection.wanted(history, self._evaluations, self._space)
        return reserve(self._folds, history, wanted[: max(free, 0)])


Started = tuple[list[tuple[Trial, Evaluation]], bool]
"""The reserved evaluations, each with the trial to train at the evaluation's fidelity and in its run; and whether
another flow reserved one first, so that this flow has to load again."""


def reserve(folds: FoldLedger, history: History, wanted: Iterable[Evaluation]) -> Started:
    """Reserve evaluations for this flow, until another flow has reserved one first."""
    trials = {trial.number: trial for trial in history}
    started: list[tuple[Trial, Evaluation]] = []
    for each in wanted:
        trial = trials[each.number]
        evaluation = folds.reserve(each, trial)
        if evaluation is None:
            return started, True
        started.append((again(trial, evaluation), evaluation))
    return started, False


def task_name(spec: StudySpec, evaluation: Evaluation) -> str:
    """The name of an evaluation in Prefect's UI."""
    return f"{spec.name}-{evaluation.number:04d} {evaluation_name(evaluation)}"


def choice_of(ledger: Ledger, history: History) -> Choice | None:
    """The state of the study's final choice; None if it asks for none."""
    return None if ledger.spec.final is None else FinalStage(ledger, FoldLedger(ledger)).load(history)
