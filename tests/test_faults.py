"""Faults that are forced: many flows at once, servers that go away, results that have to wait."""

from __future__ import annotations

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

from flows import trial as trial_module
from flows.api import home, open_ledger, run
from flows.objective import Objective
from hpo_core import ledger as ledger_module
from hpo_core.errors import TrackingError
from hpo_core.history import History
from hpo_core.ledger import find_study
from hpo_core.spool import Spool
from hpo_core.trial import TrialState
from mlflow_server.embedded import connect
from tests.conftest import MlflowServer, Postgres, PrefectServer, Server
from tests.test_flow import ROOT, make_spec, start, tune, wait_for_complete, write_study
from tests.test_flow import _somewhere_else as _somewhere_else

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
    assert [trial.number for trial in history] == list(range(trials))
    assert not history.running
    fresh = [trial.identity for trial in history if "retry_of" not in trial.notes]
    assert len(set(fresh)) == len(fresh), "a configuration was proposed twice"


@pytest.mark.parametrize(
    ("server", "trials"),
    [
        ("mlflow_server", 60),
        pytest.param("mlflow_server", 200, marks=pytest.mark.slow),
        pytest.param("postgres", 200, marks=pytest.mark.slow),
    ],
)
def test_four_processes_tune_one_study(
    server: str, trials: int, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = request.getfixturevalue(server).uri
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    path = write_study(tmp_path, objective="slow", stop={"trials": trials}, parallel=1, strategy="random")
    flows = [start(path) for _ in range(4)]
    outputs = [flow.communicate(timeout=170)[0] for flow in flows]
    assert [flow.returncode for flow in flows] == [0] * 4, outputs
    ledger = find_study(connect(), "study")
    history = ledger.load()
    check_whole(history, trials)
    assert len(history.complete) == trials
    store = ledger.store
    runs = store.search([ledger.study_run.experiment], {"mlflow.parentRunId": ledger.study_run.id})
    assert len(runs) == trials, "runs of losers are left"
    owners = {run.tags["hpo.owner"] for run in runs}
    assert len(owners) >= 2, "one flow did it all, so nothing was shown"


def outage(server: Server, seconds: float) -> threading.Thread:
    """Take a server away for a while."""

    def away() -> None:
        server.stop()
        time.sleep(seconds)
        server.start()

    thread = threading.Thread(target=away)
    thread.start()
    return thread


@pytest.mark.parametrize("seconds", [5, pytest.param(60, marks=pytest.mark.slow)])
def test_the_mlflow_server_goes_away_and_comes_back(own_server: MlflowServer, tmp_path: Path, seconds: float) -> None:
    flow = start(write_study(tmp_path, stop={"trials": 12}, retries=1))
    wait_for_complete(3)
    thread = outage(own_server, seconds)
    output, _ = flow.communicate(timeout=200)
    thread.join()
    assert flow.returncode == 0, output
    history = find_study(connect(), "study").load()
    check_whole(history, 12)
    assert len(history.complete) == 12, output
    assert list((tmp_path / ".hpo" / "spool").rglob("*.json")) == []


@pytest.mark.slow
def test_prefects_server_restarts_under_the_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prefect").mkdir()
    server = PrefectServer(tmp_path / "prefect")
    server.start()
    try:
        monkeypatch.setenv("HPO_TEST_PREFECT", f"{server.uri}/api")
        flow = start(write_study(tmp_path, stop={"trials": 20}))
        wait_for_complete(3)
        server.stop()
        time.sleep(2)
        server.start()
        output, _ = flow.communicate(timeout=100)
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
    path = write_study(tmp_path, name="restart", stop={"trials": 12})
    flow = start(path)
    wait_for_complete(3, study="restart")
    postgres.stop()
    time.sleep(2)
    postgres.start()
    output, _ = flow.communicate(timeout=150)
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
            raise TrackingError("the MLflow store does not answer")
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
    assert "broken.json" in caplog.text and "gone.json" in caplog.text
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


def test_a_running_trial_renews_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_module, "RENEW_SECONDS", 0.3)
    monkeypatch.setattr(trial_module, "WRITE_SECONDS", 0.3)
    monkeypatch.setattr(trial_module, "FIRST_WRITE_SECONDS", 0.3)
    leases: set[str] = set()
    log = type(connect()).log

    def watch(self: Any, run: Any, metrics: Any, params: Any, tags: Any) -> None:
        leases.add(tags.get("hpo.lease", ""))
        log(self, run, metrics, params, tags)

    monkeypatch.setattr(type(connect()), "log", watch)
    tune(make_spec("slow", stop={"trials": 1}, space={"x": {"type": "float", "low": 0, "high": 1},
                   "seconds": {"type": "fixed", "value": 2.0}}))  # fmt: skip
    assert len(leases - {""}) >= 3
    assert ledger_module.LEASE_SECONDS >= 3 * ledger_module.RENEW_SECONDS


