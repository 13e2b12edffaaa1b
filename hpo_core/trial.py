"""A trial, one evaluation of one configuration at one fidelity, and a proposal, what a strategy answers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from hpo_core.configuration import Config, Scalar, identity


class TrialState(StrEnum):
    """The three states of a trial; MLflow calls them RUNNING, FINISHED and FAILED."""

    RUNNING = "running"
    COMPLETE = "complete"
    FAILED = "failed"


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
        fidelity: The fidelity that was asked for; None where a study has none.
        parent: The number of the trial that this one goes on from.
        notes: The tags that its proposal carried.
        reason: Why it failed or was stopped early; empty otherwise.
        run_id: Its MLflow run.
        metrics: Latest values of everything the objective logged, under its own names and in its own direction.
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
    metrics: Mapping[str, float] = field(default_factory=dict)
    start: int = 0
    end: int | None = None
    owner: str = ""

    @cached_property
    def identity(self) -> str:
        """The identity of its configuration; see :func:`hpo_core.configuration.identity`."""
        return identity(self.config)

    @cached_property
    def fingerprint(self) -> int:
        """64 bits over all that a strategy may depend on."""
        facts = (self.number, self.identity, self.state.value, self.loss, self.fidelity, self.parent)
        return int.from_bytes(hashlib.blake2b(repr(facts).encode(), digest_size=8).digest(), "big")
