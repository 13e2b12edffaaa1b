"""The studies of a store and what each is doing, over real stores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hpo_core.base.errors import InputError
from hpo_core.ledger import ownership, reader
from hpo_core.ledger.evaluations import FoldLedger
from hpo_core.ledger.ledger import Ledger
from hpo_core.ledger.store import FAILED, FINISHED, KILLED, Store
from hpo_core.ledger.tags import Tag
from hpo_core.lineage.listing import ListedStudy, StudyState, list_studies, study_state
from hpo_core.lineage.opening import find_study, open_study
from hpo_core.tracking.connection import connect
from tests.hpo_core.ledger.test_folds import studied, wanted
from tests.hpo_core.ledger.test_ledger import finish, make_spec, reserve


# The double in memory has a clock of its own; a server has the studies of all tests, which each listing reads.
@pytest.fixture(params=["sqlite", pytest.param("server", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    server = request.param == "server"
    return connect(request.getfixturevalue("mlflow_server").uri if server else f"sqlite:///{tmp_path}/mlflow.db")


def listed(store: Store, *names: str) -> dict[str, ListedStudy]:
    """The studies of these names: a server is shared with other tests."""
    found = list_studies(store)
    assert [study.active for study in found] == sorted((study.active for study in found), reverse=True)
    return {study.name: study for study in found if study.name in names}


def state_of(ledger: Ledger) -> str:
    (study,) = listed(ledger.store, ledger.spec.name).values()
    store, run = ledger.store, ledger.study.check_there()
    history = ledger.load()
    # What one study is said to be doing is the same wherever it is asked.
    assert study.state is study_state(store, run, ledger.spec, history, live=bool(ledger.owners()))
    return study.state.value


def test_studies_that_share_an_experiment_keep_their_trials(store: Store) -> None:
    one, other, empty = (open_study(store, make_spec(experiment="shared")) for _ in range(3))
    for score in (0.1, 0.7, 0.2):
        finish(one, reserve(one), score)
    finish(other, reserve(other), 0.5)
    finish(other, reserve(other), 0.9, FAILED)
    found = listed(store, one.spec.name, other.spec.name, empty.spec.name)
    counts = {name: (len(s.history.complete), len(s.history.failed)) for name, s in found.items()}
    assert counts == {one.spec.name: (3, 0), other.spec.name: (1, 1), empty.spec.name: (0, 0)}
    best = found[one.spec.name].history.incumbent
    assert best is not None and (best.number, best.loss) == (1, -0.7)
    assert found[one.spec.name].history.digest == one.load().digest


def test_it_takes_three_requests_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = connect(f"sqlite:///{tmp_path}/mlflow.db")
    for name in ("a", "b", "c"):
        ledger = open_study(real, make_spec(experiment=name))
        finish(ledger, reserve(ledger), 0.5)
        reserve(ledger)
    calls: Counter[str] = Counter()
    request = real._call

    def counted(each: Callable[[], Any]) -> Any:
        calls["requests"] += 1
        return request(each)

    monkeypatch.setattr(real, "_call", counted)
    monkeypatch.setattr(real, "_rows", None)  # as where there is no database file to read
    before = [real.get(run.id) for run in real.search(real.experiments(), {})]
    calls.clear()
    assert len(list_studies(real)) == 3
    assert calls["requests"] == 3
    assert [real.get(run.id) for run in real.search(real.experiments(), {})] == before


def test_what_a_study_is_doing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = open_study(store, make_spec(stop={"trials": 3}))
    assert state_of(ledger) == "running"  # a flow that has only begun
    trial = reserve(ledger)
    assert state_of(ledger) == "running"
    finish(ledger, trial, 0.5)
    ledger.study.set_status(KILLED)
    assert state_of(ledger) == "stopped"
    ledger.study.set_status(FAILED)
    assert state_of(ledger) == "failed"
    ledger.study.set_status(FINISHED)
    assert state_of(ledger) == "finished"
    ledger.study.request_stop()
    assert state_of(ledger) == "stopped"  # at one of three trials
    for _ in range(2):
        finish(ledger, reserve(ledger), 0.5)
    assert state_of(ledger) == "finished"


def test_a_study_whose_flow_died_is_stopped(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = open_study(store, make_spec())
    reserve(ledger)
    survivor = find_study(store, ledger.spec.name)
    later = ownership.now_ms() + int(1000 * ownership.LEASE_SECONDS) + 1
    for module in ("hpo_core.ledger.ownership", "hpo_core.lineage.listing"):
        monkeypatch.setattr(f"{module}.now_ms", lambda: later)
    assert state_of(survivor) == "stopped"


def test_a_study_that_evaluates_its_finalists_runs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = studied(store)
    folds = FoldLedger(ledger)
    held = folds.reserve(*wanted(ledger, [])[0])
    assert held is not None
    monkeypatch.setattr("hpo_core.lineage.listing.now_ms", lambda: ownership.now_ms() + 10**7)
    assert state_of(ledger) == "running"
    later = ownership.now_ms() + int(1000 * ownership.LEASE_SECONDS) + 1
    monkeypatch.setattr("hpo_core.ledger.ownership.now_ms", lambda: later)
    assert state_of(ledger) == "stopped"


def test_a_large_study_is_read_from_its_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "SNAPSHOT_FROM", 2)
    real = connect(f"sqlite:///{tmp_path}/mlflow.db")
    ledger = open_study(real, make_spec())
    for score in (0.1, 0.3, 0.2):
        finish(ledger, reserve(ledger), score)
    ledger.load()
    assert ledger.save_snapshot()
    asked: list[dict[str, str]] = []
    search = real.search

    def noted(experiments: Sequence[str], tags: Any, *given: Any, **more: Any) -> Any:
        asked.append(dict(tags))
        return search(experiments, tags, *given, **more)

    monkeypatch.setattr(real, "search", noted)
    (study,) = list_studies(real)
    assert len(study.history.complete) == 3 and {Tag.ROLE: "trial"} not in asked


def test_a_damaged_study_does_not_hide_the_others(store: Store) -> None:
    damaged, whole = (open_study(store, make_spec()) for _ in range(2))
    store.log(damaged.study_run.id, [], {}, {Tag.SPEC: "{"})
    found = listed(store, damaged.spec.name, whole.spec.name)
    assert found[damaged.spec.name].state is StudyState.UNREADABLE and found[damaged.spec.name].spec is None
    assert found[whole.spec.name].state is StudyState.RUNNING


def test_a_run_that_lost_its_claim_counts_for_nothing(store: Store) -> None:
    ledger = open_study(store, make_spec())
    trial = reserve(ledger)
    run = store.get(trial.run_id)
    store.create_run(run.experiment, run.name, {**run.tags, Tag.HISTORY: "x"})
    finish(ledger, trial, 0.5)
    (study,) = listed(store, ledger.spec.name).values()
    assert [(each.number, each.run_id) for each in study.history] == [(0, trial.run_id)]


def test_a_study_is_discarded_with_its_evaluations_and_nothing_else(store: Store) -> None:
    ledger, other = studied(store, experiment="both"), studied(store, experiment="both")
    held = FoldLedger(ledger).reserve(*wanted(ledger, [])[0])
    kept = FoldLedger(other).reserve(*wanted(other, [])[0])
    assert held is not None and kept is not None
    with pytest.raises(InputError, match="a flow works on it now; stop that first"):
        ledger.discard()
    store.set_status(held.run_id, FAILED)
    store.delete_run(ledger.claims_run)  # by hand, before
    ledger.discard()
    gone = [ledger.study_run.id, ledger.claims_run, held.run_id, *(trial.run_id for trial in ledger.history())]
    stays = [other.study_run.id, other.claims_run, kept.run_id, *(trial.run_id for trial in other.history())]
    assert all(store.get(run).deleted for run in gone) and not any(store.get(run).deleted for run in stays)
    assert set(listed(store, ledger.spec.name, other.spec.name)) == {other.spec.name}
    for run in gone:  # as the commands that are told on deletion do
        store.restore_run(run)
    assert find_study(store, ledger.spec.name).load().digest == ledger.load().digest
