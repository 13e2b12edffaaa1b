"""Defines a trial (one evaluation of a configuration at a fidelity) and a proposal (what a strategy returns)."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from hpo_core.base.moments import LARGEST
from hpo_core.history import limits
from hpo_core.space.configuration import Config, Scalar, identity

HYPERGRADIENT = "hypergradient/"

HYPERGRADIENT_NORM = "hypergradient_norm/"
"""Prefixes of the metrics that hold the derivative of the study's metric by a parameter, or that derivative's norm."""


REPEAT_OF = "repeat_of"
"""The note of a trial that trains the configuration of an earlier one again: that trial's number."""

PURPOSE, PROBE, CONFIRM = "purpose", "probe", "confirm"
"""Why a configuration is trained again, as the note ``purpose``: to see how noisy the objective is, or to decide."""


class TrialState(StrEnum):
    """The three states of a trial; MLflow calls them RUNNING, FINISHED and FAILED."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"


@dataclass(frozen=True)
class Proposal:
    """A configuration that a strategy wants to try.

    Args:
        config: Values of the active parameters.
        fidelity: How far to train; None if the study has no fidelity.
        parent: The number of the trial that this one continues, for a promotion or a gradient step.
        notes: What the strategy wants to record about the proposal; stored as tags of the trial.
    """

    config: Config
    fidelity: float | None = None
    parent: int | None = None
    notes: Mapping[str, Scalar] = field(default_factory=dict)

    @cached_property
    def identity(self) -> str:
        """The identity of its configuration; see :func:`hpo_core.space.configuration.identity`."""
        return identity(self.config)


@dataclass(frozen=True)
class Trial:
    """One evaluation of one configuration at one fidelity.

    Args:
        number: Position in the study, from 0; assigned without gaps.
        config: Values of the active parameters.
        state: Running (also called pending), complete or failed.
        loss: The value that is minimised, finite; None unless complete. With several objectives, the first one's.
        fidelity: The fidelity it was trained to: the requested one, or where a rule stopped it. None means to the end,
            in a study without a fidelity.
        parent: The number of the trial that this one continues.
        notes: The notes of its proposal, stored as tags.
        reason: Why it failed or was stopped early; empty otherwise.
        run_id: Its MLflow run.
        stopped_early: Whether a rule stopped it at ``fidelity``.
        requested_fidelity: The fidelity its proposal asked for; None means to the end. It equals ``fidelity`` and may
            be omitted unless the trial was stopped early.
        metrics: The latest value of each metric that the objective logged, under its own name and direction.
        hypergradient: The derivative of the loss by each parameter, if the objective logged it; finite.
        rungs: Its losses at milestones, by number of steps; only early-stopping rules use them.
        excess: How far it is beyond each limit of the study, by metric, as
            :meth:`hpo_core.history.limits.Limit.excess` says.
        cost: What it cost, above 0; None if the study asks for no cost, or it is not known (yet).
        folds: The losses of its folds, in order, if the objective cross-validates in each trial.
        folds_wanted: How many folds a trial has that is not ended before the last one; 0 if it has none.
        start, end: Milliseconds since 1970, as stored by MLflow. For display only: no strategy may look at a clock.
        owner: The process responsible for it, as :class:`hpo_core.ledger.ownership.Owner` writes it; for display only.
        observed: The losses of all trainings of its configuration, its own first, if there are several; ``loss`` is
            then their mean. Only the trials of :attr:`hpo_core.history.history.History.merged` have it.
        confirmed: Whether some of these were made to confirm the configuration.
        losses: With several objectives, the loss in each, finite; empty with one, and unless complete.
        edition: The edition of the space that it was proposed in; empty in the first one.
        outside: Why its configuration is not in the study's space as that is now, by parameter or constraint; empty if
            it is. No strategy sees a trial outside.
    """

    number: int
    config: Config
    state: TrialState
    loss: float | None = None
    fidelity: float | None = None
    parent: int | None = None
    notes: Mapping[str, Scalar] = field(default_factory=dict)
    reason: str = ""
    run_id: str = ""
    stopped_early: bool = False
    requested_fidelity: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    hypergradient: Mapping[str, float] = field(default_factory=dict)
    rungs: Mapping[int, float] = field(default_factory=dict)
    excess: Mapping[str, float] = field(default_factory=dict)
    cost: float | None = None
    folds: tuple[float, ...] = ()
    folds_wanted: int = 0
    start: int = 0
    end: int | None = None
    owner: str = ""
    observed: tuple[float, ...] = ()
    confirmed: bool = False
    losses: tuple[float, ...] = ()
    edition: str = ""
    outside: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def repeat_of(self) -> int | None:
        """The number of the trial whose configuration it trains again; None if the configuration is its own."""
        noted = str(self.notes.get(REPEAT_OF, ""))  # of a tag, and so of anybody's making
        return int(noted) if re.fullmatch(r"[0-9]{1,6}", noted) and int(noted) < self.number else None

    @property
    def confirms(self) -> bool:
        """Whether it trains a configuration again in order to decide which one is best."""
        return self.repeat_of is not None and self.notes.get(PURPOSE) == CONFIRM

    @property
    def lost(self) -> bool:
        """Whether it died or was stopped with its flow, so that its configuration is not to blame."""
        return bool(self.notes.get("lost"))

    @property
    def resumed(self) -> int | None:
        """The number of the trial from whose checkpoint it goes on: it said so, or it runs and has not said yet."""
        said = str(self.notes.get("continued", ""))
        resumes = said.startswith("yes") or (not said and self.state is TrialState.RUNNING)
        return self.parent if resumes else None

    @cached_property
    def violation(self) -> float:
        """How far it breaks the study's limits in all; 0 if it keeps them, or if there are none."""
        return limits.violation(self.excess)

    @property
    def feasible(self) -> bool:
        """Whether it keeps the study's limits."""
        return self.violation == 0

    @property
    def outcome(self) -> tuple[float, ...]:
        """The losses of a complete trial, one for each objective."""
        assert self.loss is not None
        return self.losses or (self.loss,)

    @property
    def standing(self) -> tuple[float, bool, float, int]:
        """A sort key for complete trials of one fidelity, best first.

        What keeps the limits comes before what breaks them by less, then by more; then what was confirmed, since any
        other loss is one draw; then the lower loss, and the earlier trial. With several objectives it says nothing
        beyond the limits: :mod:`hpo_core.history.front` orders such trials.
        """
        assert self.loss is not None
        return self.violation, not self.confirmed, self.loss, self.number

    @property
    def observations(self) -> int:
        """How many trainings ``loss`` is the mean of."""
        return len(self.observed) or 1

    @property
    def whole(self) -> bool:
        """Whether ``loss`` is that of all its folds; a trial that has no folds is whole, too."""
        return not 0 < len(self.folds) < self.folds_wanted

    @property
    def weight(self) -> float:
        """How much its loss tells, in trainings with all folds: the variance of the loss is the noise's over this."""
        return float(self.observations) if self.whole else len(self.folds) / self.folds_wanted

    @property
    def origin(self) -> str:
        """The strategy that picked the configuration, and why, in words."""
        notes = self.notes
        strategy = str(notes.get("strategy", "an unknown strategy"))
        if strategy == "retry":
            attempt = str(notes.get("attempt", "0"))
            counted = "was interrupted" if attempt == "0" else f"was lost (attempt {attempt})"
            return f"trial {notes.get('retry_of')} again, which {counted}"
        if self.repeat_of is not None:
            why = "to confirm it" if self.confirms else "to see how noisy the objective is"
            return f"trial {self.repeat_of} again, {why}"
        if strategy == "first":
            return "given by the study file (first)"
        if strategy == "enqueued":
            return "given by hand (hpo enqueue)"
        picked = f"{strategy}, which picked {notes['picked']}" if "picked" in notes else strategy
        if "why" in notes:
            return f"{picked}: {notes['why']}"
        if "warm_start" in notes:
            return f"{picked}: among the best of the past: {notes['warm_start']}"
        return f"{picked}: of its candidates it promised most" if "acquisition" in notes else f"{picked}: by no model"

    @property
    def proposed(self) -> str:
        """The origin as a sentence, without its full stop."""
        given = self.repeat_of is not None or self.notes.get("strategy") in ("retry", "first", "enqueued")
        return f"{self.origin[0].upper()}{self.origin[1:]}" if given else f"Proposed by {self.origin}"

    @cached_property
    def identity(self) -> str:
        """The identity of its configuration; see :func:`hpo_core.space.configuration.identity`."""
        return identity(self.config)

    def __post_init__(self) -> None:
        if not self.stopped_early:
            object.__setattr__(self, "requested_fidelity", self.fidelity)

    @cached_property
    def fingerprint(self) -> int:
        """64 bits over all that a strategy may depend on."""
        facts = [self.number, self.identity, self.state.value, self.loss, self.fidelity, self.parent]
        facts += [fidelity_key(self.requested_fidelity)] if self.stopped_early else []
        facts += [sorted(self.hypergradient.items())] if self.hypergradient else []
        facts += [self.observed, self.confirmed] if self.observed else []
        facts += [self.folds, self.folds_wanted] if self.folds else []
        facts += [sorted(self.excess.items())] if self.excess else []
        facts += [("cost", self.cost)] if self.cost is not None else []
        facts += [self.losses] if self.losses else []
        return int.from_bytes(hashlib.blake2b(repr(tuple(facts)).encode(), digest_size=8).digest(), "big")


def fidelity_key(fidelity: float | None) -> float:
    """A sort key for fidelities: None, which means trained to the end, ranks above all others.

    >>> sorted([None, 3.0, 1.0], key=fidelity_key)
    [1.0, 3.0, None]
    """
    return math.inf if fidelity is None else fidelity


def hypergradient_of(metrics: Mapping[str, float], sign: int) -> dict[str, float]:
    """The derivative of the loss by each parameter for which a trial logged a finite one.

    Args:
        metrics: The metrics of the trial, in the study's own direction.
        sign: -1 if the study maximises, else 1.

    >>> hypergradient_of({"loss": 1.0, "hypergradient/l2": 0.5, "hypergradient/l1": math.inf}, -1)
    {'l2': -0.5}
    """
    return {
        name.removeprefix(HYPERGRADIENT): sign * value
        for name, value in metrics.items()
        if name.startswith(HYPERGRADIENT) and abs(value) < LARGEST
    }
