"""The snapshot is a cache: with it, without it, damaged or stale, a study gives the same answers."""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger import ownership, reader
from hpo_core.ledger.ledger import Ledger, Report
from hpo_core.ledger.snapshot import FORMAT, Snapshot, pack, unpack
from hpo_core.ledger.store import FAILED, Run, Store
from hpo_core.ledger.tags import SNAPSHOT, SNAPSHOT_FOLDER
from hpo_core.lineage.opening import find_study, open_study
from hpo_core.study.spec import StudySpec
from hpo_core.tracking import searches
from hpo_core.tracking.connection import connect
from hpo_flows.api import run as run_flow
from hpo_flows.objectives.reference import Objective
from tests.conftest import MlflowServer
from tests.hpo_core.ledger import test_ledger
from tests.hpo_core.ledger.test_ledger import finish, make_spec, reserve
from tests.hpo_core.ledger.test_requests import counted_requests
from tests.memory_store import MemoryStore

any_store = test_ledger.store
ARTIFACT = f"{SNAPSHOT_FOLDER}/{SNAPSHOT}"


@pytest.fixture(autouse=True)
def studies_have_one_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "SNAPSHOT_FROM", 4)
    monkeypatch.setattr(reader, "MARGIN_MS", 1)


@pytest.fixture
def store(any_store: Store) -> Store:
    return MemoryStore(clock=slow_clock()) if isinstance(any_store, MemoryStore) else any_store


def slow_clock() -> Callable[[], int]:
    """An in-memory request takes as long as a real one."""
    return itertools.count(1_000_000, 100).__next__


def finished(store: Store, trials: int = 5, **changes: Any) -> tuple[Ledger, list[Trial]]:
    ledger = open_study(store, make_spec(strategy="random", **changes))
    return ledger, [one_trial(ledger) for _ in range(trials)]


def one_trial(ledger: Ledger) -> Trial:
    trial = reserve(ledger)
    finish(ledger, trial, 0.5 + trial.number)
    return trial


def keep(ledger: Ledger) -> None:
    ledger.load()
    assert ledger.save_snapshot()


def read(store: Store, spec: StudySpec) -> tuple[History, bool]:
    """What a new process reads, which has to be what it reads without a snapshot; and whether the snapshot helped."""
    full = find_study(store, spec.name)
    without = {key: value for key, value in full.study_run.tags.items() if key != "hpo.snapshot"}
    full.study.run = Run(**full.study_run.__dict__ | {"tags": without})
    quick = find_study(store, spec.name)
    read_all, helped = quick._read_all, True

    def noted() -> None:
        nonlocal helped
        helped = False
        read_all()

    quick._read_all = noted  # type: ignore[method-assign]
    history = quick.load()
    assert history == full.load()
    assert history.digest == full.load().digest
    assert quick.skipped == full.skipped
    assert quick.load() == history  # an incremental load changes nothing
    return history, helped


def test_a_new_process_reads_the_snapshot(store: Store) -> None:
    ledger, trials = finished(store)
    assert not read(store, ledger.spec)[1]
    keep(ledger)
    history, helped = read(store, ledger.spec)
    assert helped
    assert [(trial.number, trial.config) for trial in history] == [(t.number, t.config) for t in trials]


def test_a_stale_snapshot_is_completed(store: Store) -> None:
    ledger, _ = finished(store)
    keep(ledger)
    for _ in range(3):
        one_trial(ledger)
    open_one = reserve(ledger)
    history, helped = read(store, ledger.spec)
    assert helped
    assert [trial.number for trial in history] == list(range(9))
    assert [trial.number for trial in history.running] == [open_one.number]
    again = open_study(store, ledger.spec)
    assert reserve(again).number == 9


def test_trials_that_ran_when_it_was_written_are_read_again(store: Store) -> None:
    ledger, _ = finished(store, 3)
    slow = reserve(ledger)
    for _ in range(2):
        one_trial(ledger)
    keep(ledger)
    assert read(store, ledger.spec)[0].running[0].run_id == slow.run_id
    finish(ledger, slow, 0.9)
    history, helped = read(store, ledger.spec)
    assert helped
    assert (history.trials[3].state, history.trials[3].loss) == (TrialState.COMPLETE, -0.9)


