"""The final choice as the loop sees it: once the search has ended, folds instead of trials fill the free slots."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hpo_core.folds import FoldLedger, part_name
from hpo_core.history import History
from hpo_core.ledger import Ledger
from hpo_core.selection import Choice, Evaluation, Selection
from hpo_core.store import Metric
from hpo_core.study import StudySpec
from hpo_core.trial import Trial


class FinalStage:
    """The final choice of one study, shared with whatever other flows work on it.

    Args:
        ledger: The study; its specification asks for a final choice.
        folds: Its evaluations.
    """

    def __init__(self, ledger: Ledger, folds: FoldLedger) -> None:
        assert ledger.spec.final is not None
        self._space, self._folds = ledger.spec.search_space, folds
        self._selection: Selection = ledger.spec.final.selection()
        self._evaluations: list[Evaluation] = []

    def load(self, history: History) -> Choice:
        """How the choice stands in MLflow now. While trials run, nobody knows the finalists."""
        self._evaluations = [] if history.running else self._folds.load()
        return self._selection.choice(history, self._evaluations, self._space)

    def start(self, history: History, free: int) -> Started:
        """Reserve as many evaluations as there are free slots, by what the last load has shown."""
        wanted = self._selection.wanted(history, self._evaluations, self._space)
        return reserve(self._folds, history, wanted[: max(free, 0)])


Started = tuple[list[tuple[Trial, Evaluation]], bool]
"""Evaluations, each with its trial as it is to be trained: at the evaluation's fidelity, in its run. And whether
another flow was faster at one, so that this one has to load again."""


def reserve(folds: FoldLedger, history: History, wanted: Iterable[Evaluation]) -> Started:
    """Make evaluations this flow's, until another flow was faster at one."""
    trials = {trial.number: trial for trial in history}
    started: list[tuple[Trial, Evaluation]] = []
    for each in wanted:
        trial = trials[each.number]
        evaluation = folds.reserve(each, trial)
        if evaluation is None:
            return started, True
        started.append((again(trial, evaluation), evaluation))
    return started, False


def again(trial: Trial, evaluation: Evaluation) -> Trial:
    """A trial as an evaluation trains it: from scratch, whatever it went on from or was stopped at."""
    return replace(trial, run_id=evaluation.run_id, fidelity=evaluation.fidelity, parent=None, asked=None, rungs={})


def task_name(spec: StudySpec, evaluation: Evaluation) -> str:
    """An evaluation in Prefect's UI."""
    return f"{spec.name}-{evaluation.number:04d} {part_name(evaluation)}"


def choice_of(ledger: Ledger, history: History) -> Choice | None:
    """How the study's final choice stands; None if it asks for none."""
    return None if ledger.spec.final is None else FinalStage(ledger, FoldLedger(ledger)).load(history)


def name_winner(ledger: Ledger, choice: Choice) -> None:
    """Write the winner into the study's run: tags that name it, the mean over its folds, and its score on the test set.

    Repeating it adds nothing: the values bear the time at which they became known.
    """
    spec, winner = ledger.spec, choice.winner
    if winner is None or spec.final is None:
        return
    ends = [fold.end or 0 for fold in winner.folds.values()]
    values = {
        f"final/{spec.metric}": spec.sign * winner.mean,
        f"final/{spec.metric}_standard_error": winner.standard_error,
    }
    metrics = [Metric(key, value, max(ends)) for key, value in values.items()]
    if choice.test is not None:
        metrics += [Metric(f"test/{key}", value, choice.test.end or 0) for key, value in choice.test.metrics.items()]
    tags = {
        "hpo.winner": str(winner.trial.number),
        "hpo.winner_run": winner.trial.run_id,
        "hpo.winner_rule": spec.final.rule,
    }
    ledger.store.log(ledger.study_run.id, metrics, {}, tags)
