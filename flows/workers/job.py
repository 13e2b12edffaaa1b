"""Defines a worker's job, the ways in which it can end without a result, and the flag that cancels it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hpo_core.selection.evaluation import Fold, Phase
from hpo_core.selection.milestones import Milestones
from hpo_core.space.configuration import Scalar
from hpo_core.tracking.trial_run import TrialRun
from hpo_flows.objectives.messages import FromObjective
from hpo_flows.objectives.reference import Objective


@dataclass(frozen=True)
class Job:
    """All that a worker needs for one attempt at a trial.

    Args:
        objective: What to call.
        metrics: The study's own metrics, each with +1 if it is minimised, -1 if it is maximised.
        config, number, seed, fidelity: The trial.
        folder: The attempt's own folder.
        resume_from: The folder with the parent trial's checkpoint; None if it does not resume.
        parent_config: The configuration of the trial whose checkpoint that is.
        milestones: The numbers of steps at which the trial asks whether to continue; None: never.
        callbacks: The study's callbacks, as plain data.
        phase, fold: The phase, and the fold in the final choice.
        champion: The folder of the model to score instead of training, in phase ``champion``.
        to_beat: The trial is the best so far if it is better than each of these losses; with several metrics, these are
            points, and it has to be better than each in one of them.
        reshuffle: Whether the search's split is the trial's own.
        repeats: Whether the trial trains the configuration of an earlier one again.
        run: The trial's run, for what the objective logs to MLflow itself; None if it cannot.
    """

    objective: Objective
    metrics: Mapping[str, int]
    config: Mapping[str, Scalar]
    number: int
    seed: int
    fidelity: float | None
    folder: Path
    resume_from: Path | None = None
    parent_config: Mapping[str, Scalar] | None = None
    milestones: Milestones | None = None
    callbacks: Sequence[Mapping[str, Mapping[str, Any]]] = ()
    phase: Phase = "search"
    fold: Fold | None = None
    champion: Path | None = None
    to_beat: Sequence[Sequence[float]] = ((-math.inf,),)
    reshuffle: bool = False
    repeats: bool = False
    run: TrialRun | None = None

    def given(self, send: Callable[[FromObjective], None], answer: Callable[[], bool]) -> dict[str, Any]:
        """The arguments of the :class:`hpo_flows.objectives.context.TrialContext` that the objective gets.

        Args:
            send: Takes what the objective reports.
            answer: Called after a report that asks whether to continue; waits for the answer.
        """
        scratch = self.folder / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        names = [
            "config",
            "number",
            "seed",
            "fidelity",
            "resume_from",
            "parent_config",
            "milestones",
            "callbacks",
            "phase",
            "fold",
        ]
        given = {name: getattr(self, name) for name in [*names, "champion", "reshuffle", "repeats"]}
        given["metric"] = next(iter(self.metrics)) if len(self.metrics) == 1 else None
        return given | {"scratch": scratch, "outbox": self.folder / "outbox", "send": send, "answer": answer}

    def beats(self, metrics: Mapping[str, float]) -> bool:
        """Whether a trial with these metrics is the best so far, or belongs to the best."""
        losses = [sign * metrics[name] for name, sign in self.metrics.items()]
        return all(any(map(operator.lt, losses, point)) for point in self.to_beat)


class TrialFailed(Exception):
    """A trial returned no value.

    Args:
        reason: One readable line.
        retry: Whether another attempt may succeed: after a crash it may, after a NaN or a timeout it would not.
        details: A traceback or the end of the trial's output; may be empty.
        blamed_key: The study's key that is to blame rather than this trial, such as ``metric`` if the objective never
            returns it; empty if none is.
    """

    def __init__(self, reason: str, *, retry: bool, details: str = "", blamed_key: str = "") -> None:
        super().__init__(reason)
        self.reason, self.retry, self.details, self.blamed_key = reason, retry, details, blamed_key


class TrialCancelled(Exception):
    """The trial was killed because the flow is being stopped."""


class Flag(Protocol):
    """A flag that is set when a trial is to be killed, such as a :class:`threading.Event`."""

    def is_set(self) -> bool: ...
