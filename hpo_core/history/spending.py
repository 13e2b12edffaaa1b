"""Says what a study has spent, where its trials have a cost: what they took or what a metric of theirs says."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hpo_core.history.history import History
from hpo_core.history.trial import Trial

SECONDS = "seconds"
"""The cost that is measured: how long a trial trained."""

EXPECTED = "expected_cost"
"""The note of a proposal that says what a model expected it to cost."""

MOST_COST = 1e100
"""Larger costs would overflow as a sum."""


@dataclass(frozen=True)
class Promise:
    """What the best next trial is expected to bring.

    Args:
        gain: By how much it improves on the best one, in units of the metric.
        cost: What it costs.
    """

    gain: float
    cost: float

    @property
    def worth(self) -> float:
        """The gain for each unit of cost."""
        return self.gain / self.cost


def usable(cost: float | None) -> float | None:
    """A cost that was logged, if it can be one: a number above 0; None otherwise.

    >>> usable(2.5), usable(0.0), usable(float("nan"))
    (2.5, None, None)
    """
    return cost if cost is not None and 0 < cost < MOST_COST else None


def expected(trial: Trial, usual: float) -> float:
    """What a running trial is expected to cost: by the note of its proposal, else what is usual."""
    try:
        noted = usable(float(str(trial.notes.get(EXPECTED))))
    except ValueError:
        noted = None
    return usual if noted is None else noted


def spent(history: History) -> float:
    """The sum of all known costs, and of what running trials are expected to cost; 0 if none is known.

    Trials outside a space that was changed since have cost as much. Trials that died with their flow, and whose cost
    nobody recorded, count for nothing.
    """
    known = [trial.cost for trial in history.every if trial.cost is not None]
    usual = math.fsum(known) / len(known) if known else 0.0
    return math.fsum([*known, *(expected(trial, usual) for trial in history.under_way)])


def unit(cost: str) -> tuple[str, float]:
    """What ``stop.worth`` counts costs in, in words, and how much that is: hours where costs are seconds."""
    return ("hour", 3600.0) if cost == SECONDS else ("unit of cost", 1.0)
