"""Defines limits on results: what a trial's other metrics must keep to for its configuration to be feasible."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from hpo_core.base import moments

_LIMIT = re.compile(r"(<=|>=)\s*([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)")


@dataclass(frozen=True)
class Limit:
    """A bound on a metric.

    Args:
        metric: The metric as the objective logs it.
        comparison: ``<=`` or ``>=``.
        bound: The last value that is feasible.
    """

    metric: str
    comparison: str
    bound: float

    @classmethod
    def parse(cls, metric: str, text: str) -> Limit:
        """Read a limit as a study file has it.

        Raises:
            ValueError: It is not a comparison with a finite number.

        >>> Limit.parse("latency_ms", "<= 20")
        Limit(metric='latency_ms', comparison='<=', bound=20.0)
        """
        if (found := _LIMIT.fullmatch(text.strip())) is None or not math.isfinite(bound := float(found[2])):
            raise ValueError(f"{text!r} is not a limit; write <= or >= and a number, such as '<= 20'")
        return cls(metric, found[1], bound)

    def __str__(self) -> str:
        return f"{self.metric} {self.comparison} {self.bound:g}"

    @property
    def _unit(self) -> float:
        return abs(self.bound) if abs(self.bound) > 1e-12 else 1.0

    def excess(self, value: float | None) -> float:
        """How far a value lies beyond the bound, as a share of the bound's size; at most 0 if it keeps the limit.

        The bound itself is the unit, so that the excesses of different limits can be added up; it is 1 for a bound
        that is all but 0.
        A value that was not logged, or is not finite, breaks the limit infinitely.

        >>> limit = Limit("latency_ms", "<=", 20.0)
        >>> limit.excess(25.0), limit.excess(20.0), limit.excess(None)
        (0.25, 0.0, inf)
        """
        if value is None or not math.isfinite(value):
            return math.inf
        beyond = value - self.bound if self.comparison == "<=" else self.bound - value
        return beyond / self._unit

    def value(self, excess: float) -> float:
        """The value of the metric that has an excess."""
        beyond = excess * self._unit
        return self.bound + beyond if self.comparison == "<=" else self.bound - beyond


def contradiction(limits: Iterable[Limit]) -> tuple[Limit, Limit] | None:
    """Two limits that no value keeps both; None if there are none.

    >>> low, high = Limit("ms", "<=", 1.0), Limit("ms", ">=", 5.0)
    >>> contradiction([low, high]) == (low, high), contradiction([low, Limit("ms", ">=", 1.0)])
    (True, None)
    """
    return next((pair for pair in combinations(limits, 2) if _exclude(*pair)), None)


def _exclude(one: Limit, other: Limit) -> bool:
    if one.metric != other.metric or one.comparison == other.comparison:
        return False
    low, high = (one, other) if one.comparison == ">=" else (other, one)
    return low.bound > high.bound


def excesses(limits: Sequence[Limit], metrics: Mapping[str, float]) -> dict[str, float]:
    """The excess of each limited metric, by its name."""
    return {limit.metric: limit.excess(metrics.get(limit.metric)) for limit in limits}


def measured_again(
    limits: Sequence[Limit], excess: Mapping[str, float], trainings: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """The excess of each limited metric after further trainings of a configuration, by the mean over these.

    A metric that none of them logged keeps its excess.

    Args:
        limits: The limits.
        excess: The excesses so far, by metric.
        trainings: The metrics of the further trainings.

    >>> measured_again([Limit("ms", "<=", 20.0)], {"ms": -0.5}, [{"ms": 15.0}, {"ms": 35.0}])
    {'ms': 0.25}
    """
    found = dict(excess)
    for limit in limits:
        beyond = [limit.excess(each[limit.metric]) for each in trainings if limit.metric in each]
        if beyond:
            found[limit.metric] = moments.mean(beyond) if max(beyond) < math.inf else math.inf
    return found


def violation(excess: Mapping[str, float]) -> float:
    """How far a trial breaks its limits in all; 0 if it keeps them.

    >>> violation({"latency_ms": 0.25, "size_mb": -0.5})
    0.25
    """
    return math.fsum(max(each, 0.0) for each in excess.values())
