"""Series of studies: which one is current when the data of a study file change, whatever dies or races."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpo_core.base.errors import InputError
from hpo_core.ledger.ledger import Ledger, Report
from hpo_core.ledger.store import FINISHED, Dataset, Metric
from hpo_core.lineage import opening
from hpo_core.lineage.series import newest, open_current
from hpo_core.study.spec import StudySpec
from hpo_flows.objectives.datasets import describe
from hpo_flows.workers.data import declared
from tests.hpo_core.study.test_study import spec as make_spec
from tests.memory_store import MemoryStore

TODAY = datetime.date(2026, 11, 24)


def data(version: int) -> Dataset:
    return describe("rows", np.full(3, version))


def study(**changes: Any) -> StudySpec:
    return make_spec(data="rows:load", **changes)


def opened(store: MemoryStore, version: int, told: Callable[[str], Any] = print, **changes: Any) -> Ledger:
    return open_current(store, study(**changes), data(version), on_message=told, today=TODAY)


def run(ledger: Ledger, trials: int) -> None:
    """Run so many trials, and end the study's run."""
    for _ in range(trials):
        history = ledger.load()
        trial = ledger.reserve(ledger.spec.propose(history, 1)[0], history)
        assert trial is not None
        params = ledger.spec.search_space.to_params(trial.config)
        metrics = [Metric("loss", float(trial.number), 0)]
        ledger.write(Report(trial.run_id, metrics, params, {"hpo.result": "1"}, FINISHED))
        ledger.release(trial)
    ledger.study.set_status(FINISHED)


def test_unchanged_data_go_on_with_the_study_and_changed_data_begin_a_dated_one() -> None:
    store = MemoryStore()
    first = opened(store, 1)
    assert first.spec.name == "parabola"
    assert opened(store, 1).study_run.id == first.study_run.id
    told: list[str] = []
    second = opened(store, 2, told.append)
    assert (second.spec.name, second.spec.experiment) == ("parabola-2026-11-24", "parabola")
    assert "not those of parabola" in told[-1]
    run = store.runs[second.study_run.id]
    assert run.tags["hpo.follows"] == first.study_run.id and run.tags["hpo.generation"] == "1"
    assert data(2).digest in run.tags["hpo.data"] and "not those" in run.tags["hpo.data.why"]
    assert store.datasets[run.id] == {("rows", data(2).digest)}
    assert opened(store, 2).study_run.id == second.study_run.id


def test_the_second_study_of_a_day_has_a_number_and_data_that_come_back_begin_anew() -> None:
    store = MemoryStore()
    names = [opened(store, version).spec.name for version in (1, 2, 1, 1, 3)]
    day = "parabola-2026-11-24"
    assert names == ["parabola", day, f"{day}-2", f"{day}-2", f"{day}-3"]


def test_a_dated_study_learns_from_the_one_before_and_still_does_when_it_goes_on() -> None:
    store = MemoryStore()
    first = opened(store, 1)
    second, again = opened(store, 2), opened(store, 2)
    (entry,) = second.spec.warm_start
    assert first.study_run.id in entry.query and entry.experiment == "parabola"
    assert again.spec == second.spec
    third = opened(store, 3)
    assert [second.study_run.id in entry.query for entry in third.spec.warm_start] == [True]


def test_a_study_of_before_data_was_declared_is_taken_for_one_of_these_data() -> None:
    from hpo_core.lineage.opening import open_study

    store = MemoryStore()
    before = open_study(store, make_spec())
    assert opened(store, 1).study_run.id == before.study_run.id
    assert opened(store, 2).study_run.id != before.study_run.id


def test_more_trials_are_of_the_current_study() -> None:
    store = MemoryStore()
    more = {"stop": {"trials": "+2"}, "strategy": "random"}
    for version, name, total in ((1, "parabola", 2), (1, "parabola", 4), (2, "parabola-2026-11-24", 2)):
        ledger = opened(store, version, **more)
        assert (ledger.spec.name, ledger.spec.stop.trials) == (name, total)
        run(ledger, total - len(ledger.load()))
    current = newest(store, study())
    assert current is not None and current.tags["hpo.study"] == "parabola-2026-11-24"


