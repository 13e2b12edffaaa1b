"""What is emitted about a study, and that it stays bounded; the store and Prefect are doubles."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.lineage.opening import open_study
from hpo_flows.loop.prefect_link import Link
from hpo_flows.loop.stages import Stages
from hpo_flows.loop.view import events
from hpo_flows.loop.view.events import A_SECOND, BURST, Allowance, StudyEvents
from hpo_flows.reports.news import News
from tests.memory_store import MemoryStore
from tests.studies import make_spec


class Told:
    """A study without trials, and what is emitted about it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, link: Link | None = None) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []
        monkeypatch.setattr(events, "emit_event", self._take)
        ledger = open_study(MemoryStore(), make_spec())
        self.stages, self.news = Stages(ledger), News()
        self.events = StudyEvents(ledger, link or Link())
        self.news.look(History())
        self.events.started(History())

    def _take(self, event: str, resource: Any, occurred: Any, related: Any, payload: dict[str, Any]) -> None:
        assert resource["prefect.resource.id"] == "hpo.study.study" and related[0]["prefect.resource.role"]
        self.sent.append((event.removeprefix("hpo.study."), payload))

    def look(self, history: History) -> None:
        self.events.look(history, self.news.look(history), self.stages)

    def of(self, event: str) -> list[dict[str, Any]]:
        return [payload for name, payload in self.sent if name == event]


def ended(number: int, loss: float | None, *, run: str = "") -> Trial:
    state = TrialState.FAILED if loss is None else TrialState.COMPLETE
    return Trial(number, {"x": 0.5}, state, loss, run_id=run or f"r{number}", reason="" if loss is not None else "boom")


def test_a_flow_tells_of_its_own_trials_and_incumbents(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch)
    for run in ("r0", "r1", "r3"):
        told.events.own(run)
    trials = [ended(0, 0.5), ended(1, None), ended(2, 0.1), ended(3, 0.05)]  # 2 is another flow's
    for i in range(len(trials)):
        told.look(History(trials[: i + 1]))
    told.events.finished(History(trials), "done", told.stages)
    assert [name for name, _ in told.sent] == [
        *("started", "trial.finished", "incumbent", "trial.finished"),
        *("trial.finished", "incumbent", "finished"),
    ]
    facts = [(each["trial"], each["value"], each["run_id"], each["state"]) for each in told.of("trial.finished")]
    assert facts == [(0, 0.5, "r0", "complete"), (1, None, "r1", "failed"), (3, 0.05, "r3", "complete")]
    assert [each["trial"] for each in told.of("incumbent")] == [0, 3]
    (end,) = told.of("finished")
    assert (end["trial"], end["value"], end["complete"], end["failed"], end["omitted"]) == (3, 0.05, 3, 1, 0)


def test_a_flood_of_trials_is_cut_and_the_last_incumbent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch)
    monkeypatch.setattr(events, "time", SimpleNamespace(monotonic=lambda: 0.0))
    told.events._allowance = Allowance(BURST, A_SECOND, 0.0)
    history = History()
    for number in range(300):
        told.events.own(f"r{number}")
        history = history.with_trials([ended(number, 1.0 / (1 + number))])
        told.look(history)
    assert len(told.sent) <= 1 + BURST
    told.events.finished(history, "done", told.stages)
    assert told.of("incumbent")[-1]["trial"] == 299
    assert told.of("finished")[0]["omitted"] == 300 - len(told.of("trial.finished"))


@given(st.lists(st.floats(0, 50), max_size=50), st.integers(1, 5), st.floats(0.1, 3))
def test_an_allowance_holds_over_any_time(pauses: list[float], burst: int, a_second: float) -> None:
    now, taken = 0.0, 0
    allowance = Allowance(burst, a_second, now)
    for pause in pauses:
        now += pause
        while allowance.take(now):
            taken += 1
        assert taken <= burst + now * a_second + 1e-6


def test_the_end_is_told_by_the_last_flow_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch)
    told.events.finished(History([Trial(0, {"x": 0.5}, TrialState.RUNNING, run_id="r0")]), "done", told.stages)
    assert not told.of("finished")


@pytest.mark.parametrize("link", [Link(lost=True), Link(server=SimpleNamespace())], ids=["lost", "temporary"])  # type: ignore[arg-type]
def test_nothing_is_emitted_where_nobody_listens(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch, link)
    told.events.finished(History(), "done", told.stages)
    assert not told.sent


def test_an_event_that_prefect_refuses_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told(monkeypatch)

    def refuse(*_: Any) -> None:
        raise RuntimeError("too large")

    monkeypatch.setattr(events, "emit_event", refuse)
    told.events.own("r0")
    told.look(History([ended(0, 0.5)]))
