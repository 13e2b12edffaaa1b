"""Defines how a study's result and its progress are handed to users and observers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpo_core.history.history import History
from hpo_core.history.trial import Trial
from hpo_core.selection.final_choice import Choice, best_trial
from hpo_core.space.configuration import Scalar
from hpo_core.study.spec import StudySpec
from hpo_flows.base.board import Running

if TYPE_CHECKING:
    from hpo_core.champion.challenge import Challenge


@dataclass(frozen=True)
class Outcome:
    """What a run of a study came to, as plain data; users receive a :class:`hpo_flows.results.StudyResult`.

    Attributes:
        spec: The study.
        history: All its trials.
        reason: Why no further trial was started.
        tracking_uri: MLflow's address.
        run_id: The study's run there.
        choice: The state of the final choice; None if the study asks for none.
        challenge: The state of the comparison with the champion; None if the study asks for none or has no winner.
        chosen: The trial that this is about, if somebody chose one; see :attr:`best`.
    """

    spec: StudySpec
    history: History
    reason: str
    tracking_uri: str = field(repr=False)  # it may hold a password
    run_id: str
    choice: Choice | None = None
    challenge: Challenge | None = None
    chosen: Trial | None = None

    @property
    def best(self) -> Trial | None:
        """The winner of the final choice, else the search's incumbent; None if no trial is complete.

        With several metrics it is the point of the Pareto front that was chosen; where none was, the one that stands
        for the study: what its ``prefer`` picks, else a compromise, nearest to the best value in each metric.
        """
        return best_trial(self.history, self.choice, self.spec.stands_for) if self.chosen is None else self.chosen

    @property
    def test_metrics(self) -> Mapping[str, float]:
        """The winner's metrics on the test set, by name; empty without a final choice or before its test."""
        return {} if self.choice is None or self.choice.test is None else self.choice.test.metrics

    @property
    def best_config(self) -> Mapping[str, Scalar]:
        """The configuration of :attr:`best`.

        Raises:
            ValueError: No trial is complete.
        """
        if self.best is None:
            raise ValueError(f"study {self.spec.name!r} has no complete trial")
        return self.best.config

    @property
    def best_value(self) -> float:
        """The metric of :attr:`best`, in its own direction; for a winner, the mean over its folds.

        Raises:
            ValueError: No trial is complete, or the study has several metrics.
        """
        if self.spec.metrics:
            raise ValueError(f"study {self.spec.name!r} has several metrics; read best_values")
        if self.best is None or self.best.loss is None:
            raise ValueError(f"study {self.spec.name!r} has no complete trial")
        winner = None if self.choice is None else self.choice.winner
        return self.spec.sign * (self.best.loss if winner is None else winner.mean)

    @property
    def best_values(self) -> Mapping[str, float]:
        """The study's metrics of :attr:`best`, each in its own direction; for a winner, the means over its folds.

        Raises:
            ValueError: No trial is complete.
        """
        if not self.spec.metrics:
            return {self.spec.metric: self.best_value}
        if self.best is None:
            raise ValueError(f"study {self.spec.name!r} has no complete trial")
        winner = None if self.choice is None or self.chosen is not None else self.choice.winner
        best = self.best if winner is None else winner.averaged
        pairs = zip(self.spec.objectives, best.outcome, strict=True)
        return {each.metric: each.sign * loss for each, loss in pairs}


@dataclass(frozen=True)
class Progress:
    """What an observer of a study receives: the study as last loaded, and the seconds since this run of it started.

    The final choice is None while the search goes on. ``running`` are this run's trainings, the longest running first.
    ``spec`` is the study as it is now, if anything may have changed it.
    """

    history: History
    seconds: float
    choice: Choice | None = None
    running: Sequence[Running] = ()
    spec: StudySpec | None = None
    paused: bool = False


Observer = Callable[[Progress], None]
