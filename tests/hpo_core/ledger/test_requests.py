"""What a trial costs MLflow: requests to a real server, statements to sqlite; the same however long the study is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
import sqlalchemy

from hpo_core.ledger.ledger import Ledger
from hpo_core.lineage.opening import open_study
from hpo_core.tracking import searches
from hpo_core.tracking.connection import connect
from tests.conftest import MlflowServer
from tests.hpo_core.ledger.test_ledger import finish, make_spec

MOST = 4
"""Of a flow that is alone with its study: the trial's run, its claim, its values and its end."""


@contextmanager
def counted_requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every HTTP request of this thread that had a response; one that had to be sent again counts once."""
    sent: list[str] = []
    send, here = requests.adapters.HTTPAdapter.send, threading.get_ident()

    def counting(self, request, **kwargs):  # type: ignore[no-untyped-def]
        answer = send(self, request, **kwargs)
        if threading.get_ident() == here and answer.status_code < 500:
            sent.append(f"{request.method} {request.path_url.split('?')[0]}")
        return answer

    with monkeypatch.context() as patch:
        patch.setattr(requests.adapters.HTTPAdapter, "send", counting)
        yield sent


@contextmanager
def counted_statements() -> Iterator[list[str]]:
    """Every SQL statement of this thread."""
    executed: list[str] = []
    here = threading.get_ident()

    def note(connection, cursor, statement, *rest):  # type: ignore[no-untyped-def]
        if threading.get_ident() == here:
            executed.append(statement)

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "before_cursor_execute", note)
    try:
        yield executed
    finally:
        sqlalchemy.event.remove(sqlalchemy.engine.Engine, "before_cursor_execute", note)


def one_trial(ledger: Ledger) -> None:
    """The loop's round: look, propose, reserve, report."""
    history = ledger.look()
    trial = ledger.reserve(ledger.spec.propose(history, 1)[0], history)
    assert trial is not None
    finish(ledger, trial, 0.5)


def requests_at(ledger: Ledger, number: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    while ledger.look().next_number < number:
        one_trial(ledger)
    ledger.load()  # or the news of the last seconds might be due
    with counted_requests(monkeypatch) as sent:
        one_trial(ledger)
    return sent


def test_a_trial_costs_four_requests_and_no_more_later(
    mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_study(connect(mlflow_server.uri), make_spec(strategy="random"))
    early, late = requests_at(ledger, 10, monkeypatch), requests_at(ledger, 50, monkeypatch)
    assert early == late
    assert 0 < len(early) <= MOST, early


@pytest.mark.slow
def test_a_trial_costs_four_requests_at_trial_one_thousand(
    mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_study(connect(mlflow_server.uri), make_spec(strategy="random", stop={"trials": 2000}))
    early, late = requests_at(ledger, 10, monkeypatch), requests_at(ledger, 1000, monkeypatch)
    assert early == late
    assert 0 < len(early) <= MOST, early


def statements_of_a_trial(ledger: Ledger) -> int:
    with counted_statements() as executed:
        one_trial(ledger)
    return len(executed)


def test_sqlite_gets_no_more_statements_as_the_study_grows(tmp_path: Path) -> None:
    ledger = open_study(connect(f"sqlite:///{tmp_path}/mlflow.db"), make_spec(strategy="random", stop={"trials": 500}))
    counts = {}
    for number in (10, 80):
        while ledger.look().next_number < number:
            one_trial(ledger)
        counts[number] = min(statements_of_a_trial(ledger) for _ in range(3))  # one may have to be repeated
    assert 0 < counts[80] <= counts[10], counts


def test_loading_costs_a_request_a_page(mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(strategy="random")
    ledger = open_study(connect(mlflow_server.uri), spec)
    for _ in range(25):
        one_trial(ledger)
    fresh = open_study(connect(mlflow_server.uri), spec)
    with monkeypatch.context() as patch, counted_requests(monkeypatch) as sent:
        patch.setattr(searches, "PAGE", 10)
        history = fresh.load()
    assert len(sent) == 3, sent
    assert [trial.number for trial in history] == list(range(25))
    with counted_requests(monkeypatch) as sent:
        fresh.load()
    assert len(sent) == 1, sent
