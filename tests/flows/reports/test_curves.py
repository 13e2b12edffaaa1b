"""The learning curves of a study, as the report reads them from MLflow."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo_core.base.errors import TrackingRefusal
from hpo_core.ledger.ledger import Ledger, Report
from hpo_core.ledger.store import FINISHED, Metric
from hpo_core.ledger.tags import Tag
from hpo_core.lineage.opening import open_study
from hpo_flows.reports.html import curves
from hpo_flows.reports.html.curves import MOST_POINTS, CurveReader, curve_of
from tests.hpo_core.ledger.test_ledger import make_spec, reserve
from tests.memory_store import MemoryStore

VALUES = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=8)


@given(attempts=st.lists(VALUES, min_size=1, max_size=3))
def test_a_curve_is_that_of_the_last_attempt(attempts: list[list[float]]) -> None:
    points, time = [], 0
    for values in attempts:
        for step, value in enumerate(values):
            points.append(Metric("loss", value, time := time + 1, step))
    highest = max(len(values) for values in attempts) - 1
    points.append(Metric("loss", attempts[-1][-1], time + 1, highest))  # where the recorder writes the result
    curve, last = list(curve_of(points)), list(enumerate(attempts[-1]))
    assert curve[: len(last)] == last
    assert len(curve) == len(last) or curve[len(last) :] == [(len(last), attempts[-1][-1])], "a step late at most"


def study_with(store: MemoryStore, **logged: list[float]) -> Ledger:
    """A study of three trials, of which each logged these values of these metrics before its score."""
    ledger = open_study(store, make_spec(strategy="random"))
    for number in range(3):
        trial = reserve(ledger)
        for name, values in logged.items():
            store.log(trial.run_id, [Metric(name, value, 1 + i, i) for i, value in enumerate(values)], {}, {})
        last = max(map(len, logged.values())) - 1
        result = Report(
            trial.run_id, [Metric("score", 0.1 * number, 10_000, last)], {}, {Tag.RESULT: "score"}, FINISHED
        )
        ledger.write(result)
        ledger.release(trial)
    return ledger


def test_the_curves_are_those_of_the_studys_metric_or_of_one_that_has_some() -> None:
    for logged, metric in (
        ({"score": [0.3, 0.2, math.nan], "loss": [1.0] * 9}, "score"),
        ({"loss": [1.0, 0.5], "val_loss": [2.0, 1.0, 0.5]}, "val_loss"),
    ):
        store = MemoryStore()
        ledger = study_with(store, **logged)
        found = CurveReader(store, ledger.spec).read(ledger.load())
        assert found is not None and (found.metric, set(found.by_trial)) == (metric, {0, 1, 2})
    store = MemoryStore()
    ledger = study_with(store, loss=[1.0])
    assert CurveReader(store, ledger.spec).read(ledger.load()) is None


def test_the_curves_of_trials_that_have_ended_are_read_once() -> None:
    store = MemoryStore()
    ledger = study_with(store, score=[0.3, 0.2])
    reader = CurveReader(store, ledger.spec)
    running = reserve(ledger)
    for length in (2, 3):
        store.log(running.run_id, [Metric("score", 0.1, length, length - 1), Metric("score", 0.1, 1, 0)], {}, {})
        found = reader.read(ledger.load())
        assert found is not None and len(found.by_trial[3]) == length
    before = len(store.requests)
    reader.read(ledger.history())
    assert store.requests[before:] == ["metric_history"], "of the one that runs"


def test_of_long_curves_fewer_are_read_the_best_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "A_REQUEST", 1)
    monkeypatch.setattr(curves, "MOST_LONG", 2)
    store = MemoryStore()
    ledger = study_with(store, score=[0.0] * (MOST_POINTS + 1))
    found = CurveReader(store, ledger.spec).read(ledger.load())
    assert found is not None and list(found.by_trial) == [2, 1]
    assert all(len(curve) == MOST_POINTS for curve in found.by_trial.values())


def test_a_server_that_does_not_give_histories_is_no_obstacle(tmp_path: Path) -> None:
    def refuse(operation: str) -> None:
        if operation == "metric_history":
            raise TrackingRefusal("ENDPOINT_NOT_FOUND", "an earlier version")

    store = MemoryStore(before=refuse)
    ledger = study_with(store, score=[0.3, 0.2])
    assert CurveReader(store, ledger.spec).read(ledger.load()) is None
