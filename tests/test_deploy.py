"""Studies on a schedule: a real Prefect server, a real worker, and what becomes of runs that overlap or are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from hpo_core.ledger import find_study
from mlflow_server.embedded import connect
from tests.conftest import PrefectServer
from tests.test_flow import ROOT
from tests.test_flow import _somewhere_else as _somewhere_else

POOL = "here"


class Prefect:
    """A Prefect server with a work pool, and the commands that a user gives it."""

    def __init__(self, server: PrefectServer) -> None:
        self.server = server
        self.processes: list[subprocess.Popen[bytes]] = []

    def environment(self) -> dict[str, str]:
        return os.environ | self.server.environment() | {"PYTHONPATH": str(ROOT)}

    def hpo(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli", *arguments]
        return subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=100, check=False)

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start something that goes on, its output in the server's folder."""
        with open(self.server.folder / "started.log", "ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=self.environment() | {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO"},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def worker(self) -> subprocess.Popen[bytes]:
        return self.start("prefect", "worker", "start", "--pool", POOL, "--type", "process")

    def make_pool(self) -> None:
        from prefect.client.schemas.actions import WorkPoolCreate

        with self.client() as client:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"), overwrite=True)

    def client(self) -> Any:
        from prefect.client.orchestration import SyncPrefectClient

        return SyncPrefectClient(f"{self.server.uri}/api")

    def runs(self, deployment: str) -> list[Any]:
        """The flow runs of a deployment that were due, first ones first."""
        from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

        with self.client() as client:
            named = DeploymentFilter(name=DeploymentFilterName(any_=[deployment]))
            found = client.read_flow_runs(deployment_filter=named)
        due = [run for run in found if run.state is not None and run.state.type != "SCHEDULED"]
        return sorted(due, key=lambda run: run.expected_start_time)

    def log(self) -> str:
        return (self.server.folder / "started.log").read_text()

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process with all that it started, however these are grouped."""
        if process.poll() is None:
            for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                kill(each)
        process.wait()


def kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    server = PrefectServer(tmp_path_factory.mktemp("prefect"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def prefect(server: PrefectServer) -> Iterator[Prefect]:
    prefect = Prefect(server)
    prefect.make_pool()
    yield prefect
    for process in prefect.processes:
        prefect.end(process)
    with prefect.client() as client:
        for deployment in client.read_deployments():
            client.delete_deployment(deployment.id)


def write_study(folder: Path, **changes: Any) -> Path:
    data = {
        "name": "nightly",
        "objective": "tests.objectives:slow",
        "metric": "loss",
        "direction": "minimize",
        "space": {"x": {"type": "float", "low": 0, "high": 1}},
        "stop": {"trials": "+3"},
        "strategy": "random",
        "retries": 1,
    } | changes
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(data).replace("'+", "+").replace("3'", "3"))
    return path


def wait_for(what: Callable[[], Any], prefect: Prefect, seconds: float = 400) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.3)
    raise AssertionError(prefect.log())


def trials() -> int:
    try:
        return len(find_study(connect(), "nightly").load().complete)
    except ValueError:
        return 0


def test_a_worker_runs_a_study_on_its_schedule_and_the_next_run_extends_it(prefect: Prefect, tmp_path: Path) -> None:
    write_study(tmp_path)
    deployed = prefect.hpo("deploy", "study.yaml", "--every", "8", "--work-pool", POOL)
    assert deployed.returncode == 0, deployed.stderr
    assert "scheduled-study/nightly" in deployed.stdout
    prefect.worker()
    wait_for(lambda: trials() >= 6, prefect)
    first = wait_for(lambda: [run for run in prefect.runs("nightly") if run.state.type == "COMPLETED"], prefect)[0]
    assert first.tags == ["hpo"] and {"hpo.owner", "hpo.lease"} <= first.labels.keys()
    ledger = find_study(connect(), "nightly")
    assert [trial.number for trial in ledger.load()][:6] == list(range(6))
