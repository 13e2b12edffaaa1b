"""Holds what the trainings of this process have reported last, for display while they run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from hpo_core.selection.evaluation import Training


@dataclass(frozen=True)
class Running:
    """A training that runs now.

    Args:
        number: The number of its trial.
        since: When it started, in seconds since 1970.
        kind: What it is evaluated for, as "fold 1 of 5"; empty in the search.
        steps: How many steps it has reported; None if none, or if it runs on another machine.
        metrics: The latest value of each metric.
    """

    number: int
    since: float
    kind: str = ""
    steps: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


class Board:
    """The trainings of this process, by run id. Their threads write to it, and the loop reads it."""

    def __init__(self) -> None:
        self._lock, self._running = threading.Lock(), dict[str, Running]()

    def begin(self, training: Training) -> None:
        """Add a training; a later attempt begins afresh."""
        kind = "" if training.phase == "search" else str(training.kind or "test")
        with self._lock:
            self._running[training.run_id] = Running(training.number, time.time(), kind)

    def note(self, run_id: str, step: int, metrics: Mapping[str, float]) -> None:
        """Note what a training reports; the first step is 0."""
        with self._lock:
            if (known := self._running.get(run_id)) is not None:
                steps = max(known.steps or 0, step + 1)
                self._running[run_id] = replace(known, steps=steps, metrics={**known.metrics, **metrics})

    def end(self, training: Training) -> None:
        with self._lock:
            self._running.pop(training.run_id, None)

    @contextmanager
    def showing(self, training: Training) -> Iterator[None]:
        """Show a training within this context."""
        self.begin(training)
        try:
            yield
        finally:
            self.end(training)

    def shown(self) -> tuple[Running, ...]:
        """All trainings, the longest running first."""
        with self._lock:
            return tuple(sorted(self._running.values(), key=lambda each: (each.since, each.number)))
