"""Searches a store page by page, whichever client asks for the pages."""

from __future__ import annotations

import base64
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from hpo_core.base.errors import InputError, TrackingRefusal
from hpo_core.ledger.store import RUNNING, Run

PAGE = 1_000

FEW = 100
"""How many runs one filter names; MLflow's parser slows down with the length of the filter."""

OLDEST_FIRST = ["attributes.start_time ASC"]
"""With writers active only an order that new runs extend at the end loses none."""


class Searches(ABC):
    """The operations of :class:`hpo_core.ledger.store.Store` that go through pages; a client provides single pages."""

    @abstractmethod
    def experiments_page(self, token: str | None) -> tuple[list[str], str | None]:
        """The ids of up to :data:`PAGE` active experiments, and the token of the next page; one request."""

    @abstractmethod
    def runs_page(
        self, experiments: Sequence[str], query: str, size: int, token: str | None = None, *, trash: bool = False
    ) -> tuple[list[Run], str | None]:
        """Up to ``size`` runs that match an MLflow filter, oldest first, and the next page's token; one request."""

    def experiments(self) -> list[str]:
        found, token = self.experiments_page(None)
        while token:
            more, token = self.experiments_page(token)
            found += more
        return found

    def search(
        self,
        experiments: Sequence[str],
        tags: Mapping[str, str],
        since: int | None = None,
        *,
        ids: Sequence[str] | None = None,
        ended: int | None = None,
        trash: bool = False,
    ) -> list[Run]:
        terms = _terms(tags)
        if since is not None:
            terms.append(f"attributes.start_time >= {since}")
        if ended is not None:
            terms.append(f"attributes.end_time >= {ended}")
        if trash:
            terms.append(f"attributes.status != '{RUNNING}'")
        if ids is None:
            return self._pages(experiments, " and ".join(terms), trash)
        found: list[Run] = []
        for i in range(0, len(ids), FEW):
            named = ", ".join(f"'{quotable(id)}'" for id in ids[i : i + FEW])
            found += self._pages(experiments, " and ".join([*terms, f"attributes.run_id IN ({named})"]), trash)
        return sorted(found, key=lambda run: run.start)

    def find(self, experiments: Sequence[str], query: str, field: str) -> list[Run]:
        try:
            return self._pages(experiments, query, trash=False)
        except TrackingRefusal as error:
            if error.code != "INVALID_PARAMETER_VALUE":
                raise
            remedy = "write it as for MLflow's search_runs: metrics.accuracy > 0.9 and params.model = 'cnn'"
            raise InputError(field, f"MLflow does not understand the query {query!r} ({error})", remedy) from None

    def _pages(self, experiments: Sequence[str], query: str, trash: bool) -> list[Run]:
        """All runs that match. A page begins where the last one ended, by start time: MLflow's own tokens are offsets,
        for which it sorts all runs before them again, so that the time for all pages grew with the square of the runs.
        """
        found: dict[str, Run] = {}
        since, terms, token = -1, query, None
        while True:
            runs, more = self.runs_page(experiments, terms, PAGE, token, trash=trash)
            found |= {run.id: run for run in runs}
            if not more:
                return list(found.values())
            if runs[-1].start > since:
                since, token = runs[-1].start, None
                terms = " and ".join(filter(None, [query, f"attributes.start_time >= {since}"]))
            else:  # a page of runs that started in one millisecond
                token = more

    def has_exactly(self, count: int, experiments: Sequence[str], tags: Mapping[str, str], before: int) -> bool:
        query = " and ".join([*_terms(tags), f"attributes.start_time < {before}"])
        # MLflow does not count. But its page tokens are offsets, and after `count - 1` runs there must be just one.
        token = page_token(count - 1) if count > 1 else None  # an offset of 0 is refused
        try:
            page, _ = self.runs_page(experiments, query, 2, token)
        except TrackingRefusal:
            return False  # a server whose tokens are something else
        return len(page) == 1


def page_token(offset: int) -> str:
    """The token of the page that begins after a number of runs, as MLflow makes it.

    >>> page_token(200)
    'eyJvZmZzZXQiOiAyMDB9'
    """
    return base64.b64encode(json.dumps({"offset": offset}).encode()).decode()


def _terms(tags: Mapping[str, str]) -> list[str]:
    return [f"tags.`{key}` = '{quotable(value)}'" for key, value in tags.items()]


def quotable(value: str) -> str:
    """A value that can be put in single quotes in a filter; MLflow's filter language cannot escape any."""
    if "'" in value or "\\" in value:
        problem = f"{value!r} has characters that MLflow cannot search for"
        raise InputError("name", problem, "choose one without quotes or backslashes")
    return value
