"""Defines the messages between a flow and its worker processes about one attempt at a trial.

The objective's side (:class:`hpo_flows.objectives.context.TrialContext`) sends reports, artifacts, datasets and what it
used; the worker's loop sends how the attempt ended. :mod:`hpo_flows.workers.channel` transports them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo_core.ledger.store import Dataset
    from hpo_core.selection.evaluation import Fold
    from hpo_core.tracking.trial_run import Logged
    from hpo_flows.objectives.reference import Objective


# -- from the flow to the worker ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preload:
    """Import the objective while there is nothing to train yet."""

    objective: Objective


@dataclass(frozen=True)
class Train:
    """Make an attempt at a trial.

    Args:
        job: A :class:`hpo_flows.workers.job.Job`.
    """

    job: Any


@dataclass(frozen=True)
class Answer:
    """Whether a trial that has reached a milestone continues."""

    go_on: bool


# -- from the objective to the flow ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """Metrics at a step. At a milestone, the objective waits for an :class:`Answer`.

    Args:
        step: The step of the training.
        metrics: Values by name.
        milestone: The number of steps of the milestone reached; None if none is.
    """

    step: int
    metrics: Mapping[str, float]
    milestone: int | None = None


@dataclass(frozen=True)
class FoldScore:
    """Metrics of a fold of a trial that cross-validates.

    Args:
        fold: The fold.
        metrics: Values by name.
        asks: Whether the objective waits for an :class:`Answer`.
    """

    fold: Fold
    metrics: Mapping[str, float]
    asks: bool


@dataclass(frozen=True)
class Artifact:
    """A file in the attempt's folder, to be stored in the run below ``folder``.

    Args:
        path: The file.
        folder: The folder.
        kind: ``table`` for what MLflow's UI shows as one; empty for any other file.
    """

    path: str
    folder: str
    kind: str = ""


@dataclass(frozen=True)
class NotKept:
    """Something that was to be kept of the best trial is missing.

    Args:
        what: What happened.
        reason: Why.
    """

    what: str
    reason: str


@dataclass(frozen=True)
class DatasetUsed:
    """A dataset that the objective has logged."""

    dataset: Dataset


@dataclass(frozen=True)
class Use:
    """Which of the offered inputs the objective used; sent once, when it has returned.

    Args:
        read: Which of ``fidelity``, ``resume_from``, ``phase`` and ``champion`` it read.
        scratch_instead: Why it trained from scratch despite a checkpoint; empty if it did not.
    """

    read: tuple[str, ...] = ()
    scratch_instead: str = ""


@dataclass(frozen=True)
class LoggedByMlflow:
    """What the objective has logged to its run by MLflow itself; sent once, when it has ended.

    Args:
        logged: A :class:`hpo_core.tracking.trial_run.Logged`.
    """

    logged: Logged


# -- from the worker's loop to the flow -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """The objective is imported."""


@dataclass(frozen=True)
class Unloadable:
    """The objective cannot be imported: the parts of an :class:`hpo_core.base.errors.InputError`."""

    field: str
    problem: str
    remedy: str


@dataclass(frozen=True)
class Done:
    """The objective returned metrics, and the study's is among them and finite."""

    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Failed:
    """The attempt returned no value; the fields are those of :class:`hpo_flows.workers.job.TrialFailed`."""

    reason: str
    retry: bool = False
    details: str = ""
    blamed_key: str = ""


@dataclass(frozen=True)
class Ended:
    """The last message about an attempt. Only after it may the worker get another.

    Args:
        outcome: How the attempt ended.
        size: Bytes of memory that the process and its descendants hold.
        left: The changes to the process that could not be undone; empty if there are none.
    """

    outcome: Loaded | Unloadable | Done | Failed
    size: int
    left: str = ""


ToWorker = Preload | Train | Answer
FromObjective = Report | FoldScore | Artifact | NotKept | DatasetUsed | LoggedByMlflow | Use
Message = ToWorker | FromObjective | Ended
