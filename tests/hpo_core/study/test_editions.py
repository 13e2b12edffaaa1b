"""A study whose space grows: its earlier trials count, and each proposal is replayed in the space of its time."""

from __future__ import annotations

import random
from typing import Any

import pytest

from hpo_core.base.errors import InputError, StudyConflict
from hpo_core.ledger.ledger import Ledger
from hpo_core.lineage.opening import find_study, open_study
from hpo_core.lineage.replay import explain
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec
from tests.hpo_core.ledger.test_ledger import finish, make_spec, reserve
from tests.memory_store import MemoryStore

WIDTH: dict[str, Any] = {"type": "int", "low": 1, "high": 9}

DEPTH: dict[str, Any] = {"type": "int", "low": 1, "high": 4, "when": {"width": [2, 3]}}

KIND: dict[str, Any] = {"type": "choice", "choices": ["a", "b"], "when": {"width": [9]}}

DEFAULTS = {"width": 3, "depth": 2, "kind": "a", "extra": False}


def with_more(spec: StudySpec, *, first: bool = False, **parameters: Any) -> StudySpec:
    space = spec.model_dump(mode="json")["space"]
    space = parameters | space if first else space | parameters
    begin = [config | {name: DEFAULTS[name] for name in parameters if name != "kind"} for config in spec.first]
    return study_from(spec.model_dump() | {"space": space, "first": begin})


def train(ledger: Ledger, trials: int) -> None:
    rng = random.Random(trials)
    for _ in range(trials):
        finish(ledger, reserve(ledger), rng.random())


@pytest.mark.parametrize("strategy", ["bayesian", "tpe", "random"])
def test_trials_before_have_the_default_of_what_came_later(strategy: str) -> None:
    store, told = MemoryStore(), list[str]()
    spec = make_spec(strategy=strategy, first=[{"rate": 0.5, "layers": None}], stop={"trials": 40})
    train(open_study(store, spec), 6)
    before = [trial.config for trial in open_study(store, spec).load()]

    wider = with_more(spec, width=WIDTH)
    wider = with_more(wider, depth=DEPTH, kind=KIND)
    ledger = open_study(store, wider, defaults=DEFAULTS, on_message=told.append)
    grown = ledger.load()
    assert [t.config for t in grown] == [config | {"width": 3, "depth": 2} for config in before]  # kind is not active
    assert [line for line in told if "new parameters" in line] == [
        f"{spec.name}: goes on with new parameters: width (3 in the trials so far), depth (2 in the trials so far), "
        "kind (a in the trials so far)"
    ]
    train(ledger, 4)
    again = with_more(wider, first=True, extra={"type": "boolean"})
    train(open_study(store, again, defaults=DEFAULTS), 4)

    ledger = find_study(store, spec.name)
    assert [trial.config["extra"] for trial in ledger.load()][:10] == [False] * 10
    for number in range(14):
        found = explain(ledger, number)
        assert found.seen is not None and found.same, (number, found.verdict, found.caveats)
    assert open_study(store, again).spec == ledger.spec  # a file need not say what was before


def test_a_space_that_has_not_only_grown_is_a_conflict() -> None:
    store, spec = MemoryStore(), make_spec()
    train(open_study(store, spec), 2)
    space = spec.model_dump(mode="json")["space"]
    for change in (
        {"rate": {"type": "float", "low": 1e-4, "high": 2.0}},
        {"rate": {"type": "int", "low": 1, "high": 2}},
        {"rate": space["rate"], "more": WIDTH},
    ):
        changed = study_from(spec.model_dump() | {"space": change})
        with pytest.raises(StudyConflict) as caught:
            open_study(store, changed, defaults=DEFAULTS)
        assert caught.value.differences and caught.value.study == spec.name
    with pytest.raises(StudyConflict, match=r"space.width: null -> "):
        open_study(store, with_more(spec, width=WIDTH))  # of a study file
    assert find_study(store, spec.name).spec == spec


def test_a_flow_in_the_old_space_is_in_the_way() -> None:
    store, spec = MemoryStore(), make_spec()
    reserve(open_study(store, spec))
    with pytest.raises(InputError, match=r"its space has grown \(width\), and a flow works on it .*; stop that flow"):
        open_study(store, with_more(spec, width=WIDTH), defaults=DEFAULTS)


def test_a_study_without_trials_begins_in_the_new_space() -> None:
    store, spec = MemoryStore(), make_spec()
    open_study(store, spec)
    wider = with_more(spec, width=WIDTH)
    ledger = open_study(store, wider, defaults=DEFAULTS)
    assert ledger.load().trials == () and find_study(store, spec.name).spec == ledger.spec
    assert ledger.spec.space == wider.space


def test_a_new_study_has_no_editions() -> None:
    store, spec = MemoryStore(), make_spec()
    train(open_study(store, spec), 1)
    grown = open_study(store, with_more(spec, width=WIDTH), defaults=DEFAULTS).spec
    assert len(grown.editions) == 1 and find_study(store, spec.name).spec == grown
    copy = grown.model_copy(update={"name": "another"})
    assert open_study(store, copy).spec.editions == []
