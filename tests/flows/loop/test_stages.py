"""The stages of a study, without a loop: what they reserve, and when they are over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo_core.base.errors import TrackingError
from hpo_core.history.trial import TrialState
from hpo_core.lineage.opening import find_study, open_study
from hpo_flows.loop.search import SearchStage
from hpo_flows.loop.stages import Stages
from tests.hpo_core.ledger.test_ledger import finish
from tests.memory_store import MemoryStore
from tests.studies import make_spec


@given(fails_at=st.integers(1, 30), free=st.integers(1, 4))
def test_whatever_is_reserved_is_trained_though_mlflow_fails_in_between(fails_at: int, free: int) -> None:
    operations = 0

    def fail(operation: str) -> None:
        nonlocal operations
        operations += 1
        if operations == fails_at:
            raise TrackingError("MLflow is away")

    store = MemoryStore()
    ledger = open_study(store, make_spec(name="study", strategy="random", stop={"trials": 4}))
    history, stage = ledger.load(), SearchStage(ledger)
    store.before = fail
    try:
        started = stage.advance(history, free).started
    except TrackingError:
        started = []
    store.before = lambda operation: None
    numbers = [training.number for training in started]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) == free or operations >= fails_at
    owned = find_study(store, "study").load().trials  # another flow's view, which claims for what has no claim yet
    assert [each.number for each in owned][: len(numbers)] == numbers and len(owned) <= len(numbers) + 1


def test_an_error_before_the_first_reservation_is_raised() -> None:
    store = MemoryStore()
    ledger = open_study(store, make_spec(name="study", strategy="random"))
    history = ledger.load()

    def fail(operation: str) -> None:
        raise TrackingError("MLflow is away")

    store.before = fail
    with pytest.raises(TrackingError):
        SearchStage(ledger).advance(history, 2)


def test_a_search_that_is_halted_reserves_nothing_more() -> None:
    store = MemoryStore()
    ledger = open_study(store, make_spec(name="study", strategy="random", stop={"trials": 4}))
    stage = SearchStage(ledger)
    created = 0

    def halt(operation: str) -> None:  # a signal while the first trial is reserved
        nonlocal created
        created += operation == "create_run"
        if created:
            stage.halt()

    store.after = halt
    assert [training.number for training in stage.advance(ledger.load(), 3).started] == [0]


def test_the_description_is_written_once_however_many_stages_there_are() -> None:
    store = MemoryStore()
    spec = make_spec(name="study", metric="score", strategy="random", final={"top": 2, "folds": 2})
    ledger = open_study(store, spec)
    [training] = SearchStage(ledger).advance(ledger.load(), 1).started
    finish(ledger, training.trial, 0.5)
    stages, history = Stages(ledger), ledger.load()
    stages.load(history)
    before = len(store.requests)
    stages.record(history)
    assert store.requests[before:] == ["log"]
    described = store.runs[ledger.study_run.id].tags["mlflow.note.content"]
    assert "1 trial complete" in described and "final choice: 0 of 2 folds are done" in described


def test_a_study_without_a_final_choice_is_over_when_its_search_is() -> None:
    ledger = open_study(MemoryStore(), make_spec(name="study", strategy="random", stop={"trials": 1}))
    stages = Stages(ledger)
    assert not stages.load(ledger.load()) and stages.search.reason == ""
    [training] = stages.search.advance(ledger.load(), 3).started
    assert training.trial.state is TrialState.RUNNING and training.phase == "search"
    step = stages.search.advance(ledger.load(), 3)
    assert not step.started and not step.stale
    assert stages.choice is None and stages.challenge is None
