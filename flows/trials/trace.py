"""Tracks what the attempts at a trial have written to its run, so that the last attempt's values win in MLflow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hpo_core.ledger.ownership import now_ms
from hpo_core.ledger.store import Metric
from hpo_flows.workers.output import Printed


@dataclass
class Trace:
    """What the attempts at a trial have left in its run.

    MLflow's latest value of a metric is the one with the highest step, then the latest time, then the larger value. It
    may thus come from an attempt that died, or from the first of two reports within a millisecond.
    """

    steps: dict[str, int] = field(default_factory=dict)
    """The highest step of each metric."""
    time: int = 0
    seconds: float = 0.0
    """How long the attempts trained."""
    printed: Printed = field(default_factory=Printed)
    """The output of earlier attempts, each under its own heading."""

    def tick(self) -> int:
        """The time in milliseconds since the epoch; every call returns a later one than the last."""
        self.time = max(now_ms(), self.time + 1)
        return self.time

    def note(self, metrics: Iterable[Metric]) -> None:
        """Remember metrics that may be in the run from now on, even if the write seems to fail."""
        for metric in metrics:
            self.steps[metric.key] = max(self.steps.get(metric.key, 0), metric.step)
