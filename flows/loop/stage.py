"""Defines a stage of a study: the search, the final choice, the champion. The loop runs one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from hpo_core.history.history import History
from hpo_core.history.trial import Proposal
from hpo_core.ledger.evaluations import FoldLedger
from hpo_core.ledger.ledger import Ledger
from hpo_core.selection.evaluation import Evaluation, Training


@dataclass(frozen=True)
class Step:
    """What a stage did when the loop let it go on.

    Args:
        started: What it reserved in MLflow for this flow, to be trained now.
        over: Whether nothing is left to do, so that the next stage may begin.
        stale: Whether MLflow holds something newer than the history, so that the loop has to load again first. For
            example, another flow has reserved a trial.
    """

    started: Sequence[Training] = ()
    over: bool = False
    stale: bool = False


class Stage(Protocol):
    """One stage of a study, shared with all other flows that work on it.

    Its state is in MLflow, so any number of flows may advance the same stage, and any of them may be killed.
    """

    def load(self, history: History) -> bool:
        """Load the stage's state from MLflow; returns whether nothing is left to do."""
        ...

    def advance(self, history: History, free: int) -> Step:
        """Load the stage's state, and reserve as much as there are free slots for.

        Args:
            history: The study as just loaded.
            free: The number of free slots; the stage reserves nothing if there is none.
        """
        ...


def advance(
    stages: Iterable[Stage], history: History, free: int, begin: Callable[[Sequence[Training]], object]
) -> Step:
    """Let the stages start trainings in the free slots; each begins once those before it are over.

    Args:
        stages: The stages, in order.
        history: The study as just loaded.
        free: The number of free slots.
        begin: Called with what a stage has reserved, which is now to be trained.
    """
    step = Step(over=True)
    for stage in stages:
        step = stage.advance(history, free)
        if step.started:
            begin(step.started)
            free -= len(step.started)
        if step.stale or not step.over:
            break
    return step


def collect(reservations: Iterable[Training | None]) -> Step:
    """Start whatever can be reserved.

    What is reserved in MLflow must also be trained. So an error after the first reservation is not raised here: the
    loop starts what there is, loads again, and meets the error there if it lasts.

    Args:
        reservations: Makes one reservation at each iteration; None if another flow was faster.
    """
    started: list[Training] = []
    try:
        for training in reservations:
            if training is None:
                return Step(started, stale=True)
            started.append(training)
    except Exception:
        if not started:
            raise
        return Step(started, stale=True)
    return Step(started)


def reserve_trial(ledger: Ledger, proposal: Proposal, history: History) -> tuple[Training | None, History]:
    """Reserve a trial for this flow, for :func:`collect`: None if another flow was faster. The history has it, too."""
    trial = ledger.reserve(proposal, history)
    return (None, history) if trial is None else (Training(trial), history.with_trials([trial]))


def reserve(folds: FoldLedger, history: History, wanted: Iterable[Evaluation]) -> Iterator[Training | None]:
    """Reserve evaluations for this flow, for :func:`collect`."""
    trials = {trial.number: trial for trial in history}
    for each in wanted:
        trial = trials[each.number]
        evaluation = folds.reserve(each, trial)
        yield None if evaluation is None else Training(trial, evaluation)
