"""Faults that are forced: many flows at once, servers that go away, results that have to wait."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpo_core.base.errors import TrackingError
from hpo_core.history.history import History
from hpo_core.history.trial import TrialState
from hpo_core.ledger import ownership
from hpo_core.ledger.spool import Spool
from hpo_core.lineage.opening import find_study
from hpo_core.tracking.connection import connect
from hpo_flows.api import open_ledger, run
from hpo_flows.base.paths import home
from hpo_flows.objectives.reference import Objective
from hpo_flows.trials import recorder
from hpo_flows.workers import child as training_process
from tests.conftest import PATIENCE, MlflowServer, Postgres, PrefectServer, free_port, wait_until
from tests.studies import ROOT, called, gated, let_pass, make_spec, start, tune, wait_for_complete, write_study
from tests.studies import _somewhere_else as _somewhere_else

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    """An MLflow server that a test may kill."""
    server = MlflowServer(tmp_path)
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    yield server
    server.stop()


def check_whole(history: History, trials: int) -> None:
    assert [trial.number for trial in history] == list(range(trials + len(history.retaken)))
    assert not history.running
    fresh = [trial.identity for trial in history if trial.repeat_of is None and "retry_of" not in trial.notes]
    assert len(set(fresh)) == len(fresh), "a configuration was proposed twice"


@pytest.mark.parametrize(
    ("server", "count", "trials"),
    [
        ("mlflow_server", 2, 12),
        ("mlflow_server", 4, 200),
        ("postgres", 4, 200),
    ],
)
@pytest.mark.slow
def test_several_processes_tune_one_study(
    server: str,
    count: int,
    trials: int,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = request.getfixturevalue(server).uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    space = {name: {"type": "fixed", "value": value} for name, value in (("flows", count), ("seconds", 0.1))}
    space["x"] = {"type": "float", "low": 0, "high": 1}
    name = f"{count} flows, {trials} trials"  # the servers are there for the whole session, and so is what they keep
    more: dict[str, Any] = {"stop": {"trials": trials}, "parallel": 1, "strategy": "random"}
    path = write_study(tmp_path, "together", name=name, space=space, **more)
    flows = [start(path) for _ in range(count)]
    outputs = [flow.communicate(timeout=PATIENCE)[0] for flow in flows]
    assert [flow.returncode for flow in flows] == [0] * count, outputs
    ledger = find_study(connect(), name)
    history = ledger.load()
    check_whole(history, trials)
    assert len(history.complete) == trials
    store = ledger.store
    runs = store.search([ledger.study_run.experiment], {"mlflow.parentRunId": ledger.study_run.id})
    assert len(runs) == trials, "runs of losers are left"
    assert len({run.tags["hpo.owner"] for run in runs}) == count


def waiting_results(tmp_path: Path) -> list[Path]:
    return list((tmp_path / ".hpo" / "spool").rglob("*.json"))


@pytest.mark.parametrize("seconds", [0, 60])
@pytest.mark.slow
def test_the_mlflow_server_goes_away_and_comes_back(own_server: MlflowServer, tmp_path: Path, seconds: float) -> None:
    flow = start(write_study(tmp_path, "gated", space=gated(tmp_path, 4), stop={"trials": 12}, retries=1))
    wait_for_complete(4)
    own_server.stop()
    let_pass(tmp_path)
    wait_until(lambda: waiting_results(tmp_path), "no result waits")
    time.sleep(seconds)  # how long it is away
    own_server.start()
    output, _ = flow.communicate(timeout=PATIENCE)
    assert flow.returncode == 0, output
    history = find_study(connect(), "study").load()
    check_whole(history, 12)
    assert len(history.complete) == 12, output
    assert waiting_results(tmp_path) == []


@pytest.mark.slow
def test_prefects_server_is_lost_under_the_flow_which_goes_on_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prefect").mkdir()
    server = PrefectServer(tmp_path / "prefect")
    server.start()
    monkeypatch.setenv("HPO_TEST_PREFECT", f"{server.uri}/api")
    try:
        flow = start(write_study(tmp_path, "gated", space=gated(tmp_path, 4), stop={"trials": 16}))
        wait_for_complete(3)
    finally:
        server.stop()
    let_pass(tmp_path)
    output, _ = flow.communicate(timeout=PATIENCE)
    assert flow.returncode == 0, output
    assert output.count("goes on without its view") == 1 and "Traceback" not in output, output
    history = find_study(connect(), "study").load()
    check_whole(history, 16)
    assert len(history.complete) == 16, output


def test_a_prefect_server_that_is_named_and_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPO_TEST_PREFECT", f"http://127.0.0.1:{free_port()}/api")
    flow = start(write_study(tmp_path))
    output, _ = flow.communicate(timeout=PATIENCE)
    assert flow.returncode == 3 and "Traceback" not in output, output
    (line,) = [line for line in output.splitlines() if line.startswith("error:")]
    assert "PREFECT_API_URL" in line
    assert not len(find_study(connect(), "study").load())


@pytest.mark.slow
def test_the_first_signal_ends_a_flow_although_mlflow_is_away(own_server: MlflowServer, tmp_path: Path) -> None:
    flow = start(write_study(tmp_path, stop={"trials": 500}))
    wait_for_complete(2)
    own_server.stop()
    for line in flow.stdout or ():
        if "does not respond; asking again" in line:
            break
    os.kill(flow.pid, signal.SIGINT)
    output, _ = flow.communicate(timeout=PATIENCE)  # and not the half hour for which it would ask
    assert flow.returncode == 130 and "run the same command to go on" in output, output
    assert "Traceback" not in output, output


@pytest.mark.slow
def test_prefects_server_restarts_under_the_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prefect").mkdir()
    server = PrefectServer(tmp_path / "prefect")
    server.start()
    try:
        monkeypatch.setenv("HPO_TEST_PREFECT", f"{server.uri}/api")
        flow = start(write_study(tmp_path, "gated", space=gated(tmp_path, 4), stop={"trials": 20}))
        wait_for_complete(4)
        server.stop()
        let_pass(tmp_path)
        time.sleep(2)  # how long it is away
        server.start()
        output, _ = flow.communicate(timeout=PATIENCE)
    finally:
        server.stop()
    assert flow.returncode == 0, output
    history = find_study(connect(), "study").load()
    check_whole(history, 20)
    assert len(history.complete) == 20, output


@pytest.mark.slow
def test_postgresql_restarts_under_the_flow(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.uri)
    path = write_study(tmp_path, "gated", space=gated(tmp_path, 4), name="restart", stop={"trials": 12})
    flow = start(path)
    wait_for_complete(4, study="restart")
    postgres.stop()
    let_pass(tmp_path)
    wait_until(lambda: waiting_results(tmp_path), "no result waits")
    postgres.start()
    output, _ = flow.communicate(timeout=PATIENCE)
    assert flow.returncode == 0, output
    history = find_study(connect(), "restart").load()
    check_whole(history, 12)
    assert len(history.complete) == 12, output


def test_a_result_waits_on_disk_and_is_reported_by_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec("quick", stop={"trials": 2}, parallel=1)
    ledger = open_ledger(spec)
    write = type(ledger).write

    def unreachable(self: Any, report: Any, **patience: Any) -> None:
        if report.status == "FINISHED":
            raise TrackingError("the MLflow store does not respond")
        write(self, report, **patience)

    with monkeypatch.context() as patch:
        patch.setattr(type(ledger), "write", unreachable)
        with pytest.raises(TrackingError):
            run(ledger, Objective(spec.objective, (str(ROOT),)))
    spool = Spool(home() / "spool" / ledger.study_run.id)
    (waiting,) = [report for _, report in spool.waiting()]
    assert [trial.state for trial in open_ledger(spec).load()] == [TrialState.RUNNING]
    history = tune(spec).history
    assert [trial.state for trial in history] == [TrialState.COMPLETE] * 2
    assert history.trials[0].run_id == waiting.run_id
    assert list(spool.waiting()) == []


def test_a_damaged_waiting_result_is_told_and_left(caplog: pytest.LogCaptureFixture) -> None:
    spec = make_spec("quick", stop={"trials": 1}, parallel=1)
    ledger = open_ledger(spec)
    folder = home() / "spool" / ledger.study_run.id
    folder.mkdir(parents=True)
    (folder / "broken.json").write_text("{")
    (folder / "gone.json").write_text(json.dumps({"run_id": "f" * 32, "metrics": [], "params": {"x": "1"}}))
    with caplog.at_level(logging.WARNING, logger="hpo"):
        assert len(tune(spec).history.complete) == 1
    assert "broken.json" in caplog.text and "gone.refused" in caplog.text
    assert sorted(path.name for path in folder.iterdir()) == ["broken.json", "gone.refused"]


def test_an_artifact_store_that_refuses_costs_no_result(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    (tmp_path / "mlartifacts").write_text("a file where the folder of all artifacts should be")
    result = tune(make_spec("facts", stop={"trials": 2}, parallel=1))
    assert [trial.state for trial in result.history] == [TrialState.COMPLETE] * 2
    for trial in result.history:
        run = MlflowClient(result.tracking_uri).get_run(trial.run_id)
        assert "kept in" in run.data.tags["hpo.artifacts_lost"]
        assert (tmp_path / ".hpo" / "unsent" / trial.run_id / "note.txt").read_text().startswith("seed")


@pytest.mark.slow
def test_a_locked_database_is_asked_again(tmp_path: Path) -> None:
    import sqlite3

    ledger = open_ledger(make_spec())
    other = sqlite3.connect(tmp_path / "mlflow.db", check_same_thread=False, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(8.0, lambda: other.execute("ROLLBACK")).start()
    history = ledger.load()
    trial = ledger.reserve(ledger.spec.propose(history, 1)[0], history)
    assert trial is not None
    other.close()


def test_a_running_trial_renews_its_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "RENEW_SECONDS", 0.3)
    monkeypatch.setattr(recorder, "WRITE_SECONDS", 0.3)
    monkeypatch.setattr(recorder, "FIRST_WRITE_SECONDS", 0.3)
    leases: set[str] = set()
    log = type(connect()).log

    def watch(self: Any, run: Any, metrics: Any, params: Any, tags: Any) -> None:
        leases.update({tags["hpo.lease"]} if "hpo.lease" in tags else ())
        if len(leases) >= 3:
            let_pass(tmp_path)
        log(self, run, metrics, params, tags)

    monkeypatch.setattr(type(connect()), "log", watch)
    tune(make_spec("gated", stop={"trials": 1}, space=gated(tmp_path, 0)))
    assert len(leases) >= 3
    assert ownership.LEASE_SECONDS >= 3 * ownership.RENEW_SECONDS


def test_a_leaking_trial_is_ended_at_its_memory_limit() -> None:
    space = {"how": {"type": "choice", "choices": ["leak", "fine"]}}
    result = tune(make_spec("misbehave", space=space, memory_limit="600MiB", trial_timeout=PATIENCE))
    by_how = {str(trial.config["how"]): trial for trial in result.history}
    assert by_how["fine"].state is TrialState.COMPLETE
    assert by_how["leak"].state is TrialState.FAILED
    assert "memory_limit of 600 MiB" in by_how["leak"].reason


@pytest.mark.slow
def test_stop_from_another_terminal_ends_a_study_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flow = start(write_study(tmp_path, stop={"trials": 500}))
    wait_for_complete(2)
    code, told, _ = called(["stop", "study"], monkeypatch, capsys)
    assert code == 0 and "no further trial starts" in told
    output, _ = flow.communicate(timeout=PATIENCE)
    assert flow.returncode == 0 and "hpo stop was called" in output
    history = find_study(connect(), "study").load()
    assert not history.running and not history.failed and len(history) < 500
    # A stop is over when it has stopped.
    code, *output = called(["tune", "study.yaml", "--trials", str(len(history) + 2)], monkeypatch, capsys)
    assert code == 0, output
    check_whole(find_study(connect(), "study").load(), len(history) + 2)


def trainers_of(flow: int) -> list[psutil.Process]:
    """The two workers that train for a flow, if they are there."""
    with contextlib.suppress(psutil.NoSuchProcess):  # a child that ends while it is looked at
        children = psutil.Process(flow).children(recursive=True)
        trainers = [child for child in children if training_process.__name__ in child.cmdline()]
        return trainers if len(trainers) == 2 else []
    return []


def test_a_dead_flow_leaves_no_training_behind(tmp_path: Path) -> None:
    flow = start(write_study(tmp_path, stop={"trials": 50}))
    wait_for_complete(2)
    trainers = wait_until(lambda: trainers_of(flow.pid), "not two workers train")
    os.kill(flow.pid, signal.SIGKILL)
    flow.communicate(timeout=PATIENCE)
    _, alive = psutil.wait_procs(trainers, timeout=PATIENCE)
    assert not alive


@pytest.mark.slow
def test_a_cancelled_flow_whose_process_was_killed_is_cleaned_up_by_prefects_hook(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from hpo_flows.loop.tune import reap_after
    from hpo_flows.loop.tune import tune as flow_of_the_study

    assert reap_after in flow_of_the_study.on_cancellation_hooks and reap_after in flow_of_the_study.on_crashed_hooks
    flow = start(write_study(tmp_path, "gated", space=gated(tmp_path, 2), stop={"trials": 50}))
    wait_for_complete(2)
    ledger = find_study(connect(), "study")
    wait_until(lambda: ledger.load().running, "no trial is running")
    os.kill(flow.pid, signal.SIGKILL)
    flow.communicate(timeout=PATIENCE)
    reap_after(None, SimpleNamespace(parameters={"study_run": ledger.study_run.id}), None)
    assert not find_study(connect(), "study").load().running


def begun(folder: Path) -> bool:
    """Whether a process has written some of a database; sqlite deletes its journal between two looks at the folder."""
    with contextlib.suppress(FileNotFoundError):
        return any(path.stat().st_size for path in folder.glob("fresh.db*"))
    return False


@pytest.mark.slow
def test_a_flow_killed_while_it_creates_the_database_leaves_none_behind(tmp_path: Path) -> None:
    """Found by killing flows at random moments: MLflow cannot go on with half of its tables."""
    import subprocess
    import sys

    script = "import sys; from hpo_core.tracking.connection import connect; print(connect(sys.argv[1]).experiments())"
    command = [sys.executable, "-c", script, f"sqlite:///{tmp_path}/fresh.db"]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    try:
        while not begun(tmp_path):
            assert killed.poll() is None
            time.sleep(0.01)
    finally:
        killed.kill()
        killed.wait()
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE, check=False)
    assert again.returncode == 0, again.stderr
    assert sorted(path.name for path in tmp_path.glob("fresh.db*")) == ["fresh.db"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def test_processes_that_find_an_empty_database_create_it_once(backend: str, tmp_path: Path) -> None:
    """MLflow itself lets each of them create the tables, and all but one fail."""
    import subprocess
    import sys

    script = "import sys; from hpo_core.tracking.connection import connect; print(connect(sys.argv[1]).experiments())"
    fresh = Postgres() if backend == "postgres" else None
    try:
        if fresh is not None:
            fresh.start()
        uri = f"sqlite:///{tmp_path}/fresh.db" if fresh is None else fresh.uri
        command = [sys.executable, "-c", script, uri]
        processes = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
            for _ in range(3)
        ]
        outputs = [process.communicate(timeout=PATIENCE)[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * 3, outputs
    finally:
        if fresh is not None:
            fresh.remove()
