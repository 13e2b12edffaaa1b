"""When to stop a trial that runs: rules that are pure functions of the history and of the trial's own curve.

A rule is asked at milestones, counts of steps that lie ever further apart. A rule that compares trials finds the
others' losses at the same milestone in :attr:`hpo_core.trial.Trial.rungs`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, ClassVar, Protocol

import numpy as np

from hpo_core.curves import chance_of_beating
from hpo_core.errors import InputError
from hpo_core.history import History
from hpo_core.milestones import Milestones
from hpo_core.trial import Trial

Curve = Mapping[int, float]
"""The trial's own losses by count of steps, in order; finite."""


class StopRule(Protocol):
    """Settings in a frozen dataclass, and one pure function."""

    name: ClassVar[str]
    compares: ClassVar[bool]
    """Whether it looks at the losses of other trials at the same milestone, so that each has to be kept in MLflow."""
    final: ClassVar[bool]
    """Whether a trial that it stops would not have become better, so that its loss is that of a full training."""

    @property
    def milestones(self) -> Milestones:
        """When it is asked."""
        ...

    def verdict(self, history: History, trial: Trial, curve: Curve, milestone: int) -> str:
        """Why the trial is to stop; empty if it is to go on.

        Args:
            history: All trials, with their losses at milestones.
            trial: The one that is judged.
            curve: Its losses up to now.
            milestone: The milestone that it has reached.
        """
        ...


def _others(history: History, trial: Trial, milestone: int) -> list[float]:
    return [other.rungs[milestone] for other in history if other.number != trial.number and milestone in other.rungs]


def _latest(curve: Curve) -> float:
    return curve[max(curve)]


@dataclass(frozen=True)
class Geometric:
    """Milestones that lie apart by a factor.

    Args:
        first: The first milestone, in steps; at the very first many networks are as good as untrained.
        eta: The factor.
        every: So many steps between two milestones instead.
    """

    first: int = 5
    eta: float = 3
    every: int | None = None

    def __post_init__(self) -> None:
        for field in ("first", "every"):
            value = getattr(self, field)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{field}: {value!r} is not a whole number from 1")
        _check_number("eta", self.eta, 1.1, 1e6)

    @property
    def milestones(self) -> Milestones:
        return Milestones(self.first, self.eta, self.every)


@dataclass(frozen=True)
class Median(Geometric):
    """Stop a trial whose loss at a milestone is above the median of the others' there (Golovin et al. 2017, section
    3.2.1, doi:10.1145/3097983.3098043, with the loss itself in place of the average up to there).

    Args:
        trials: With fewer others at a milestone, a trial goes on.
    """

    name: ClassVar[str] = "median"
    compares: ClassVar[bool] = True
    final: ClassVar[bool] = False
    trials: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_number("trials", self.trials, 1, math.inf)

    def verdict(self, history: History, trial: Trial, curve: Curve, milestone: int) -> str:
        others = _others(history, trial, milestone)
        if len(others) < self.trials or _latest(curve) <= float(np.median(others)):
            return ""
        return f"worse than the median of {len(others)} trials"


@dataclass(frozen=True)
class AshaStop(Geometric):
    """Stop a trial that is not among the best ``1 / eta`` at a milestone (the stopping variant of ASHA: Li et al. 2020,
    arXiv:1810.05934, as in Klein et al. 2020, arXiv:2003.10865).

    The first trials go on, as there is nothing to compare them with; and so does the best one, always.
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


@dataclass(frozen=True)
class Plateau:
    """Stop a trial whose loss has not fallen for some steps.

    Args:
        patience: For how many steps.
        delta: A loss has to be lower by more than this to count.
    """

    name: ClassVar[str] = "plateau"
    compares: ClassVar[bool] = False
    final: ClassVar[bool] = True
    patience: int = 10
    delta: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.patience, bool) or not isinstance(self.patience, int) or self.patience < 1:
            raise ValueError(f"patience: {self.patience!r} is not a whole number from 1")
        _check_number("delta", self.delta, 0, math.inf)

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


@dataclass(frozen=True)
class Extrapolation(Geometric):
    """Stop a trial whose curve has next to no chance of ending below the incumbent's loss.

    Args:
        chance: The chance below which it stops.
        steps: How many steps a full training has; needed where the study has no fidelity.
    """

    name: ClassVar[str] = "extrapolation"
    compares: ClassVar[bool] = False
    final: ClassVar[bool] = False
    eta: float = 1.5
    chance: float = 0.05
    steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_number("chance", self.chance, 0, 1)
        if self.steps is not None:
            _check_number("steps", self.steps, 1, math.inf)

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
    """The rule of a name with the given settings.

    Raises:
        InputError: There is no such rule or setting, or a setting has a value that it cannot have.

    >>> make_rule("median", {"first": 2}).milestones.last(7)
    6
    """
    if name not in RULES:
        near = get_close_matches(name, RULES, 1)
        remedy = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(RULES)}"
        raise InputError("early_stop.rule", f"{name!r} is no rule", remedy)
    cls: Any = RULES[name]
    known = [field.name for field in fields(cls)]
    for key in settings:
        if key not in known:
            raise InputError(f"early_stop.{key}", f"{name!r} has no setting {key!r}", f"it has {', '.join(known)}")
    try:
        rule: StopRule = cls(**settings)
    except (TypeError, ValueError) as error:
        raise InputError("early_stop", f"{name!r}: {error}", "correct the setting") from None
    return rule


def _check_number(field: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{field}: {value!r} is not a number from {low:g}" + (f" to {high:g}" if high < 1e6 else ""))
