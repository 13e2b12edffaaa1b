"""A long search goes from page to page without MLflow reading again what is before the page."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo_core.ledger.store import Run
from hpo_core.tracking import searches
from hpo_core.tracking.searches import Searches, page_token


class Server(Searches):
    """Runs as MLflow gives them: oldest first, tokens that are offsets, filters by start time."""

    def __init__(self, starts: Sequence[int]) -> None:
        self.runs = sorted(
            (Run(f"r{i}", "1", "", "FINISHED", at) for i, at in enumerate(starts)), key=lambda r: r.start
        )
        self.skipped = self.requests = 0

    def experiments_page(self, token: str | None) -> tuple[list[str], str | None]:
        return ["1"], None

    def runs_page(
        self, experiments: Sequence[str], query: str, size: int, token: str | None = None, *, trash: bool = False
    ) -> tuple[list[Run], str | None]:
        self.requests += 1
        bounds = [int(text) for text in re.findall(r"start_time >= (-?\d+)", query)]
        found = [run for run in self.runs if all(run.start >= bound for bound in bounds)]
        offset = json.loads(b64decode(token))["offset"] if token else 0
        self.skipped += offset
        return found[offset : offset + size], page_token(offset + size) if offset + size < len(found) else None


@given(st.lists(st.integers(0, 12), max_size=40), st.integers(1, 8), st.none() | st.integers(0, 12))
def test_a_search_finds_every_run_once_whatever_the_pages(starts: list[int], size: int, since: int | None) -> None:
    server = Server(starts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searches, "PAGE", size)
        found = server.search(["1"], {}, since)
    assert found == [run for run in server.runs if since is None or run.start >= since]


def test_no_page_is_found_by_an_offset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searches, "PAGE", 10)
    server = Server(range(1_000))
    assert len(server.search(["1"], {"hpo.role": "trial"})) == 1_000
    assert server.skipped == 0
    assert server.requests <= 1_000 / 9 + 1, "a page shares one run with the next"
