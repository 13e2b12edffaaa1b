"""One suite over the in-memory double and over real MLflow: sqlite in the process, a server, and its REST API."""

from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from hpo_core.base.errors import InputError, StudyConflict, TrackingError, TrackingRefusal
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal, Trial, TrialState
from hpo_core.ledger import ownership, reader
from hpo_core.ledger.ledger import Ledger, Report
from hpo_core.ledger.store import FAILED, FINISHED, Dataset, Metric, Run, Store
from hpo_core.ledger.tags import CLAIMS, Tag, unfold
from hpo_core.lineage import opening
from hpo_core.lineage.opening import find_study, open_study
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec
from hpo_core.tracking import histories
from hpo_core.tracking import mlflow_store as tracking
from hpo_core.tracking.connection import connect, connect_to_read
from tests.conftest import MlflowServer
from tests.memory_store import MemoryStore


@pytest.fixture(
    params=["memory", "sqlite", "server", *(pytest.param(each, marks=pytest.mark.slow) for each in ("file", "rest"))]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
    elif request.param == "sqlite":
        yield connect(f"sqlite:///{tmp_path}/mlflow.db")
    elif request.param == "file":
        yield connect_to_read(f"sqlite:///{tmp_path}/mlflow.db")
    else:
        server: MlflowServer = request.getfixturevalue("mlflow_server")
        yield connect(server.uri) if request.param == "server" else connect_to_read(server.uri)


def make_spec(**changes: Any) -> StudySpec:
    data: dict[str, Any] = {
        "name": f"study-{uuid.uuid4().hex[:8]}",
        "objective": "nowhere:train",
        "metric": "score",
        "direction": "maximize",
        "space": {
            "rate": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
            "layers": {"type": "choice", "choices": [1, "1", None, True, 0.5]},
        },
        "stop": {"trials": 100},
    }
    return study_from(data | changes)


def reserve(ledger: Ledger) -> Trial:
    history = ledger.load()
    trial = ledger.reserve(ledger.spec.propose(history, 1)[0], history)
    assert trial is not None
    return trial


def finish(ledger: Ledger, trial: Trial, score: float, status: str = FINISHED) -> None:
    params = ledger.spec.search_space.to_params(trial.config)
    values = {objective.metric: score / 10**i for i, objective in enumerate(ledger.spec.objectives)}
    values |= {metric: score for metric in ledger.spec.limits}
    metrics = [Metric(key, value, ownership.now_ms(), 0) for key, value in values.items()]
    ledger.write(Report(trial.run_id, metrics, params, {Tag.RESULT: "score"}, status))
    ledger.release(trial)


def test_a_trial_is_in_the_history_before_it_is_trained(store: Store) -> None:
    spec = make_spec()
    one, other = open_study(store, spec), open_study(store, spec)
    trial = reserve(one)
    (seen,) = other.load().trials
    assert (seen.number, seen.config, seen.state) == (0, trial.config, TrialState.RUNNING)


def test_a_result_in_several_metrics_is_read_as_losses(store: Store) -> None:
    spec = make_spec(metric="", direction="", metrics={"score": "maximize", "ms": "minimize"})
    ledger = open_study(store, spec)
    first, second, third = (reserve(ledger) for _ in range(3))
    finish(ledger, first, 0.5)
    for trial, values in ((second, {"score": 0.9}), (third, {"score": 0.9, "ms": math.inf})):
        metrics = [Metric(key, value, ownership.now_ms()) for key, value in values.items()]
        ledger.write(Report(trial.run_id, metrics, {}, {Tag.RESULT: "score"}, FINISHED))
        ledger.release(trial)
    found, *failed = open_study(store, spec).load()
    assert (found.state, found.loss, found.losses) == (TrialState.COMPLETE, -0.5, (-0.5, 0.05))
    assert {trial.reason for trial in failed} == {"finished without a finite ms"}


def test_a_result_is_read_as_a_loss(store: Store) -> None:
    ledger = open_study(store, make_spec())
    finish(ledger, reserve(ledger), 0.1 + 0.2)
    (trial,) = ledger.load().trials
    assert (trial.state, trial.loss) == (TrialState.COMPLETE, -(0.1 + 0.2))
    assert trial.metrics["score"] == 0.1 + 0.2


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_result_that_is_not_finite_is_a_failure(store: Store, score: float) -> None:
    ledger = open_study(store, make_spec())
    finish(ledger, reserve(ledger), score)
    (trial,) = ledger.load().trials
    assert (trial.state, trial.loss) == (TrialState.FAILED, None)
    assert "score" in trial.reason


def test_configurations_come_back_to_the_last_bit(store: Store) -> None:
    ledger = open_study(store, make_spec())
    configs = [{"rate": 0.1 + 1e-16 * i, "layers": layers} for i, layers in enumerate([1, "1", None, True, 0.5])]
    for config in configs:
        history = ledger.load()
        assert ledger.reserve(Proposal(config), history) is not None
    again = [dict(trial.config) for trial in open_study(store, ledger.spec).load()]
    assert again == configs
    assert [type(config["layers"]) for config in again] == [int, str, type(None), bool, float]


def test_two_flows_never_get_the_same_number_or_configuration(store: Store) -> None:
    spec = make_spec(strategy="random")
    flows = [open_study(store, spec) for _ in range(2)]
    for _ in range(5):
        histories = [flow.load() for flow in flows]
        trials = [f.reserve(spec.propose(h, 1)[0], h) for f, h in zip(flows, histories, strict=True)]
        assert trials[0] is not None
        assert trials[1] is None  # it proposed for the same number, and was slower
        reserve(flows[1])
    history = open_study(store, spec).load()
    assert [trial.number for trial in history] == list(range(10))
    assert len(history.identities) == 10


def test_an_incremental_load_sees_what_another_flow_finishes(store: Store) -> None:
    spec = make_spec()
    one, other = open_study(store, spec), open_study(store, spec)
    slow = reserve(one)
    for _ in range(3):
        finish(other, reserve(other), 0.5)
    assert [trial.state for trial in other.load()] == [TrialState.RUNNING] + [TrialState.COMPLETE] * 3
    finish(one, slow, 0.7)
    assert other.load().incumbent == one.load().incumbent
    assert other.load().trials[0].loss == -0.7


def test_where_many_trials_are_open_a_look_reads_those_that_began_or_ended(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "CROWD", 5)
    monkeypatch.setattr(reader, "NEWS_SECONDS", 3600.0)
    for margin in ("MARGIN_MS", "QUEUE_MS"):
        monkeypatch.setattr(reader, margin, 0)
    spec = make_spec()
    one, other = open_study(store, spec), open_study(store, spec)
    trials = [reserve(one) for _ in range(8)]
    assert len(other.load().running) == 8
    finish(one, trials[3], 0.5)
    begun = reserve(one)
    read: list[int] = []
    search = type(store).search

    def counting(self: Store, *which: Any, **more: Any) -> list[Run]:
        found = search(self, *which, **more)
        read.append(len(found))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "search", counting)
        history = other.look()
    assert sum(read) <= 4, read
    assert not other.up_to_date
    assert history.digest == open_study(store, spec).load().digest
    assert [trial.number for trial in history.complete] == [3]
    assert begun.number in {trial.number for trial in history.running}
    store.delete_run(trials[0].run_id)
    other.look()
    assert trials[0].number not in {trial.number for trial in other.load()}, "a load reads all"
    assert other.up_to_date


