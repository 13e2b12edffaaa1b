"""Defines evaluations outside the search (folds, tests, re-trainings, champion scores), and which are due."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from hpo_core.history.trial import Trial, TrialState
from hpo_core.space.configuration import Config

Phase = Literal["search", "fold", "test", "seed", "champion"]
"""Why an objective is called: for a trial; a fold of the final choice; the winner's score on the test set; one of the
winner's re-trainings, which are compared with the champion; or the champion's own score."""


@dataclass(frozen=True)
class Fold:
    """One of ``of`` equal parts of the development data, counted from 0."""

    index: int
    of: int

    def __str__(self) -> str:
        return f"fold {self.index + 1} of {self.of}"


@dataclass(frozen=True)
class Retraining:
    """One re-training of the winner with its own seed, counted from 0."""

    index: int

    def __str__(self) -> str:
        return f"seed {self.index + 1}"


@dataclass(frozen=True)
class ChampionVersion:
    """The champion, by its model version in MLflow's registry; it is scored but not trained."""

    version: int

    def __str__(self) -> str:
        return f"champion, version {self.version}"


EvaluationKind = Fold | Retraining | ChampionVersion
"""What an evaluation outside the search evaluates; None stands for the winner's test."""


def phase_of(kind: EvaluationKind | None) -> Phase:
    """The phase in which an objective is called to evaluate a kind.

    >>> phase_of(Fold(0, 5)), phase_of(None)
    ('fold', 'test')
    """
    if kind is None:
        return "test"
    return "fold" if isinstance(kind, Fold) else "seed" if isinstance(kind, Retraining) else "champion"


MOST_LOST = 3
"""How often a flow may die while it evaluates a fold before the configuration is considered the cause."""


@dataclass(frozen=True)
class Evaluation:
    """One training of a configuration outside the search: like a trial, but hidden from strategies and not numbered.

    Args:
        number: The number of the trial whose configuration is evaluated.
        kind: The fold it is scored on, the re-training of the winner, or the champion scored for comparison; None for
            the winner's test.
        fidelity: The fidelity it is trained at; None if the study has no fidelity.
        attempt: From 0; another attempt follows only if the flow died or was interrupted.
        state: Running, complete or failed.
        loss: The value that is minimised, finite; None unless complete. With several objectives, the first one's.
        lost: Why its flow did not finish it: ``died`` or ``interrupted``; empty otherwise.
        reason: Why it failed; empty otherwise.
        run_id: Its MLflow run.
        metrics: The metrics that the objective logged, under their own names and directions.
        start, end: Milliseconds since 1970.
        losses: With several objectives, the loss in each, finite; empty with one, and unless complete.
    """

    number: int
    kind: EvaluationKind | None
    fidelity: float | None
    attempt: int
    state: TrialState
    loss: float | None = None
    lost: str = ""
    reason: str = ""
    run_id: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    start: int = 0
    end: int | None = None
    losses: tuple[float, ...] = ()

    def by(self, i: int) -> Evaluation:
        """This evaluation as if the objective at this position were the study's only one."""
        return replace(self, loss=self.losses[i], losses=()) if self.losses else self

    @property
    def task(self) -> tuple[int, EvaluationKind | None, float | None]:
        """What is evaluated, regardless of the attempt."""
        return self.number, self.kind, self.fidelity

    @property
    def seconds(self) -> float:
        """Its duration in seconds; infinite if it has not ended."""
        return math.inf if self.end is None else (self.end - self.start) / 1000


Latest = Mapping[tuple[int, EvaluationKind | None, float | None], Evaluation]
"""The attempt that counts, by what is evaluated."""


def latest_of(evaluations: Iterable[Evaluation]) -> Latest:
    """The attempt that counts for each task: the first with a result (which may come late), else the last one."""

    def weight(evaluation: Evaluation) -> tuple[bool, int]:
        complete = evaluation.state is TrialState.COMPLETE
        return complete, -evaluation.attempt if complete else evaluation.attempt

    # Later entries overwrite earlier ones, so the attempt of highest weight remains.
    return {evaluation.task: evaluation for evaluation in sorted(evaluations, key=weight)}


def due(tasks: Iterable[tuple[int, EvaluationKind | None]], fidelity: float | None, latest: Latest) -> list[Evaluation]:
    """The next attempts for the tasks that need one, as running evaluations without a run."""
    wanted = []
    for number, kind in tasks:
        last = latest.get((number, kind, fidelity))
        if last is None or due_again(last):
            attempt = 0 if last is None else last.attempt + 1
            wanted.append(Evaluation(number, kind, fidelity, attempt, TrialState.RUNNING))
    return wanted


def due_again(evaluation: Evaluation) -> bool:
    """Whether another attempt is due: its flow died or was stopped, so the configuration need not be the cause."""
    if evaluation.lost == "died":
        return evaluation.attempt + 1 < MOST_LOST
    return evaluation.lost == "interrupted"


@dataclass(frozen=True)
class Training:
    """What is trained, and in which MLflow run: a trial of the search, or an evaluation of a trial's configuration.

    Args:
        trial: The trial of the search whose configuration is trained.
        evaluation: What it is evaluated for; None in the search.
    """

    trial: Trial
    evaluation: Evaluation | None = None

    @property
    def number(self) -> int:
        """The number of the trial."""
        return self.trial.number

    @property
    def config(self) -> Config:
        """The configuration."""
        return self.trial.config

    @property
    def run_id(self) -> str:
        """The MLflow run in which it reports."""
        return self.trial.run_id if self.evaluation is None else self.evaluation.run_id

    @property
    def fidelity(self) -> float | None:
        """How far to train. An evaluation may train further than its trial did, which may have been stopped early."""
        return self.trial.fidelity if self.evaluation is None else self.evaluation.fidelity

    @property
    def parent(self) -> int | None:
        """The trial whose training it continues, if any; an evaluation always trains from scratch."""
        return self.trial.parent if self.evaluation is None else None

    @property
    def kind(self) -> EvaluationKind | None:
        """What it is evaluated for; None in the search and for the winner's test."""
        return None if self.evaluation is None else self.evaluation.kind

    @property
    def phase(self) -> Phase:
        """The phase in which the objective is called."""
        return "search" if self.evaluation is None else phase_of(self.evaluation.kind)
