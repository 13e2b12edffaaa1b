"""A study that goes on in another space: what stays as evidence, what is replayed, and what survives a death."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from hpo_core.base.errors import InputError, StudyConflict
from hpo_core.history.trial import TrialState
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.tags import Tag, split_tag
from hpo_core.lineage.opening import find_study, open_study
from hpo_core.lineage.replay import explain
from hpo_core.lineage.warm_start import warm_start
from hpo_core.space.configuration import Config, scalar_key
from hpo_core.study.spec import StudySpec
from tests.hpo_core.ledger.test_ledger import finish, make_spec, reserve
from tests.memory_store import MemoryStore

SPACE: dict[str, Any] = {
    "rate": {"type": "float", "low": 0.001, "high": 1.0, "log": True},
    "units": {"type": "int", "low": 1, "high": 16},
    "kind": {"type": "choice", "choices": ["a", "b", "c"]},
    "momentum": {"type": "float", "low": 0.0, "high": 0.9, "when": {"kind": ["a"]}},
}


def study(space: dict[str, Any], **changes: Any) -> StudySpec:
    return make_spec(**{"name": "s", "space": space, "strategy": "random", "stop": {"trials": 60}} | changes)


def changed(**parameters: Any) -> dict[str, Any]:
    space = {name: dict(each) for name, each in SPACE.items()} | parameters
    return {name: each for name, each in space.items() if each is not None}


def train(ledger: Ledger, trials: int) -> None:
    rng = random.Random(trials)
    for _ in range(trials):
        finish(ledger, reserve(ledger), rng.random())


def outside_of(ledger: Ledger) -> dict[int, set[str]]:
    return {trial.number: set(trial.outside) for trial in ledger.load().outside}


# -- any edit of the space -----------------------------------------------------------------------------------------

low, high = st.sampled_from([0.001, 0.01, 0.05]), st.sampled_from([0.1, 1.0, 10.0])
EDITS = st.fixed_dictionaries(
    {
        "rate": st.builds(
            lambda low, high, log: {"type": "float", "low": low, "high": high, "log": log}, low, high, st.booleans()
        ),
        "units": st.one_of(
            st.none(),
            st.builds(
                lambda low, high: {"type": "int", "low": low, "high": high}, st.integers(1, 5), st.integers(6, 30)
            ),
            st.just({"type": "ordinal", "choices": [1, 2, 4, 8, 16]}),
            st.just({"type": "fixed", "value": 3}),
        ),
        "kind": st.sets(st.sampled_from("abcd"), min_size=1).map(lambda s: {"type": "choice", "choices": sorted(s)}),
        "momentum": st.sampled_from(
            [
                None,
                {"type": "float", "low": 0.0, "high": 0.5},
                {"type": "float", "low": 0.0, "high": 0.9, "default": 0.25},
            ]
        ),
        "width": st.sampled_from([None, {"type": "int", "low": 1, "high": 9, "default": 4}, {"type": "boolean"}]),
        "constraints": st.sampled_from([[], ["rate < 0.5"]]),
    }
)


def expected_outside(spec: StudySpec, config: Config, defaults: dict[str, Any]) -> bool:
    """What the documents say, in other words than the code; ``defaults`` are those that earlier editions gave."""
    for name, parameter in spec.space.items():
        value = config.get(name, parameter.default if parameter.has_default else defaults.get(name))
        if value is None and parameter.type == "fixed":
            value = parameter.value
        match parameter.type:
            case "float" | "int":
                ok = isinstance(value, int | float) and parameter.low <= value <= parameter.high
            case "boolean":
                ok = value in (True, False)
            case _:
                ok = scalar_key(value) in {scalar_key(option) for option in parameter.options}
        if not ok:
            return True
    return any("rate < 0.5" in each and not config["rate"] < 0.5 for each in spec.constraints)  # type: ignore[operator]


@settings(max_examples=8, deadline=None)
@given(st.lists(EDITS, min_size=1, max_size=2), st.sampled_from(["random", "tpe", "quasi_random"]))
def test_any_edit_keeps_what_lies_inside(edits: list[dict[str, Any]], strategy: str) -> None:
    check_edits(edits, strategy)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(EDITS, min_size=1, max_size=4), st.sampled_from(["random", "tpe", "quasi_random", "bayesian"]))
def test_any_edit_keeps_what_lies_inside_at_length(edits: list[dict[str, Any]], strategy: str) -> None:
    check_edits(edits, strategy)


def check_edits(edits: list[dict[str, Any]], strategy: str) -> None:
    store = MemoryStore()
    train(open_study(store, study(SPACE, strategy=strategy)), 5)
    told: dict[int, dict[str, Any]] = {t.number: dict(t.config) for t in find_study(store, "s").load()}
    defaults: dict[str, Any] = {}
    for edit in edits:
        constraints = edit.pop("constraints")
        spec = study(changed(**edit), constraints=constraints, strategy=strategy)
        before = find_study(store, "s")
        try:
            ledger = open_study(store, spec, change_space=True)
        except InputError as error:  # a parameter that trials are without, and that has no default
            name = error.field.removeprefix("space.").removesuffix(".default")
            assert not spec.space[name].has_default and any(name not in config for config in told.values())
            assert find_study(store, "s").spec == before.spec
            continue
        history = ledger.load()
        assert [t.number for t in history.every] == sorted(told) and history.next_number == len(told)
        assert not ledger.skipped
        for trial in history.every:
            if trial.edition in {e.id for e in ledger.spec.editions} - {""}:
                continue  # it may have had defaults of its own
            expected = expected_outside(spec, told[trial.number], defaults)
            assert bool(trial.outside) == expected, (trial, told[trial.number])
            if not trial.outside:
                spec.search_space.encode(trial.config)
                assert all(
                    scalar_key(trial.config[name]) == scalar_key(told[trial.number].get(name, trial.config[name]))
                    for name in trial.config
                )
        assert ledger.spec.started(history) == len(told)
        defaults |= {name: each.default for name, each in spec.space.items() if each.has_default}
        train(ledger, 3)
        told |= {t.number: dict(t.config) for t in ledger.load() if t.number not in told}
    ledger = find_study(store, "s")
    for number in told:
        found = explain(ledger, number)
        assert found.seen is not None and found.same, (number, found.verdict, found.caveats)
        assert found.editions == len(ledger.spec.editions) + 1 and found.edition <= found.editions
        assert found.trial.config == told[number]


# -- single laws ---------------------------------------------------------------------------------------------------


def test_without_the_flag_it_is_a_conflict_that_names_it() -> None:
    store = MemoryStore()
    train(open_study(store, study(SPACE)), 1)
    narrow = study(changed(units={"type": "int", "low": 1, "high": 8}))
    with pytest.raises(StudyConflict, match=r"space.units.high: 16 -> 8(.|\n)*--change-space"):
        open_study(store, narrow)
    with pytest.raises(StudyConflict) as caught:
        open_study(store, study(SPACE, metric="other"), change_space=True)
    assert "--change-space" not in str(caught.value)
    both = study(changed(units={"type": "int", "low": 1, "high": 8}), metric="other")
    with pytest.raises(StudyConflict) as caught:
        open_study(store, both, change_space=True)
    assert caught.value.differences == ('metric: "score" -> "other"',)


def test_what_is_said_of_the_trials() -> None:
    store, said = MemoryStore(), list[str]()
    ledger = open_study(store, study(SPACE, strategy="random"))
    train(ledger, 9)
    reserve(ledger)
    ledger.study.instruct("enqueue", {"rate": 0.9, "units": 3, "kind": "b"})
    history = ledger.load()
    best = history.incumbent
    assert best is not None
    rate = float(best.config["rate"])  # type: ignore[arg-type]
    edge = rate * 1.01
    spec = study(
        changed(
            rate={"type": "float", "low": 1e-4, "high": 1.0, "log": True},
            units={"type": "int", "low": 1, "high": 16, "default": 2},
            width={"type": "int", "low": 1, "high": 9, "default": 4},
        ),
        constraints=[f"rate > {edge} or rate < {rate * 0.99}", "rate < 0.8"],
    )
    after = open_study(store, spec, change_space=True, on_message=said.append).load()
    assert best.number in {trial.number for trial in after.outside}
    assert "s: the space is changed" in said[0] and all(len(line) <= 80 for line in said if "taken" not in line)
    assert "  space.rate.low: 0.001 -> 0.0001" in said
    assert "  space.width: new; 4 in the trials so far" in said
    count = len(after.outside)
    assert f"{10 - count} of 10 trials stay as evidence, {count} lie outside and no longer count" in said
    assert any(line.startswith(f"the best so far, trial {best.number} (score") for line in said)
    assert any(line.startswith("enqueued, outside and so not tried: ") for line in said)
    assert after.incumbent is not None and after.incumbent.number != best.number


def test_nothing_that_is_said_of_a_change_is_cut() -> None:
    """Whoever reads it decides whether to change the space."""
    store, said, many = MemoryStore(), list[str](), [f"an-option-{i}" for i in range(60)]
    ledger = open_study(store, study(SPACE))
    for _ in range(30):
        reserve(ledger)
    ledger.study.instruct("enqueue", {"rate": 0.9, "units": 15, "kind": "b"})
    narrow = changed(kind={"type": "choice", "choices": many}, momentum=None)
    after = open_study(store, study(narrow), change_space=True, on_message=said.append).load()
    gone = sorted(trial.number for trial in after.outside)
    assert max(map(len, said)) <= 80 and not any("..." in line for line in said)
    text = " ".join(line.strip() for line in said)
    assert all(json.dumps(option) in text for option in many)
    assert "running now, to the end: " + ", ".join(map(str, gone)) in text
    assert 'enqueued, outside and so not tried: {"rate": 0.9, "units": 15, "kind": "b"}' in text


def test_a_parameter_needs_a_default_only_where_a_trial_lacks_it() -> None:
    store = MemoryStore()
    train(open_study(store, study(SPACE)), 6)
    width = {"type": "int", "low": 1, "high": 9}
    with pytest.raises(InputError, match=r"space.width.default: it is missing, and 6 trials are without it; add def"):
        open_study(store, study(changed(width=width)), change_space=True)
    kinds = {"type": "choice", "choices": ["a", "b", "c", "d"]}
    ledger = open_study(store, study(changed(kind=kinds, width=width | {"when": {"kind": ["d"]}})), change_space=True)
    assert len(ledger.load()) == 6  # none of them is a d
    with pytest.raises(InputError, match=r"space.width.default: 12 is not a whole number from 1 to 9"):
        study(changed(width=width | {"default": 12}))


def test_beliefs_begin_an_edition_without_being_asked_for() -> None:
    store = MemoryStore()
    train(open_study(store, study(SPACE)), 3)
    train(open_study(store, study(SPACE, prior={"units": {"around": 8, "confidence": "high"}})), 4)
    train(open_study(store, study(SPACE, prior={"rate": {"around": 0.01}})), 3)
    ledger = find_study(store, "s")
    assert len(ledger.spec.editions) == 2 and not ledger.load().outside
    assert all(explain(ledger, number).same for number in range(10))


def test_a_grid_goes_on_when_it_is_widened() -> None:
    store = MemoryStore()
    few = {"units": {"type": "int", "low": 1, "high": 4}}
    ledger = open_study(store, study(few, strategy="grid"))
    train(ledger, 4)
    assert ledger.spec.propose(ledger.load(), 1) == []
    ledger = open_study(
        store, study({"units": {"type": "int", "low": 3, "high": 6}}, strategy="grid"), change_space=True
    )
    assert outside_of(ledger) == {0: {"units"}, 1: {"units"}} or len(outside_of(ledger)) == 2
    train(ledger, 2)
    assert ledger.spec.propose(ledger.load(), 1) == []
    assert sorted(t.config["units"] for t in ledger.load()) == [3, 4, 5, 6]  # type: ignore[type-var]
    assert [t.number for t in ledger.load().every] == list(range(6))


@pytest.mark.parametrize("strategy", ["hyperband", "asha", "successive_halving"])
def test_what_lies_outside_is_not_promoted(strategy: str) -> None:
    store = MemoryStore()
    rung = {"name": "epochs", "min": 1, "max": 9, "eta": 3}
    one = {"rate": {"type": "float", "low": 0.0, "high": 1.0}}

    def on(space: dict[str, Any], trials: int) -> Ledger:
        spec = study(space, strategy=strategy, fidelity=rung, direction="minimize", repeats="off")
        ledger = open_study(store, spec, change_space=True)
        for _ in range(trials):
            trial = reserve(ledger)
            finish(ledger, trial, float(trial.config["rate"]))  # type: ignore[arg-type]
        return ledger

    on(one, 8)
    ledger = on({"rate": {"type": "float", "low": 0.5, "high": 1.0}}, 20)
    history = ledger.load()
    assert history.outside and all(trial.number < 8 for trial in history.outside)
    later = [trial for trial in history.every if trial.number >= 8]
    assert all(trial.config["rate"] >= 0.5 for trial in later)  # type: ignore[operator]
    assert any(trial.parent is not None for trial in later)
    assert all(explain(ledger, trial.number).same for trial in history.every)


def test_an_enqueued_configuration_is_tried_once_the_space_has_grown() -> None:
    store = MemoryStore()
    ledger = open_study(store, study(SPACE))
    train(ledger, 2)
    told = ledger.study.instruct("enqueue", {"rate": 0.5, "units": 3, "kind": "b"})
    ledger = open_study(
        store, study(changed(width={"type": "int", "low": 1, "high": 9, "default": 4})), change_space=True
    )
    history, queue = ledger.load(), ledger.study.instructions.queue
    (proposal,) = ledger.spec.propose(history, 1, queue)
    assert dict(proposal.config) == {"rate": 0.5, "units": 3, "kind": "b", "width": 4}
    assert proposal.notes["enqueued"] == told.id
    trial = ledger.reserve(proposal, history)
    assert trial is not None
    assert "enqueued" not in ledger.spec.propose(ledger.load(), 1, queue)[0].notes
    assert explain(find_study(store, "s"), trial.number).same


@pytest.mark.slow
def test_past_runs_count_as_far_as_they_lie_in_the_new_space() -> None:
    store = MemoryStore()
    train(open_study(store, study(SPACE, name="past", repeats="off")), 12)

    def opened(space: dict[str, Any], **more: Any) -> Ledger:
        ledger = open_study(store, study(space, warm_start=["past"], strategy="tpe", **more), change_space=True)
        warm_start(ledger)
        return ledger

    train(opened(SPACE), 2)
    ledger = opened(changed(width={"type": "int", "low": 1, "high": 9, "default": 4}))
    train(ledger, 2)
    assert len(ledger.load().prior[0].observations) == 12
    narrow = changed(units={"type": "int", "low": 4, "high": 12})
    ledger.hear()
    after = opened(narrow)
    train(after, 2)
    kept = [each.config for source in after.load().prior for each in source.observations]
    assert 0 < len(kept) < 12 and all(4 <= config["units"] <= 12 for config in kept)  # type: ignore[operator]
    ledger.hear()
    assert ledger.load().digest == after.load().digest
    for number in range(6):
        found = explain(find_study(store, "s"), number)
        assert found.seen is not None and found.same, (number, found.verdict, found.caveats)


# -- deaths and flows side by side ---------------------------------------------------------------------------------


class Killed(Exception):
    pass


def test_a_flow_may_die_at_any_request_while_it_changes_the_space() -> None:
    begun = MemoryStore()
    train(open_study(begun, study(SPACE)), 4)
    old, new = study(SPACE), study(changed(units={"type": "int", "low": 1, "high": 30}), parallel=3)
    states = set()
    for step in range(1, 100):
        for edge in ("before", "after"):
            store = copy.deepcopy(begun)
            left = [step]

            def die(operation: str, left: list[int] = left) -> None:
                left[0] -= 1
                if not left[0]:
                    raise Killed

            setattr(store, edge, die)
            died = True
            try:
                train(open_study(store, new, change_space=True), 1)
                died = False
            except Killed:
                pass
            setattr(store, edge, lambda operation: None)
            if not died:
                break
            there = find_study(store, "s").spec
            states.add(there.space["units"] == new.space["units"])
            if there.space["units"] == new.space["units"]:
                with pytest.raises(StudyConflict):
                    open_study(store, old)
                assert there.parallel == 3  # all of it or nothing
            else:
                assert open_study(store, old).load().next_number == 4
            ledger = open_study(store, new, change_space=True)
            train(ledger, 1)
            assert len(ledger.spec.editions) == 1 and not ledger.load().outside
            numbers = [trial.number for trial in ledger.load().every]
            assert numbers == list(range(len(numbers))) and len(numbers) in (5, 6)
        if not died:
            break
    assert states == {True, False}


def test_a_flow_in_the_old_space_goes_on_in_the_new_one() -> None:
    store = MemoryStore()
    flow = open_study(store, study(SPACE))
    train(flow, 3)
    running = reserve(flow)
    other = open_study(store, study(changed(rate={"type": "float", "low": 0.1, "high": 0.2})), change_space=True)
    late = reserve(flow)  # before it hears of it
    assert late.number == 4 and late.edition == "" and other.load().next_number == 5
    train(other, 1)
    flow.hear()
    assert flow.spec.space == other.spec.space and not flow.outdated
    finish(flow, running, 0.5)
    finish(flow, late, 0.5)
    trial = reserve(flow)
    assert trial.number == 6 and 0.1 <= trial.config["rate"] <= 0.2 and trial.edition  # type: ignore[operator]
    history = other.load()
    assert [t.number for t in history.every] == list(range(7)) and not other.skipped
    assert {t.state for t in history.every if t.number in (3, 4)} == {TrialState.COMPLETE}
    assert all(explain(find_study(store, "s"), number).same for number in range(7))


@pytest.mark.parametrize(
    "space",
    [
        changed(width={"type": "int", "low": 1, "high": 9, "default": 4}),
        changed(units=None),
        changed(kind={"type": "choice", "choices": ["a", "b", "c", "d"]}),
        changed(units={"type": "float", "low": 1, "high": 16}),
        changed(units={"type": "fixed", "value": 17}),
    ],
)
def test_a_flow_whose_objective_may_not_know_the_new_space_ends(space: dict[str, Any]) -> None:
    store = MemoryStore()
    flow = open_study(store, study(SPACE))
    train(flow, 3)
    open_study(store, study(space), change_space=True)
    flow.hear()
    assert flow.outdated.startswith("the space was changed, and this run began before that (")
    assert open_study(store, study(space)).outdated == ""


def test_a_flow_goes_on_where_its_objective_knows_all_that_is_left() -> None:
    store = MemoryStore()
    flow = open_study(store, study(SPACE))
    train(flow, 3)
    less = changed(
        units={"type": "fixed", "value": 4}, kind={"type": "ordinal", "choices": ["b", "a"]}, rate=SPACE["rate"]
    )
    open_study(store, study(less), change_space=True)
    flow.hear()
    assert not flow.outdated
    train(flow, 2)
    assert {trial.config["units"] for trial in flow.load() if trial.edition} == {4}


def test_what_the_old_flow_writes_last_does_not_count() -> None:
    """Two flows open the study at once; the one with the old file has read it before the other one changed it."""
    store = MemoryStore()
    train(open_study(store, study(SPACE)), 2)
    new = study(changed(units={"type": "int", "low": 1, "high": 8}), parallel=3)

    def meanwhile(operation: str) -> None:
        if operation == "log":
            store.before = lambda operation: None
            open_study(store, new, change_space=True)

    store.before = meanwhile
    old = open_study(store, study(SPACE, parallel=5))
    ledger = find_study(store, "s")
    assert ledger.spec.space == new.space and ledger.spec.parallel == 3
    old.hear()
    assert old.spec.space == new.space and old.spec.parallel == 5
    train(old, 1)
    train(open_study(store, new), 1)
    assert [trial.number for trial in find_study(store, "s").load().every] == [0, 1, 2, 3]


def test_two_change_it_at_once_and_the_last_one_counts() -> None:
    store = MemoryStore()
    train(open_study(store, study(SPACE)), 3)
    one = study(changed(width={"type": "int", "low": 1, "high": 9, "default": 4}))
    two = study(changed(depth={"type": "int", "low": 1, "high": 9, "default": 2}))
    flows: list[Ledger] = []

    def meanwhile(operation: str) -> None:
        if operation == "log":
            store.before = lambda operation: None
            flows.append(open_study(store, two, change_space=True))
            train(flows[0], 2)

    store.before = meanwhile
    flows.append(open_study(store, one, change_space=True))
    train(flows[1], 1)
    last = find_study(store, "s")
    assert len(last.spec.editions) == 2
    for flow in flows:
        flow.hear()
        assert flow.spec.space == last.spec.space
    assert sum(bool(flow.outdated) for flow in flows) == 1
    history = last.load()
    assert [t.number for t in history.every] == list(range(6)) and not last.skipped
    assert all(explain(last, number).seen is not None for number in range(6))


# -- studies of earlier versions -----------------------------------------------------------------------------------


def test_a_study_that_has_grown_under_an_earlier_version_goes_on() -> None:
    store = MemoryStore()
    spec = study(SPACE)
    first = open_study(store, spec)
    train(first, 3)
    width = {"type": "int", "low": 1, "high": 9}
    grown = study(changed(width=width))
    old = {"until": 3, "space": spec.stored()["space"], "added": {"width": 4}}
    text = json.dumps({key: value for key, value in grown.stored().items() if key != "edition"} | {"editions": [old]})
    store.log(first.study_run.id, [], {}, split_tag(Tag.SPEC, text))
    ledger = open_study(store, grown)
    assert [t.config["width"] for t in ledger.load()] == [4, 4, 4]
    train(ledger, 2)
    narrow = study(changed(width={"type": "int", "low": 1, "high": 4}))
    ledger = open_study(store, narrow, change_space=True)
    train(ledger, 2)
    more = study(changed(width={"type": "int", "low": 1, "high": 4}, extra={"type": "boolean"}))
    ledger = open_study(store, more, defaults={"extra": True})
    train(ledger, 1)
    ledger = find_study(store, "s")
    assert [t.config["width"] for t in ledger.load().every][:3] == [4, 4, 4]
    assert [t.config["extra"] for t in ledger.load() if t.number < 7] == [True] * len(
        [t for t in ledger.load() if t.number < 7]
    )
    for number in range(8):
        found = explain(ledger, number)
        assert found.same, (number, found.verdict, found.caveats)
        assert (found.edition, found.editions) == ((1, 2, 3, 4)[(number >= 3) + (number >= 5) + (number >= 7)], 4)


def test_a_specification_may_become_shorter() -> None:
    store = MemoryStore()
    long = study(SPACE, constraints=[], notify=[{"on": ["failed"], "url": "https://${HOST}/" + "x" * 1900}] * 4)
    run = open_study(store, long).study_run
    assert f"{Tag.SPEC}.1" in store.get(run.id).tags
    open_study(store, study(SPACE))
    assert find_study(store, "s").spec.notify == []