def test_a_flow_knows_of_its_own_trials_what_mlflow_has(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "NEWS_SECONDS", 3600.0)
    ledger = open_study(store, make_spec())
    assert len(ledger.load()) == 0
    points = [
        [Metric("score", 0.5, 10, 3), Metric("score", 0.25, 20, 3), Metric("score", 0.75, 5, 3)],
        [Metric("score", math.nan, 10, 0), Metric("score", 0.1 + 0.2, 30, 1), Metric("later", 1.0, 9, 1)],
        [Metric("score", math.inf, 10, 0)],
        [Metric("score", 1.0, 10, 0), Metric("score", math.nan, 40, 0), Metric("rung", -0.0, 1, 0)],
        [Metric("loss", 1e-320, 10, 0)],
    ]
    for number, metrics in enumerate(points):
        history = ledger.look()
        assert not ledger.up_to_date or number == 0
        trial = ledger.reserve(ledger.spec.propose(history, 1)[0], history)
        assert trial is not None
        params = ledger.spec.search_space.to_params(trial.config)
        ledger.write(Report(trial.run_id, metrics[:1], params, {Tag.LEASE: ownership.new_lease()}))
        status = FAILED if number == 4 else FINISHED
        ledger.write(Report(trial.run_id, metrics[1:], {}, {Tag.RESULT: "score", Tag.REACHED: "2.0"}, status))
        if number % 2:  # the others are known before they are released
            ledger.release(trial)
    known = ledger.look()
    read = open_study(store, ledger.spec).load()
    assert known.digest == read.digest
    ends = [[replace(trial, end=0, owner="") for trial in history] for history in (known, read)]
    assert ends[0] == ends[1]


