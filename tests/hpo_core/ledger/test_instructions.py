"""What holds of a study when people and study files say different things, and what is replayed after that."""

from __future__ import annotations

import json

import pytest

from hpo_core.ledger import ownership
from hpo_core.ledger.decode import written_spec
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.tags import Tag
from hpo_core.lineage.opening import find_study, open_study
from hpo_core.lineage.replay import explain
from hpo_core.study.file import override_spec
from hpo_core.study.instructions import Instruction
from hpo_flows.api import instructing
from tests.hpo_core.ledger.test_ledger import finish, make_spec, reserve
from tests.memory_store import MemoryStore


def tell(store: MemoryStore, name: str, *changes: str) -> None:
    find_study(store, name).study.instruct("set", list(changes))


def test_the_study_file_overrules_only_what_it_has_changed() -> None:
    store, said = MemoryStore(), list[str]()
    file = make_spec(parallel=2, stop={"trials": 10, "minutes": 5})
    open_study(store, file)
    tell(store, file.name, "parallel=7", "stop.trials=+5")

    again = open_study(store, file, on_message=said.append)
    assert (again.spec.parallel, again.spec.stop.trials, again.spec.stop.minutes) == (7, 15, 5)
    assert said == [
        f"hpo set holds: {file.name}: stop.trials: 10 -> 15",
        f"hpo set holds: {file.name}: parallel: 2 -> 7",
    ]
    said.clear()
    changed = file.model_copy(update={"parallel": 3})
    assert open_study(store, changed, on_message=said.append).spec.parallel == 3
    assert said == [
        f"taken over: {file.name}: parallel: 7 -> 3",
        f"hpo set holds: {file.name}: stop.trials: 10 -> 15",
    ]
    stored = find_study(store, file.name).spec
    assert (stored.parallel, stored.stop.trials) == (3, 15)  # half of the instruction holds
    assert open_study(store, changed).spec.parallel == 3

    tell(store, file.name, "parallel=9")  # said later than the file
    assert open_study(store, changed).spec.parallel == 9
    assert open_study(store, file).spec.parallel == 2  # the file has changed again
    longer = override_spec(file, ["stop.trials=40"])
    assert open_study(store, longer).spec.stop.trials == 40
    tell(store, file.name, "stop.trials=+5")
    assert find_study(store, file.name).spec.stop.trials == 45


def test_more_trials_are_more_than_what_was_set() -> None:
    store, file = MemoryStore(), make_spec(stop={"trials": "+4"}, strategy="random")
    ledger = open_study(store, file)
    tell(store, file.name, "stop.trials=+2")
    ledger.hear()
    for _ in range(3):
        finish(ledger, reserve(ledger), 0.5)
    assert open_study(store, file).spec.stop.trials == 6  # the last run did not get there
    assert find_study(store, file.name).spec.stop.trials == 6


def test_what_is_set_while_a_run_by_name_begins_holds() -> None:
    store, file = MemoryStore(), make_spec(parallel=2)
    open_study(store, file)
    tell(store, file.name, "parallel=4")
    given = override_spec(written_spec(find_study(store, file.name).study_run), ["seed=5"])
    tell(store, file.name, "parallel=6")  # a second later
    ledger = open_study(store, given)
    assert (ledger.spec.parallel, ledger.spec.seed) == (6, 5)
    assert open_study(store, file).spec.parallel == 6


def test_what_an_earlier_version_has_settled_stays_settled() -> None:
    store, file = MemoryStore(), make_spec(parallel=2)
    run = open_study(store, file).study_run
    text = json.dumps({"set": ["parallel=7"], "settled": True})
    store.log(run.id, [], {}, {f"{Tag.INSTRUCTION}.{1:013d}.{0:08x}": text})
    assert find_study(store, file.name).spec.parallel == 2
    read = Instruction.parse("1.a", text)
    assert read is not None and Instruction.parse("1.a", read.text) == read and read.holding == []


@pytest.mark.parametrize(("before", "more"), [(8, 22), (30, -20)])
def test_proposals_from_before_another_total_are_replayed(before: int, more: int) -> None:
    """Eight trials are too few for probes of the noise, thirty are not."""
    store, file = MemoryStore(), make_spec(stop={"trials": before}, strategy="random")
    ledger = open_study(store, file)

    def train(count: int) -> None:
        for _ in range(count):
            trial = reserve(ledger)
            finish(ledger, trial, trial.number / 7)

    train(7)
    tell(store, file.name, f"stop.trials=+{more}" if more > 0 else f"stop.trials={before + more}")
    ledger.hear()
    train(1)
    assert [trial.number for trial in ledger.load() if trial.repeat_of is not None] == [7 if more > 0 else 6]
    for number in range(8):
        found = explain(find_study(store, file.name), number)
        assert found.same and not found.caveats, (number, found.verdict, found.caveats)


def test_what_is_said_later_holds_whatever_the_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    store, file = MemoryStore(), make_spec(parallel=2, stop={"trials": 10})
    open_study(store, file)
    now = ownership.now_ms()
    for ahead, kind, value in [
        (90_000, "pause", None), (0, "resume", None), (60_000, "set", ["parallel=4", "stop.trials=+5"]),
        (-60_000, "set", ["parallel=3", "stop.trials=20"]),
    ]:  # fmt: skip
        monkeypatch.setattr(ownership, "now_ms", lambda ahead=ahead: now + ahead)
        find_study(store, file.name).study.instruct(kind, value)
    study = find_study(store, file.name)
    assert not study.study.instructions.paused
    assert (study.spec.parallel, study.spec.stop.trials) == (3, 20)


@pytest.mark.parametrize("end", ["killed", "interrupted"])
def test_a_trial_that_was_stopped_stays_so_if_its_flow_ends_before_it_hears_of_it(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, file = MemoryStore(), make_spec(strategy="random")
    flow = open_study(store, file)
    trial, other = reserve(flow), reserve(flow)
    instructing.stop_trial(find_study(store, file.name), trial.number, "it diverges")
    if end == "interrupted":
        for each in (trial, other):
            flow.interrupt(store.get(each.run_id), {})
    else:
        later = ownership.now_ms() + 3_600_000
        monkeypatch.setattr(ownership, "now_ms", lambda: later)
    ledger = find_study(store, file.name)
    ledger.load()
    ledger.reap()
    history = ledger.load()
    assert [each.number for each in history.lost] == [other.number]
    (stopped,) = [each for each in history.failed if each.number == trial.number]
    assert stopped.reason == f"stopped by hpo stop --trial {trial.number}: it diverges"
    assert [each.notes.get("retry_of") for each in ledger.spec.propose(history, 2)] == [other.number, None]


def test_two_people_enqueue_the_same() -> None:
    store, file = MemoryStore(), make_spec(strategy="random")
    open_study(store, file)
    flows = [Ledger(store, file, find_study(store, file.name).study_run) for _ in range(2)]
    for flow in flows:
        flow.study.instruct("enqueue", {"rate": 0.5, "layers": 1})
    taken = []
    for flow in [*flows, *flows]:
        flow.hear()
        history = flow.load()
        trial = flow.reserve(flow.spec.propose(history, 1, flow.study.instructions.queue)[0], history)
        assert trial is not None
        taken.append("enqueued" in trial.notes)
    assert taken == [True, False, False, False]
