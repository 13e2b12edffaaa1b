"""A trial, one evaluation of one configuration at one fidelity, and a proposal, what a strategy answers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Literal

from hpo_core.configuration import Config, Scalar, identity

HYPERGRADIENT = "hypergradient/"
HYPERGRADIENT_NORM = "hypergradient_norm/"
"""What the metrics are called that hold the derivative of the study's metric by a parameter, or the length of it."""

INFINITE = 1e300
"""Numbers beyond it are none: MLflow's databases keep an infinity as the largest float."""


class TrialState(StrEnum):
    """The three states of a trial; MLflow calls them RUNNING, FINISHED and FAILED."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"


Phase = Literal["search", "fold", "test", "seed", "champion"]
"""What an objective is called for: a trial; a fold of the final choice; the winner's score on the test set; one of the
winner's re-trainings that are held against the champion; the champion's own score."""


@dataclass(frozen=True)
class Fold:
    """One part of the development data of ``of`` equal ones, counted from 0."""

    index: int
    of: int

    def __str__(self) -> str:
        return f"fold {self.index + 1} of {self.of}"


@dataclass(frozen=True)
class Repeat:
    """One re-training of the winner, with a seed of its own, counted from 0."""

    index: int

    def __str__(self) -> str:
        return f"seed {self.index + 1}"


@dataclass(frozen=True)
class Reigning:
    """The model that is the champion, by its version in MLflow's registry; it is scored and not trained."""

    version: int

    def __str__(self) -> str:
        return f"champion, version {self.version}"


Part = Fold | Repeat | Reigning
"""What an evaluation outside the search is of; where there is none, it is the winner's test."""


def phase_of(part: Part | None) -> Phase:
    """What an objective is called for where a part is evaluated.

    >>> phase_of(Fold(0, 5)), phase_of(None)
    ('fold', 'test')
    """
    if part is None:
        return "test"
    return "fold" if isinstance(part, Fold) else "seed" if isinstance(part, Repeat) else "champion"


@dataclass(frozen=True)
class Proposal:
    """A configuration to be tried.

    Args:
        config: Values of the active parameters.
        fidelity: How much of the full training to spend; None where a study has no fidelity.
        parent: The number of the trial that this one goes on from: a promotion or a gradient step.
        notes: What the strategy wants to be remembered about the proposal; kept as tags of the trial.
    """

    config: Config
    fidelity: float | None = None
    parent: int | None = None
    notes: Mapping[str, Scalar] = field(default_factory=dict)

    @cached_property
    def identity(self) -> str:
        """The identity of its configuration; see :func:`hpo_core.configuration.identity`."""
        return identity(self.config)


@dataclass(frozen=True)
class Trial:
    """One evaluation of one configuration at one fidelity.

    Args:
        number: Position in the study, from 0 and without gaps.
        config: Values of the active parameters.
        state: Running (also called pending), complete or failed.
        loss: What is minimised, finite; None unless complete.
        fidelity: The fidelity that it was trained to: what was asked for, or where a rule stopped it. None: to the end,
            in a study that has no fidelity.
        parent: The number of the trial that this one goes on from.
        notes: The tags that its proposal carried.
        reason: Why it failed or was stopped early; empty otherwise.
        run_id: Its MLflow run.
        asked: Where a rule stopped it: the fidelity that was asked for, infinite in a study that has none.
        metrics: Latest values of everything the objective logged, under its own names and in its own direction.
        hypergradient: The derivative of the loss by parameters, as far as the objective logged it; finite.
        rungs: Its losses at milestones, by the number of steps; for rules of early stopping alone.
        start, end: Milliseconds since 1970, as MLflow keeps them. For people: no strategy may look at a clock.
        owner: The process that answered for it, as :class:`hpo_core.ledger.Owner` writes it; for people, too.
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
    asked: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    hypergradient: Mapping[str, float] = field(default_factory=dict)
    rungs: Mapping[int, float] = field(default_factory=dict)
    start: int = 0
    end: int | None = None
    owner: str = ""

    @cached_property
    def identity(self) -> str:
        """The identity of its configuration; see :func:`hpo_core.configuration.identity`."""
        return identity(self.config)

    @property
    def aim(self) -> float | None:
        """The fidelity that was asked for; None: to the end."""
        if self.asked is None:
            return self.fidelity
        return None if math.isinf(self.asked) else self.asked

    @property
    def extent(self) -> float:
        """The fidelity that it was trained to, as something to compare by; infinite where it names none."""
        return math.inf if self.fidelity is None else self.fidelity

    @cached_property
    def fingerprint(self) -> int:
        """64 bits over all that a strategy may depend on."""
        facts = [self.number, self.identity, self.state.value, self.loss, self.fidelity, self.parent]
        facts += [] if self.asked is None else [self.asked]
        facts += [sorted(self.hypergradient.items())] if self.hypergradient else []
        return int.from_bytes(hashlib.blake2b(repr(tuple(facts)).encode(), digest_size=8).digest(), "big")


def hypergradient_of(metrics: Mapping[str, float], sign: int) -> dict[str, float]:
    """The derivative of the loss by each parameter, as far as a trial logged a finite one.

    Args:
        metrics: Of the trial, in the study's own direction.
        sign: -1 where the study maximises.

    >>> hypergradient_of({"loss": 1.0, "hypergradient/l2": 0.5, "hypergradient/l1": math.inf}, -1)
    {'l2': -0.5}
    """
    return {
        name.removeprefix(HYPERGRADIENT): sign * value
        for name, value in metrics.items()
        if name.startswith(HYPERGRADIENT) and abs(value) < INFINITE
    }
