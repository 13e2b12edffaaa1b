"""Caches the runs of a study that one flow knows, indexed so that the ledger's frequent queries need no full scan."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from hpo_core.ledger.store import RUNNING, Run
from hpo_core.ledger.tags import Tag, parse_count


def number_of(run: Run) -> int | None:
    """The trial number in a run's tags, whether or not it holds the claim; None if the run is not a trial."""
    # Reject numbers of more than six digits: a bogus tag would make the reader look for every number below it.
    return parse_count(run.tags.get(Tag.NUMBER, ""), 6) if run.tags.get(Tag.ROLE) == "trial" else None


class KnownRuns:
    """Runs by id. Lookups and updates stay cheap however many runs there are.

    Attributes:
        open: The ids of the runs not known to have ended.
        highest: The highest trial number of any run; -1 if there is none.
    """

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._runs: dict[str, Run] = {}
        self._starts: list[tuple[int, str]] = []
        self.open: set[str] = set()
        self.highest = -1
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
        self.highest = max(self.highest, -1 if (number := number_of(run)) is None else number)
        return True

    def drop(self, id: str) -> Run:
        """Remove a run and return what was known of it."""
        run = self._runs.pop(id)
        self.open.discard(id)
        del self._starts[bisect_left(self._starts, (run.start, id))]
        if number_of(run) == self.highest:
            self.highest = max((n for other in self if (n := number_of(other)) is not None), default=-1)
        return run

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