def test_a_late_result_is_seen(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, _ = finished(store, 3, retries=1)
    slow = reserve(ledger)
    for _ in range(2):
        one_trial(ledger)
    other = open_study(store, ledger.spec)
    other.load()
    now = ownership.now_ms()
    with monkeypatch.context() as later:
        later.setattr(ownership, "now_ms", lambda: now + 2_000 * int(ownership.LEASE_SECONDS))
        assert [trial.number for trial in other.reap()] == [3]
        keep(other)
    history, _ = read(store, ledger.spec)
    assert (history.trials[3].state, history.trials[3].notes["lost"]) == (TrialState.FAILED, "died")
    finish(ledger, slow, 0.9)
    history, helped = read(store, ledger.spec)
    assert helped
    assert (history.trials[3].state, history.trials[3].loss) == (TrialState.COMPLETE, -0.9)


@pytest.mark.parametrize("which", [[1], [4], [0, 3, 4]])
def test_deleted_trials_vanish(store: Store, which: list[int]) -> None:
    ledger, trials = finished(store)
    keep(ledger)
    for number in which:
        store.delete_run(trials[number].run_id)
    history, helped = read(store, ledger.spec)
    assert helped
    assert [trial.number for trial in history] == [n for n in range(5) if n not in which]


def test_trials_deleted_before_it_was_written_cost_no_full_read(store: Store) -> None:
    ledger, trials = finished(store, 6)
    store.delete_run(trials[2].run_id)
    keep(open_study(store, ledger.spec))
    history, helped = read(store, ledger.spec)
    assert helped
    assert [trial.number for trial in history] == [0, 1, 3, 4, 5]


def restore(store: Store, run: str) -> None:
    if isinstance(store, MemoryStore):
        store.deleted.discard(run)
    else:
        store._client.restore_run(run)  # type: ignore[attr-defined]


def test_restored_trials_come_back(store: Store) -> None:
    ledger, trials = finished(store, 6)
    store.delete_run(trials[2].run_id)
    keep(open_study(store, ledger.spec))
    restore(store, trials[2].run_id)
    assert len(read(store, ledger.spec)[0]) == 6
    store.delete_run(trials[3].run_id)  # as many runs as in the snapshot, but not the same
    assert [trial.number for trial in read(store, ledger.spec)[0]] == [0, 1, 2, 4, 5]


def delete_for_good(store: Store, run: str, request: pytest.FixtureRequest) -> None:
    """What ``mlflow gc`` does with a deleted run."""
    store.delete_run(run)
    if isinstance(store, MemoryStore):
        del store.runs[run]
        return
    backend = store.uri
    if backend.startswith("http"):
        backend = f"sqlite:///{request.getfixturevalue('mlflow_server').folder}/mlflow.db"
    SqlAlchemyStore(backend, "/nowhere")._hard_delete_run(run)


def test_trials_deleted_for_good_vanish(store: Store, request: pytest.FixtureRequest) -> None:
    ledger, trials = finished(store)
    keep(ledger)
    delete_for_good(store, trials[1].run_id, request)
    history, helped = read(store, ledger.spec)
    assert [trial.number for trial in history] == [0, 2, 3, 4]
    assert not helped
    ledger = open_study(store, ledger.spec)
    keep(ledger)
    assert read(store, ledger.spec)[1], "the next snapshot knows"


def test_runs_of_clocks_that_are_behind_are_found() -> None:
    store = MemoryStore(clock=slow_clock())
    ledger, _ = finished(store)
    keep(ledger)
    store._clock = lambda: 1_000_050
    late = reserve(open_study(store, ledger.spec))
    history, helped = read(store, ledger.spec)
    assert history.trials[-1].run_id == late.run_id
    assert not helped


def test_foreign_runs_are_skipped_with_the_same_words(store: Store) -> None:
    ledger, _ = finished(store, 3)
    parent = {"mlflow.parentRunId": ledger.study_run.id}
    store.create_run(ledger.study_run.experiment, "by hand", parent)
    broken = parent | {"hpo.role": "trial", "hpo.schema": "1", "hpo.number": "3", "hpo.config": "{"}
    store.set_status(store.create_run(ledger.study_run.experiment, "broken", broken).id, FAILED)
    for _ in range(2):
        one_trial(ledger)
    keep(ledger)
    history, helped = read(store, ledger.spec)
    assert helped
    assert [trial.number for trial in history] == [0, 1, 2, 4, 5]


def test_studies_of_one_experiment_do_not_mix(store: Store) -> None:
    shared = f"experiment-{uuid.uuid4().hex[:8]}"
    (one, _), (other, _) = finished(store, 3, experiment=shared), finished(store, 3, experiment=shared)
    for ledger in (one, other, one, other):
        one_trial(ledger)
    for ledger in (one, other):
        keep(ledger)
        one_trial(ledger)
        history, helped = read(store, ledger.spec)
        assert helped
        assert [trial.number for trial in history] == list(range(6))


def test_runs_logged_beside_a_study_are_not_seen(store: Store) -> None:
    ledger, _ = finished(store)
    keep(ledger)
    store.create_run(ledger.study_run.experiment, "by hand", {"hpo.role": "trial", "hpo.number": "7"})
    assert ledger.load().next_number == 5
    assert read(store, ledger.spec)[1]


def test_what_failed_just_now_is_not_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another flow may be about to write that it is lost."""
    ledger, _ = finished(store, 3)
    trial = reserve(ledger)
    ledger.write(Report(trial.run_id, tags={"hpo.reason": "ValueError: no"}, status=FAILED))
    ledger.release(trial)
    for _ in range(2):
        one_trial(ledger)
    if isinstance(store, MemoryStore):  # whose clock is at the beginning
        monkeypatch.setattr(ownership, "now_ms", lambda: 1_000_000)
    keep(ledger)
    store.log(trial.run_id, [], {}, {"hpo.lost": "died", "hpo.reason": "lost: its lease ran out"})
    assert read(store, ledger.spec)[0].trials[3].notes["lost"] == "died"


def damaged(good: bytes) -> Iterator[tuple[str, bytes]]:
    body = gzip.decompress(good)
    yield "empty", b""
    yield "text", b"not a snapshot"
    yield "cut off", good[: len(good) // 2]
    yield "without its end", good[:-4]
    yield "another digit", gzip.compress(body[:-9] + b"#" + body[-8:])
    yield "a later format", gzip.compress(body.replace(FORMAT.encode(), b"hpo-snapshot-3"))
    yield "no header", gzip.compress(b"[1, 2]\n[]")
    yield "another study's", pack(Snapshot("elsewhere", [Run("r1", "1", "", "FINISHED", 1, 2)]))
    yield "without runs", pack(Snapshot(json.loads(body.partition(b"\n")[0])["study"], []))
    yield "wrong types", pack(Snapshot("elsewhere", [Run("r1", "1", "", "FINISHED", None)]))  # type: ignore[arg-type]


def test_a_damaged_snapshot_is_as_good_as_none(store: Store, tmp_path: Path) -> None:
    ledger, _ = finished(store)
    keep(ledger)
    good = store.download(ledger.study_run.id, ARTIFACT)
    assert good is not None
    path = tmp_path / SNAPSHOT
    for kind, data in damaged(good):
        path.write_bytes(data)
        store.upload(ledger.study_run.id, path, SNAPSHOT_FOLDER)
        history, helped = read(store, ledger.spec)
        assert len(history) == 5
        assert not helped, kind


def test_a_snapshot_that_is_gone_is_as_good_as_none(store: Store) -> None:
    ledger, _ = finished(store)
    ledger.study.log({"hpo.snapshot": "5"})
    assert len(read(store, ledger.spec)[0]) == 5
    assert store.download(ledger.study_run.id, ARTIFACT) is None


def test_it_is_written_when_it_is_due(store: Store) -> None:
    ledger, _ = finished(store, 3)
    ledger.load()
    assert not ledger.save_snapshot(), "a small study needs none"
    one_trial(ledger)
    keep(ledger)
    assert not ledger.save_snapshot()
    again = open_study(store, ledger.spec)
    again.load()
    assert not again.save_snapshot(), "nothing new since the one that was read"
    one_trial(again)
    again.load()
    assert not again.save_snapshot(news=2)
    assert again.save_snapshot()


def test_a_store_that_takes_no_artifacts_stops_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ledger, _ = finished(store)

    def refuse(*arguments: Any) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(type(store.with_patience(5.0)), "upload", refuse)
    ledger.load()
    with caplog.at_level(logging.WARNING):
        assert not ledger.save_snapshot()
    assert "no snapshot" in caplog.text
    assert not read(store, ledger.spec)[1]


def test_a_flow_writes_it_at_its_end() -> None:
    store = MemoryStore(clock=slow_clock())
    ledger, _ = finished(store, 101, stop={"trials": 101})
    run_flow(open_study(store, ledger.spec), Objective("nowhere:train"))
    assert read(store, ledger.spec)[1]


def test_one_long_trial_does_not_make_every_load_read_the_others(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "FEW", 3)
    ledger, _ = finished(store, 1)
    slow = reserve(ledger)
    for _ in range(6):
        one_trial(ledger)
    other = open_study(store, ledger.spec)
    other.load()
    search, found = store.search, []

    def noting(*arguments: Any, **which: Any) -> list[Run]:
        runs = search(*arguments, **which)
        found.extend(runs)
        return runs

    monkeypatch.setattr(store, "search", noting)
    assert [trial.number for trial in other.load().running] == [1]
    assert len(found) < 5
    finish(ledger, slow, 0.9)
    assert other.load().trials[1].loss == -0.9
    store.delete_run(slow.run_id)
    assert len(other.load()) == 8, "finished runs are read once in a process"


def test_a_running_trial_that_is_deleted_vanishes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "FEW", 3)
    ledger, _ = finished(store, 1)
    slow = reserve(ledger)
    for _ in range(6):
        one_trial(ledger)
    other = open_study(store, ledger.spec)
    assert len(other.load()) == 8
    store.delete_run(slow.run_id)
    assert [trial.number for trial in other.load()] == [0, 2, 3, 4, 5, 6, 7]


def test_a_load_with_a_snapshot_costs_a_handful_of_requests(
    mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searches, "PAGE", 2)
    monkeypatch.setattr(reader, "MARGIN_MS", 0)  # or the pages depend on how many runs a while has
    for trials in (5, 25):
        ledger, _ = finished(connect(mlflow_server.uri), trials)
        keep(ledger)
        fresh = open_study(connect(mlflow_server.uri), ledger.spec)
        with counted_requests(monkeypatch) as sent:
            assert len(fresh.load()) == trials
        assert len(sent) == 5, sent


names = st.text(max_size=20)
runs = st.builds(
    Run,
    id=names,
    experiment=names,
    name=names,
    status=st.sampled_from(["FINISHED", "FAILED", "KILLED"]),
    start=st.integers(0, 2**53),
    end=st.none() | st.integers(0, 2**53),
    params=st.dictionaries(names, names, max_size=4),
    metrics=st.dictionaries(names, st.floats(allow_nan=False), max_size=4),
    tags=st.dictionaries(names, names, max_size=4),
)
snapshots = st.builds(Snapshot, names, st.lists(runs, max_size=4), st.lists(names, max_size=4))


@given(snapshots)
def test_unpacking_inverts_packing(snapshot: Snapshot) -> None:
    assert unpack(pack(snapshot)) == snapshot


@given(st.binary(max_size=300) | st.binary(max_size=100).map(gzip.compress) | st.text(max_size=100).map(str.encode))
def test_foreign_bytes_are_nothing(data: bytes) -> None:
    assert unpack(data) is None


@given(snapshots, st.data())
def test_a_changed_byte_gives_the_same_or_nothing(snapshot: Snapshot, data: st.DataObject) -> None:
    packed = bytearray(pack(snapshot))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    assert unpack(bytes(packed)) in (None, snapshot)
