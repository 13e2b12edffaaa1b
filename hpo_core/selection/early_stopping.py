"""Decides when to stop a running trial: rules that are pure functions of the history and the trial's own curve.

A rule is evaluated at milestones: numbers of steps, usually further and further apart. A rule that compares trials
finds the others' losses at the same milestone in :attr:`hpo_core.history.trial.Trial.rungs`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Protocol

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from hpo_core.base.errors import InputError
from hpo_core.base.settings import STRICT, Count, make_settings, near_or_known
from hpo_core.history.history import History
from hpo_core.history.trial import Trial
from hpo_core.numerics.learning_curve import chance_of_beating
from hpo_core.selection.milestones import Milestones

Curve = Mapping[int, float]
"""The trial's own losses by number of steps, in order; finite."""


class StopRule(Protocol):
    """A strict frozen dataclass of settings (:mod:`hpo_core.base.settings`), with one pure function."""

    name: ClassVar[str]
    compares: ClassVar[bool]
    """Whether the rule needs other trials' losses at the same milestone, which MLflow must then store."""
    final: ClassVar[bool]
    """Whether a trial it stops would not have improved, so that its loss counts as that of a full training."""

    @property
    def milestones(self) -> Milestones:
        """When the rule is evaluated."""
        ...

    def verdict(self, history: History, trial: Trial, curve: Curve, milestone: int) -> str:
        """Why the trial should stop; empty if it should continue.

        Args:
            history: All trials, with their losses at milestones.
            trial: The trial to judge.
            curve: Its losses so far.
            milestone: The milestone it has reached.
        """
        ...


def _others(history: History, trial: Trial, milestone: int) -> list[float]:
    return [other.rungs[milestone] for other in history if other.number != trial.number and milestone in other.rungs]


def _latest(curve: Curve) -> float:
    return curve[max(curve)]


@dataclass(frozen=True, config=STRICT)
class Geometric:
    """Milestones spaced by a constant factor.

    Args:
        first: The first milestone, in steps; during the first few steps, many networks are still almost untrained.
        eta: The factor between two milestones.
        every: The number of steps between two milestones, instead of a factor.
    """

    first: Count = 5
    eta: Annotated[float, Field(ge=1.1, le=1e6)] = 3
    every: Count | None = None

    @property
    def milestones(self) -> Milestones:
        return Milestones(self.first, self.eta, self.every)


@dataclass(frozen=True, config=STRICT)
class Median(Geometric):
    """Stop a trial whose loss at a milestone is above the median of the other trials.

    Golovin et al. (2017), section 3.2.1, doi:10.1145/3097983.3098043, with the loss itself instead of its average so
    far.

    Args:
        trials: The least number of other trials at the milestone; with fewer, the trial continues.
    """

    name: ClassVar[str] = "median"
    compares: ClassVar[bool] = True
    final: ClassVar[bool] = False
    trials: Count = 5

    def verdict(self, history: History, trial: Trial, curve: Curve, milestone: int) -> str:
        others = _others(history, trial, milestone)
        if len(others) < self.trials or _latest(curve) <= float(np.median(others)):
            return ""
        return f"worse than the median of {len(others)} trials"


@dataclass(frozen=True, config=STRICT)
class AshaStop(Geometric):
    """Stop a trial that is not among the best ``1 / eta`` at a milestone.

    This is the stopping variant of ASHA (Li et al. 2020, arXiv:1810.05934) as in Klein et al. (2020, arXiv:2003.10865).
    The first trials continue, because there is nothing to compare them with, and the best one always continues.
    """

    name: ClassVar[str] = "asha_stop"
    compares: ClassVar[bool] = True
    final: ClassVar[bool] = False

    def verdict(self, history: History, trial: Trial, curve: Curve, milestone: int) -> str:
        others, loss = _others(history, trial, milestone), _latest(curve)
        if len(others) + 1 < self.eta:
            return ""
        most = int((len(others) + 1) / self.eta)
        rank = sum(other < loss for other in others) + 1
        return f"{rank} of {len(others) + 1}, not among the best {most}" if rank > most else ""


@dataclass(frozen=True, config=STRICT)
class Plateau:
    """Stop a trial whose loss has not fallen for some steps.

    Args:
        patience: How many steps without an improvement stop the trial.
        delta: A loss counts as an improvement only if it is lower by more than this.
    """

    name: ClassVar[str] = "plateau"
    compares: ClassVar[bool] = False
    final: ClassVar[bool] = True
    patience: Count = 10
    delta: Annotated[float, Field(ge=0)] = 0.0

    @property
    def milestones(self) -> Milestones:
        return Milestones(self.patience + 1, every=1)

    def verdict(self, history: History, trial: Trial, curve: Curve, milestone: int) -> str:
        best, since = math.inf, 0
        for step, loss in curve.items():
            if loss < best - self.delta:
                best, since = loss, step
        waited = max(curve) - since
        return f"no better for {waited} steps" if waited >= self.patience else ""


@dataclass(frozen=True, config=STRICT)
class Extrapolation(Geometric):
    """Stop a trial whose curve has almost no chance of ending below the incumbent's loss.

    Args:
        chance: The chance below which the trial stops.
        steps: The number of steps of a full training; required if the study has no fidelity.
    """

    name: ClassVar[str] = "extrapolation"
    compares: ClassVar[bool] = False
    final: ClassVar[bool] = False
    eta: Annotated[float, Field(ge=1.1, le=1e6)] = 1.5
    chance: Annotated[float, Field(ge=0, le=1)] = 0.05
    steps: Count | None = None

    def verdict(self, history: History, trial: Trial, curve: Curve, milestone: int) -> str:
        best = history.incumbent
        if best is None or best.loss is None:
            return ""
        ends = [end for end in (trial.fidelity, best.fidelity, self.steps) if end is not None]
        horizon = float(max(ends, default=0.0))
        if horizon <= max(curve):
            return ""
        steps, losses = np.array([*curve], dtype=float), np.array([*curve.values()])
        chance = chance_of_beating(steps, losses, horizon, best.loss)
        return f"a chance of {chance:.1%} to beat trial {best.number}" if chance < self.chance else ""


RULES: dict[str, type[StopRule]] = {
    "asha_stop": AshaStop,
    "extrapolation": Extrapolation,
    "median": Median,
    "plateau": Plateau,
}


def make_rule(name: str, settings: Mapping[str, Any]) -> StopRule:
    """Create a rule from its name and settings.

    Raises:
        InputError: The rule or a setting does not exist, or a setting has an invalid value.

    >>> make_rule("median", {"first": 2}).milestones.last(7)
    6
    """
    if name not in RULES:
        raise InputError("early_stop.rule", f"{name!r} is not a rule", near_or_known(name, RULES))
    return make_settings(RULES[name], settings, name=name, field="early_stop")
