"""The runs of a study as one flow knows them, with what the ledger asks again and again answered without a pass."""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

from hpo_core.store import RUNNING, Run


def whole(text: str, digits: int) -> int | None:
    """A number as the ledger writes it; None for anything else.

    ``str.isdigit`` and ``int`` take digits of every script, and a tag may hold thousands of them.
    """
    return int(text) if re.fullmatch(rf"0|[1-9][0-9]{{0,{digits - 1}}}", text) else None


def number_of(run: Run) -> int | None:
    """The trial number that a run bears, whether or not it holds the claim on it; None if it is no trial's."""
    # A number beyond a million is nobody's: taken at its word, it would make every number below it one to be sought.
    return whole(run.tags.get("hpo.number", ""), 6) if run.tags.get("hpo.role") == "trial" else None


class KnownRuns:
    """Runs by id. Putting, dropping and asking cost the same however many there are.

    Attributes:
        open: The ids of the runs that are not known to have ended.
        highest: The highest trial number that any run bears; -1 if none does.
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
        """Add a run or replace what was known of it; False if nothing about it is new."""
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
        """Forget a run; answers what was known of it."""
        run = self._runs.pop(id)
        self.open.discard(id)
        del self._starts[bisect_left(self._starts, (run.start, id))]
        if number_of(run) == self.highest:
            self.highest = max((n for other in self if (n := number_of(other)) is not None), default=-1)
        return run

    @property
    def newest(self) -> int:
        """When the last of the runs started; 0 if there is none."""
        return self._starts[-1][0] if self._starts else 0

    def before(self, start: int) -> int:
        """How many of the runs started before this time."""
        return bisect_left(self._starts, (start, ""))

    def since(self, start: int) -> list[Run]:
        """The runs that started at this time or later, oldest first."""
        return [self._runs[id] for _, id in self._starts[self.before(start) :]]