def test_a_leaking_trial_is_ended_at_its_memory_limit() -> None:
    space = {"how": {"type": "choice", "choices": ["leak", "fine"]}}
    result = tune(make_spec("misbehave", space=space, memory_limit="600MiB", trial_timeout=60))
    by_how = {str(trial.config["how"]): trial for trial in result.history}
    assert by_how["fine"].state is TrialState.COMPLETE
    assert by_how["leak"].state is TrialState.FAILED
    assert "memory_limit of 600 MiB" in by_how["leak"].reason


def test_stop_from_another_terminal_ends_a_study_in_order(tmp_path: Path) -> None:
    import subprocess
    import sys

    from tests.test_flow import environment

    flow = start(write_study(tmp_path, stop={"trials": 500}))
    wait_for_complete(2)
    command = [sys.executable, "-m", "flows.cli", "stop", "study"]
    stopped = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=True)
    assert "no further trial starts" in stopped.stdout
    output, _ = flow.communicate(timeout=60)
    assert flow.returncode == 0 and "hpo stop was called" in output
    history = find_study(connect(), "study").load()
    assert not history.running and not history.failed and len(history) < 500
    again = start(tmp_path / "study.yaml", "--trials", str(len(history) + 2))  # a stop is over when it has stopped
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0, output
    check_whole(find_study(connect(), "study").load(), len(history) + 2)


def test_a_dead_flow_leaves_no_training_behind(tmp_path: Path) -> None:
    flow = start(write_study(tmp_path, stop={"trials": 50}))
    wait_for_complete(2)
    workers = psutil.Process(flow.pid).children(recursive=True)
    trainers = [worker for worker in workers if "flows.worker" in worker.cmdline()]
    assert len(trainers) == 2
    os.kill(flow.pid, signal.SIGKILL)
    flow.communicate(timeout=30)
    _, alive = psutil.wait_procs(trainers, timeout=20)
    assert not alive


def test_a_cancelled_flow_whose_process_was_killed_is_cleaned_up_by_prefects_hook(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from flows.tune import reap_after
    from flows.tune import tune as flow_of_the_study

    assert reap_after in flow_of_the_study.on_cancellation_hooks and reap_after in flow_of_the_study.on_crashed_hooks
    flow = start(write_study(tmp_path, stop={"trials": 50}))
    wait_for_complete(2)
    os.kill(flow.pid, signal.SIGKILL)
    flow.communicate(timeout=30)
    ledger = find_study(connect(), "study")
    assert ledger.load().running
    reap_after(None, SimpleNamespace(parameters={"study_run": ledger.study_run.id}), None)
    assert not find_study(connect(), "study").load().running


def test_a_flow_killed_while_it_creates_the_database_leaves_none_behind(tmp_path: Path) -> None:
    """Found by killing flows at random moments: MLflow cannot go on with half of its tables."""
    import subprocess
    import sys

    script = "import sys; from mlflow_server.embedded import connect; print(connect(sys.argv[1]).experiments())"
    command = [sys.executable, "-c", script, f"sqlite:///{tmp_path}/fresh.db"]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    while not any(path.stat().st_size for path in tmp_path.glob("fresh.db*")):
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100, check=False)
    assert again.returncode == 0, again.stderr
    assert sorted(path.name for path in tmp_path.glob("fresh.db*")) == ["fresh.db"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def test_processes_that_find_an_empty_database_create_it_once(backend: str, tmp_path: Path) -> None:
    """MLflow itself lets each of them create the tables, and all but one fail."""
    import subprocess
    import sys

    script = "import sys; from mlflow_server.embedded import connect; print(connect(sys.argv[1]).experiments())"
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
        outputs = [process.communicate(timeout=110)[0] for process in processes]
        assert [process.returncode for process in processes] == [0] * 3, outputs
    finally:
        if fresh is not None:
            fresh.remove()
