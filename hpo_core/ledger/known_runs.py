"""Caches the runs of a study that one flow knows, indexed so that the ledger's frequent queries need no full scan.

Also follows what this flow itself writes to the runs it trains, so that their outcomes need not be read.
"""

from __future__ import annotations

import math
import sys
import threading
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hpo_core.ledger.store import RUNNING, Metric, Run
from hpo_core.ledger.tags import Tag, parse_count


def number_of(run: Run) -> int | None:
    """The trial number in a run's tags, whether or not it holds the claim; None if the run is not a trial."""
    # Reject numbers of more than six digits: a bogus tag would make the reader look for every number below it.
    return parse_count(run.tags.get(Tag.NUMBER, ""), 6) if run.tags.get(Tag.ROLE) == "trial" else None


class KnownRuns:
    """Runs by id. Lookups and updates stay cheap however many runs there are.

    Attributes:
        open: The ids of the runs not known to have ended.
    """

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._runs: dict[str, Run] = {}
        self._starts: list[tuple[int, str]] = []
        self.open: set[str] = set()
        self._highest: int | None = -1
        for run in sorted(runs, key=lambda run: (run.start, run.id)):
            self.put(run)

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs.values())

    def __contains__(self, id: object) -> bool:
        return id in self._runs

    def __getitem__(self, id: str) -> Run:
        return self._runs[id]

    def put(self, run: Run) -> bool:
        """Add or update a run; False if nothing changed."""
        known = self._runs.get(run.id)
        if known == run:
            return False
        if known is not None and known.start != run.start:
            self.drop(run.id)
        if run.id not in self._runs:
            insort(self._starts, (run.start, run.id))
        self._runs[run.id] = run
        (self.open.add if run.status == RUNNING else self.open.discard)(run.id)
        if self._highest is not None and (number := number_of(run)) is not None:
            self._highest = max(self._highest, number)
        return True

    def drop(self, id: str) -> Run:
        """Remove a run and return what was known of it."""
        run = self._runs.pop(id)
        self.open.discard(id)
        del self._starts[bisect_left(self._starts, (run.start, id))]
        if number_of(run) == self._highest:
            self._highest = None
        return run

    @property
    def highest(self) -> int:
        """The highest trial number of any run; -1 if there is none."""
        if self._highest is None:  # found only when asked for: thousands of runs may be dropped, the newest first
            self._highest = max((n for other in self if (n := number_of(other)) is not None), default=-1)
        return self._highest

    @property
    def newest(self) -> int:
        """Start time of the newest run, in milliseconds since 1970; 0 if there is none."""
        return self._starts[-1][0] if self._starts else 0

    def before(self, start: int) -> int:
        """How many of the runs started before this time."""
        return bisect_left(self._starts, (start, ""))

    def since(self, start: int) -> list[Run]:
        """The runs that started at this time or later, oldest first."""
        return [self._runs[id] for _, id in self._starts[self.before(start) :]]


Order = tuple[int, int, float]
"""What makes one value of a metric the latest: its step, its time, and the value itself, with NaN as the least."""


@dataclass
class _Own:
    run: Run
    orders: dict[str, Order] = field(default_factory=dict)

    def add(
        self, metrics: Sequence[Metric], params: Mapping[str, str], tags: Mapping[str, str], status: str, now: int
    ) -> None:
        latest = dict(self.run.metrics)
        for metric in metrics:
            value = float(metric.value)
            value = math.copysign(sys.float_info.max, value) if math.isinf(value) else value  # which MLflow does
            order = (metric.step, metric.timestamp, -math.inf if math.isnan(value) else value)
            if order >= self.orders.get(metric.key, order):
                self.orders[metric.key], latest[metric.key] = order, value
        run = self.run
        self.run = replace(
            run,
            metrics=latest,
            params={**run.params, **params},
            tags={**run.tags, **tags},
            status=status,
            end=None if status == RUNNING else now,
        )


class OwnRuns:
    """The runs that this flow trains, as MLflow has them after each of its writes. Safe for several threads."""

    def __init__(self) -> None:
        self._runs: dict[str, _Own] = {}
        self._lock = threading.Lock()

    def begin(self, run: Run) -> None:
        """Follow a run that this flow has just created, and that nobody else writes to."""
        with self._lock:
            self._runs[run.id] = _Own(run)

    def forget(self, id: str) -> None:
        """Follow a run no longer, since what this flow writes to it is not all that MLflow has."""
        with self._lock:
            self._runs.pop(id, None)

    def note(
        self,
        id: str,
        metrics: Sequence[Metric],
        params: Mapping[str, str],
        tags: Mapping[str, str],
        status: str,
        now: int,
    ) -> None:
        """Note what MLflow has taken. Nothing happens if the run is not followed."""
        with self._lock:
            if (own := self._runs.get(id)) is not None:
                own.add(metrics, params, tags, status, now)

    def take_ended(self) -> list[Run]:
        """The runs that have ended since the last call, which are followed no longer."""
        with self._lock:
            ended = [own.run for own in self._runs.values() if own.run.status != RUNNING]
            for run in ended:
                del self._runs[run.id]
            return ended