def test_changed_data_may_come_with_a_changed_space() -> None:
    store = MemoryStore()
    opened(store, 1)
    assert opened(store, 2, space={"x": {"type": "float", "low": -9, "high": 9}}).spec.name.endswith("11-24")


@pytest.mark.parametrize("operation", ["claim", "create_run", "log", "get", "search"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_flow_that_dies_as_it_begins_a_study_leaves_one_successor(
    operation: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "ELECTION_SECONDS", 0.5)

    class Killed(BaseException):
        pass

    deaths = 0
    for step in range(40):
        store = MemoryStore()
        opened(store, 1)
        left = step

        def die(name: str) -> None:
            nonlocal left
            left -= name == operation
            if left < 0:
                raise Killed

        setattr(store, when, die)
        try:
            opened(store, 2)
        except Killed:
            deaths += 1
        else:
            assert deaths
            return
        setattr(store, when, lambda name: None)
        ledger = opened(store, 2)
        assert ledger.spec.name == "parabola-2026-11-24"
        studies = store.search(["1", "2", "3"], {"hpo.role": "study", "hpo.study": ledger.spec.name})
        assert [each.id for each in studies if "study" in each.params] == [ledger.study_run.id]
    raise AssertionError("it asks too often")


def overtaken(store: MemoryStore, version: int) -> list[Ledger]:
    """Where the study of another flow will stand, which begins at the next claim, before that is made."""
    other: list[Ledger] = []

    def overtake(operation: str) -> None:
        if operation == "claim" and not other:
            store.before = lambda operation: None
            other.append(opened(store, version))

    store.before = overtake
    return other


def test_of_two_flows_that_see_changed_data_at_once_both_go_on_with_one_study() -> None:
    store = MemoryStore()
    opened(store, 1)
    other = overtaken(store, 2)
    assert opened(store, 2).study_run.id == other[0].study_run.id


def test_a_flow_of_older_data_goes_on_behind_the_one_that_overtook_it() -> None:
    store = MemoryStore()
    opened(store, 1)
    other = overtaken(store, 3)
    late = opened(store, 2)
    assert (other[0].spec.name, late.spec.name) == ("parabola-2026-11-24", "parabola-2026-11-24-2")


ROWS = """
import os
import numpy as np

def good():
    print("loading")
    return "rows", np.arange(3), [0, 1, 0]

def alone(): return np.arange(3)
def wrong(): raise OSError("no such disk")
def gone(): os._exit(7)
number = 3
"""


def test_declared_data_are_described_in_a_process_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "declared_rows.py").write_text(ROWS)
    found = declared("declared_rows:good", [str(tmp_path)])
    assert found == describe("rows", np.arange(3), [0, 1, 0])._replace(arrays=found.arrays)
    assert found.digest == describe("rows", np.arange(3), [0, 1, 0]).digest


@pytest.mark.parametrize(
    ("function", "problem", "remedy"),
    [
        ("alone", "returned ndarray", "let it return (name, features, targets)"),
        ("wrong", "raised OSError: no such disk", "correct it there"),
        ("gone", "ended with 7", "call the function by hand"),
        ("number", "is not a function", "name a function"),
        ("absent", "is not there", "correct its name"),
    ],
)
def test_data_that_cannot_be_had_are_one_error(tmp_path: Path, function: str, problem: str, remedy: str) -> None:
    (tmp_path / "declared_rows.py").write_text(ROWS)
    with pytest.raises(InputError) as caught:
        declared(f"declared_rows:{function}", [str(tmp_path)])
    assert caught.value.field == "data" and "declared_rows:" in caught.value.problem
    assert problem in caught.value.problem and remedy in caught.value.remedy