def test_what_somebody_else_writes_to_a_trial_is_read(store: Store) -> None:
    ledger = open_study(store, make_spec())
    trial = reserve(ledger)
    ledger.share(trial.run_id)
    store.log(trial.run_id, [Metric("score", 0.75, ownership.now_ms(), 9)], {}, {})
    finish(ledger, trial, 0.5)
    assert [trial.loss for trial in ledger.look()] == [-0.75]


def test_a_run_without_a_claim_is_settled_by_whoever_meets_it(store: Store) -> None:
    spec = make_spec()
    ledger = open_study(store, spec)
    history = ledger.load()
    real_claim = ledger.store.claim

    class Died(Exception):
        pass

    def die(*arguments: Any) -> bool:
        raise Died

    ledger.store.claim = die  # type: ignore[method-assign]
    with pytest.raises(Died):
        ledger.reserve(spec.propose(history, 1)[0], history)
    ledger.store.claim = real_claim  # type: ignore[method-assign]
    other = open_study(store, spec)
    assert reserve(other).number == 1
    assert [trial.number for trial in open_study(store, spec).load()] == [0, 1]


def test_a_flow_that_meets_the_run_of_a_loser_looks_for_the_winner(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the model: it took the loser's number as known, and proposed the winner's configuration again."""
    spec = make_spec()
    ledger = open_study(store, spec)
    tags = {"mlflow.parentRunId": ledger.study_run.id, "hpo.role": "trial", "hpo.schema": "1", "hpo.number": "0"}
    loser = store.create_run(ledger.study_run.experiment, "loser", tags | {"hpo.config": '{"rate": 0.5, "layers": 1}'})
    winner = store.create_run(
        ledger.study_run.experiment, "winner", tags | {"hpo.config": '{"rate": 0.1, "layers": 1}'}
    )
    assert store.claim(ledger.claims_run, "trial.0", winner.id)
    search = store.search

    def before_the_winner(*arguments: Any) -> Any:
        monkeypatch.undo()
        return [run for run in search(*arguments) if run.id != winner.id]

    monkeypatch.setattr(store, "search", before_the_winner)
    (trial,) = ledger.load().trials
    assert (trial.run_id, trial.config["rate"]) == (winner.id, 0.1)
    assert loser.id not in {trial.run_id for trial in ledger.load()}


def test_a_trial_whose_process_is_gone_is_reaped_and_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec()
    dead = open_study(store, spec)
    dead.owner = dead.owner.replace("/", "/999999999/", 1)  # a process id that cannot be
    lost = reserve(dead)
    ledger = open_study(store, spec)
    ledger.load()
    assert [trial.number for trial in ledger.reap()] == [0]
    (trial,) = ledger.load().trials
    assert (trial.state, trial.notes["lost"]) == (TrialState.FAILED, "died")
    assert "gone" in trial.reason
    again = reserve(ledger)
    assert (again.number, again.config, again.notes["retry_of"]) == (1, lost.config, "0")


def test_a_trial_is_reaped_when_its_lease_ran_out_and_no_sooner(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec()
    reserve(open_study(store, spec))
    ledger = open_study(store, spec)
    ledger.load()
    now = ownership.now_ms()
    monkeypatch.setattr(ownership, "now_ms", lambda: now + int(3 * ownership.RENEW_SECONDS * 1000))
    assert ledger.reap() == []
    monkeypatch.setattr(ownership, "now_ms", lambda: now + int(ownership.LEASE_SECONDS * 1000) + 5_000)
    assert [trial.number for trial in ledger.reap()] == [0]


def test_a_late_result_of_a_trial_thought_dead_is_taken(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec()
    slow, other = open_study(store, spec), open_study(store, spec)
    trial = reserve(slow)
    other.load()
    now = ownership.now_ms()
    monkeypatch.setattr(ownership, "now_ms", lambda: now + int(ownership.LEASE_SECONDS * 1000) + 5_000)
    assert other.reap()
    finish(slow, trial, 0.9)
    (late,) = open_study(store, spec).load().trials
    assert (late.state, late.loss, late.reason) == (TrialState.COMPLETE, -0.9, "")


def test_a_deleted_trial_leaves_a_gap_and_the_study_goes_on(store: Store) -> None:
    spec = make_spec()
    ledger = open_study(store, spec)
    trials = [reserve(ledger) for _ in range(3)]
    for trial in trials:
        finish(ledger, trial, 0.5)
    store.delete_run(trials[1].run_id)
    store.delete_run(trials[2].run_id)  # the newest, too
    again = open_study(store, spec)
    assert [trial.number for trial in again.load()] == [0]
    numbers = []
    for _ in range(4):  # it finds out number by number that 1 and 2 are taken
        history = again.load()
        trial = again.reserve(spec.propose(history, 1)[0], history)
        numbers.append(None if trial is None else trial.number)
    assert numbers == [None, None, 3, 4]


def test_a_changed_space_is_refused_and_named(store: Store) -> None:
    spec = make_spec()
    open_study(store, spec)
    changed = study_from(spec.model_dump() | {"space": {"rate": {"type": "float", "low": 1e-4, "high": 2.0}}})
    with pytest.raises(StudyConflict, match=r"space\.rate\.high: 1\.0 -> 2\.0") as caught:
        open_study(store, changed)
    assert "give the new one a name of its own" in str(caught.value) and "hpo delete" in str(caught.value)


def test_what_may_change_is_taken_and_told(store: Store) -> None:
    spec = make_spec()
    open_study(store, spec)
    told: list[str] = []
    changed = study_from(spec.model_dump() | {"stop": {"trials": 7}, "strategy": "random"})
    open_study(store, changed, on_message=told.append)
    assert len(told) == 2
    assert find_study(store, spec.name).spec == changed


def test_a_study_is_found_by_its_name(store: Store) -> None:
    spec = make_spec(experiment=f"experiment-{uuid.uuid4().hex[:8]}")
    ledger = open_study(store, spec)
    assert find_study(store, spec.name).study_run.id == ledger.study_run.id
    with pytest.raises(InputError, match="no study named 'absent'"):
        find_study(store, "absent")


def test_two_runs_that_claim_to_be_the_study_are_an_error(store: Store) -> None:
    spec = make_spec()
    ledger = open_study(store, spec)
    copy = store.create_run(ledger.study_run.experiment, spec.name, ledger.study_run.tags)
    store.log(copy.id, [], {"study": spec.name}, {})
    for opener in (lambda: open_study(store, spec), lambda: find_study(store, spec.name)):
        with pytest.raises(InputError, match="two runs claim to be it") as caught:
            opener()
        assert copy.id in str(caught.value)


def test_foreign_and_damaged_runs_are_skipped_and_counted(store: Store) -> None:
    spec = make_spec()
    ledger = open_study(store, spec)
    good = reserve(ledger)
    finish(ledger, good, 0.5)
    parent = {"mlflow.parentRunId": ledger.study_run.id}
    experiment = ledger.study_run.experiment
    store.create_run(experiment, "by hand", {})  # not below the study: not even read
    store.create_run(experiment, "nested by hand", parent)
    trial = parent | {"hpo.role": "trial", "hpo.schema": "1"}
    store.create_run(experiment, "no config", trial | {"hpo.number": "1"})
    store.create_run(experiment, "broken config", trial | {"hpo.number": "2", "hpo.config": "{"})
    store.create_run(experiment, "old", parent | {"hpo.role": "trial", "hpo.number": "3", "hpo.schema": "0"})
    again = open_study(store, spec)
    assert [seen.number for seen in again.load()] == [0]
    assert len(again.skipped) == 4
    assert reserve(again).number == 4


@pytest.mark.parametrize("name", ["x or 1=1", "a;b", "naïve study", "100", "tags.x"])
def test_names_are_data_in_searches(store: Store, name: str) -> None:
    spec = make_spec(name=f"{name} {uuid.uuid4().hex[:6]}")
    open_study(store, spec)
    assert find_study(store, spec.name).spec == spec


def test_a_long_configuration_is_not_cut(store: Store) -> None:
    names = [f"parameter_{i:03d}" for i in range(400)]
    spec = make_spec(space={name: {"type": "float", "low": 0, "high": 1} for name in names}, strategy="random")
    trial = reserve(open_study(store, spec))
    (again,) = open_study(store, spec).load().trials
    assert again.config == trial.config


def test_a_failed_trial_says_why(store: Store) -> None:
    ledger = open_study(store, make_spec())
    trial = reserve(ledger)
    ledger.write(Report(trial.run_id, tags={"hpo.reason": "ValueError: no"}, status=FAILED))
    ledger.release(trial)
    (failed,) = ledger.load().trials
    assert (failed.state, failed.reason) == (TrialState.FAILED, "ValueError: no")


def test_a_deleted_experiment_is_named_with_the_way_back(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    spec = make_spec()
    ledger = open_study(connect(uri), spec)
    MlflowClient(uri).delete_experiment(ledger.study_run.experiment)
    with pytest.raises(InputError, match=f"{spec.name}.*deleted.*restore"):
        open_study(connect(uri), spec)


def test_a_renamed_experiment_is_the_studys_still(tmp_path: Path) -> None:
    store = connect(f"sqlite:///{tmp_path}/mlflow.db")
    client, spec = MlflowClient(store.uri), make_spec(experiment="digits")
    ledger = open_study(store, spec)
    finish(ledger, reserve(ledger), 0.5)
    client.rename_experiment(ledger.study_run.experiment, "digits of last year")
    told: list[str] = []
    again = open_study(store, spec, on_message=told.append)
    assert again.study_run.id == ledger.study_run.id and len(again.load().complete) == 1
    assert "'digits' has another name" in told[0] and client.get_experiment_by_name("digits") is None
    assert find_study(store, spec.name, "digits").study_run.id == ledger.study_run.id
    store.experiment("digits", create=True)  # another study's
    assert open_study(store, spec).study_run.id == ledger.study_run.id
    elsewhere = make_spec(name=spec.name, experiment="another place")  # which is another study, as ever
    assert open_study(store, elsewhere).study_run.id != ledger.study_run.id
    renamed = make_spec(name=spec.name, experiment="digits of last year")  # the file follows
    assert open_study(store, renamed).study_run.id == ledger.study_run.id


@pytest.mark.parametrize("what", ["experiment", "run", "both"])
def test_claims_that_were_deleted_are_restored(tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture) -> None:
    store = connect(f"sqlite:///{tmp_path}/mlflow.db")
    client, ledger = MlflowClient(store.uri), open_study(store, make_spec())
    finish(ledger, reserve(ledger), 0.5)
    experiment = client.get_experiment_by_name(CLAIMS)
    if what in ("run", "both"):
        client.delete_run(ledger.claims_run)
    if what in ("experiment", "both"):
        client.delete_experiment(experiment.experiment_id)
    assert reserve(ledger).number == 1
    assert "are restored" in caplog.text
    assert open_study(store, ledger.spec).load().next_number == 2
    if what == "experiment":
        client.delete_experiment(experiment.experiment_id)
        assert reserve(open_study(store, make_spec())).number == 0  # a new study needs the experiment, too


def test_renamed_claims_are_the_studys_still(tmp_path: Path) -> None:
    store = connect(f"sqlite:///{tmp_path}/mlflow.db")
    client, ledger = MlflowClient(store.uri), open_study(store, make_spec())
    finish(ledger, reserve(ledger), 0.5)
    client.rename_experiment(client.get_experiment_by_name(CLAIMS).experiment_id, "what is this")
    client.update_run(ledger.claims_run, name="whatever")
    assert reserve(open_study(store, ledger.spec)).number == 1
    assert reserve(open_study(store, make_spec())).number == 0


def test_claims_that_are_gone_for_good_are_one_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = open_study(store, make_spec())
    get = type(store).get

    def gone(self: Store, *arguments: Any) -> Any:
        if arguments[0] == ledger.claims_run:
            raise TrackingRefusal("RESOURCE_DOES_NOT_EXIST", "no such run")
        return get(self, *arguments)

    monkeypatch.setattr(type(store), "claim", gone)
    monkeypatch.setattr(type(store), "get", gone)
    with pytest.raises(InputError, match=r"its claims are gone .*warm_start"):
        reserve(ledger)


@pytest.mark.parametrize("what", ["experiment", "run"])
def test_a_study_that_is_deleted_while_it_runs_says_so(tmp_path: Path, what: str) -> None:
    store = connect(f"sqlite:///{tmp_path}/mlflow.db")
    client, ledger = MlflowClient(store.uri), open_study(store, make_spec())
    assert ledger.hear() == [] and not ledger.study.stop_requested
    delete, id = (
        (client.delete_run, ledger.study_run.id)
        if what == "run"
        else (client.delete_experiment, ledger.study_run.experiment)
    )
    delete(id)
    with pytest.raises(InputError, match=f"deleted in MLflow.*mlflow {what}s restore --{what}-id {id}"):
        ledger.hear()


def test_many_flows_create_one_study(store: Store) -> None:
    from concurrent.futures import ThreadPoolExecutor

    spec = make_spec()
    if isinstance(store, MemoryStore):
        pytest.skip("the model test interleaves the in-memory store")
    store.experiment(spec.experiment, create=True)
    stores: list[Store] = [connect(store.uri) for _ in range(4)]
    opener: Callable[[Store], str] = lambda each: open_study(each, spec).study_run.id  # noqa: E731
    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(opener, stores))) == 1


@pytest.mark.parametrize("decision", ["withdrawn", "elected"])
def test_a_candidate_that_another_flow_withdraws_at_this_moment(
    store: Store, decision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow refuses to write to it, as it is deleted; seen where a busy machine held up the election."""
    monkeypatch.setattr(opening, "ELECTION_SECONDS", 0.0)
    spec, claim, late = make_spec(), store.claim, list[str]()
    experiment = store.experiment(spec.experiment, create=True)
    assert experiment is not None
    opening._create_study(store, experiment, spec, {})  # of a flow that died

    def another_is_first(run: str, key: str, value: str) -> bool:
        if (value == "withdrawn") == (decision == "withdrawn") and not late:
            late.append(run)
            claim(run, key, "withdrawn")
            store.delete_run(run)
        return claim(run, key, value)

    monkeypatch.setattr(store, "claim", another_is_first)
    begun = open_study(store, spec).study_run.id
    assert late and begun not in late
    assert find_study(store, spec.name).study_run.id == begun


def test_trials_that_log_one_data_set_at_the_same_moment_all_have_it(tmp_path: Path) -> None:
    store = connect(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = store.experiment("data", create=True)
    assert experiment is not None
    for digest in ("a", "b", "c", "d"):
        dataset = Dataset("wine", digest, {"x": ("float64", (-1, 13))}, {})
        runs = [store.create_run(experiment, "trial", {}).id for _ in range(4)]
        start = threading.Barrier(len(runs))

        def note(run: str, dataset: Dataset = dataset, start: threading.Barrier = start) -> None:
            start.wait()
            store.log_dataset(run, dataset, "module:function")

        with ThreadPoolExecutor(len(runs)) as pool:
            list(pool.map(note, runs))
        client = MlflowClient(store.uri)
        assert [len(client.get_run(run).inputs.dataset_inputs) for run in runs] == [1] * len(runs)


@pytest.mark.parametrize("server", ["sqlite", "mlflow_server"])
def test_a_number_that_the_store_fails_over_is_refused_and_not_asked_for_ever(
    server: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow calls its own error internal; that of a server that does not respond bears the same code."""
    uri = f"sqlite:///{tmp_path}/mlflow.db" if server == "sqlite" else request.getfixturevalue(server).uri
    store = connect(uri)
    experiment = store.experiment(f"refusals of {server}", create=True)
    assert experiment is not None
    run = store.create_run(experiment, "refused", {})
    monkeypatch.setattr(tracking, "INTERNAL_SECONDS", 0.5)
    with pytest.raises(TrackingRefusal):
        store.log(run.id, [Metric("loss", 1.0, 1, 10**20)], {}, {})
    # Asked once, a database may just have failed; over HTTP, such a number cannot even be sent.
    with pytest.raises(TrackingError if server == "sqlite" else TrackingRefusal):
        store.with_patience(0.0).log(run.id, [Metric("loss", 1.0, 1, 10**20)], {}, {})
    store.log(run.id, [Metric("loss", 1.0, 1, 2**63 - 1)], {}, {})
    assert store.get(run.id).metrics == {"loss": 1.0}


def test_a_trial_has_few_tags_and_says_where_it_comes_from(store: Store) -> None:
    ledger = open_study(store, make_spec(strategy="random"))
    trial = reserve(ledger)
    tags = store.get(trial.run_id).tags
    ours = {key.removeprefix("hpo.") for key in tags if key.startswith("hpo.")}
    assert ours == {"role", "study", "number", "strategy", "proposal", "owner", "lease"}
    assert tags["mlflow.note.content"].startswith("Proposed by random: by no model.\n\nTrial 0 of the study [")
    told = unfold(tags)
    assert (told[Tag.SEED], told[Tag.HISTORY]) == (str(ledger.spec.seed), History().digest)
    assert trial.notes == {"strategy": "random"}


def test_a_metrics_history_is_read_for_many_runs_at_once(store: Store) -> None:
    ledger = open_study(store, make_spec())
    runs = [reserve(ledger).run_id for _ in range(3)]
    for run, values in zip(runs, [(0.5, 0.25, math.nan), (1.0,), ()], strict=True):
        store.log(run, [Metric("loss", value, 1_000 + i, i) for i, value in enumerate(values)], {}, {})
        store.log(run, [Metric("other", 3.0, 5)], {}, {})
    store.log(runs[0], [Metric("loss", 0.75, 2_000, 0)], {}, {})  # a second attempt begins again
    found = store.metric_history(runs, "loss", 100)
    assert set(found) == set(runs[:2]) and list(found[runs[1]]) == [Metric("loss", 1.0, 1_000, 0)]
    assert [point.step for point in found[runs[0]]] == [0, 1, 2, 0]
    assert [point.value for point in found[runs[0]]][1::2] == [0.25, 0.75] and math.isnan(found[runs[0]][2].value)
    assert not store.metric_history([], "loss", 100)


@pytest.mark.parametrize("store", ["sqlite", "server"], indirect=True)
def test_a_history_too_long_for_one_request_is_thinned(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "POINTS", 50)
    ledger = open_study(store, make_spec())
    runs = [reserve(ledger).run_id for _ in range(3)]
    for run in runs:
        store.log(run, [Metric("loss", float(i), i, i) for i in range(30)], {}, {})
    found = store.metric_history(runs, "loss", 10)
    for run in runs:
        steps = [point.step for point in found[run]]
        assert steps == sorted(steps) and (steps[0], steps[-1]) == (0, 29)
        assert len(steps) == (30 if run == min(runs) else 10)  # they are read in the order of their ids
