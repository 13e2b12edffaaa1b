"""Studies on a schedule: a real Prefect server, a real worker, and what becomes of runs that overlap or are killed."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from hpo_core.base.errors import InputError
from hpo_core.lineage.opening import find_study
from hpo_core.tracking.connection import connect
from hpo_flows.cli.schedules import Plan
from tests.conftest import PATIENCE, PrefectServer, free_port, wait_until
from tests.studies import ROOT, called
from tests.studies import _somewhere_else as _somewhere_else

POOL = "here"
SLOW = {"x": {"type": "float", "low": 0, "high": 1}, "seconds": {"type": "fixed", "value": 3.0}}


class Prefect:
    """A Prefect server with a work pool, and the commands that a user gives it."""

    def __init__(self, server: PrefectServer) -> None:
        self.server = server
        self.processes: list[subprocess.Popen[bytes]] = []

    def environment(self) -> dict[str, str]:
        return os.environ | self.server.environment() | {"PYTHONPATH": str(ROOT)}

    def hpo(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hpo_flows.cli", *arguments]
        return subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=PATIENCE)

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

    def make_pool(self, name: str) -> None:
        from prefect.client.schemas.actions import WorkPoolCreate

        with self.client() as client:
            client.create_work_pool(WorkPoolCreate(name=name, type="process"), overwrite=True)

    def client(self) -> Any:
        from prefect.client.orchestration import SyncPrefectClient

        return SyncPrefectClient(f"{self.server.uri}/api")

    def runs(self, deployment: str) -> list[Any]:
        """The flow runs of a deployment that were due, first ones first."""
        from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
        from prefect.client.schemas.sorting import FlowRunSort

        with self.client() as client:
            named = DeploymentFilter(name=DeploymentFilterName(any_=[deployment]))
            found = client.read_flow_runs(deployment_filter=named, limit=200, sort=FlowRunSort.START_TIME_DESC)
        due = [run for run in found if run.state is not None and run.state.type != "SCHEDULED"]
        return sorted(due, key=lambda run: run.expected_start_time)

    def deployments(self) -> list[Any]:
        from prefect.client.schemas.sorting import DeploymentSort

        with self.client() as client:
            found: list[Any] = client.read_deployments(limit=200, sort=DeploymentSort.NAME_ASC)
        return found

    def state(self, run: Any) -> Any:
        with self.client() as client:
            return client.read_flow_run(run.id).state

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


def hpo(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code, _, errors = called(arguments, monkeypatch, capsys)
    return code, errors


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    server = PrefectServer(tmp_path_factory.mktemp("prefect"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def api(server: PrefectServer) -> Iterator[None]:
    """The server, for commands in this process."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: f"{server.uri}/api"}):
        yield


@pytest.fixture
def prefect(server: PrefectServer) -> Iterator[Prefect]:
    prefect = Prefect(server)
    prefect.make_pool(POOL)
    yield prefect
    for process in prefect.processes:
        prefect.end(process)
    with prefect.client() as client:
        for deployment in prefect.deployments():
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
    path.write_text(re.sub(r"'(\+[0-9]+)'", r"\1", yaml.safe_dump(data)))
    return path


def wait_for(what: Callable[[], Any], prefect: Prefect) -> Any:
    return wait_until(what, prefect.log)


def trials(study: str = "nightly") -> int:
    try:
        return len(find_study(connect(), study).load().complete)
    except ValueError:
        return 0


@pytest.mark.slow
def test_a_worker_runs_a_study_on_its_schedule(
    prefect: Prefect, api: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With sqlalchemy 2.1 or a newer fastapi, Prefect's server starts, or seems to, and never runs anything."""
    write_study(tmp_path)
    worker = prefect.worker()
    assert hpo(["deploy", "study.yaml", "--every", "5", "--work-pool", POOL], monkeypatch, capsys) == (0, "")
    wait_for(lambda: trials() >= 3, prefect)
    first = next(run for run in prefect.runs("nightly") if "hpo.owner" in run.labels)
    assert re.fullmatch(r"nightly \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", first.name)
    assert {"hpo", "study:nightly"} <= set(first.tags) and first.parameters["study"] == "study.yaml"
    assert first.work_queue_name == "nightly"  # made with the deployment; a worker of the pool serves all queues
    assert worker.poll() is None
    assert [trial.number for trial in find_study(connect(), "nightly").load()][:3] == [0, 1, 2]


def test_prefect_can_check_the_parameters_of_a_run_that_it_was_sent() -> None:
    """`hpo serve` sends the function by value, without the names that annotations as text would refer to."""
    send = (
        "import cloudpickle as c, sys; from hpo_flows.cli import scheduled; c.register_pickle_by_value(scheduled); "
        "sys.stdout.buffer.write(c.dumps(scheduled.run_scheduled))"
    )
    check = "import pickle, sys; pickle.load(sys.stdin.buffer).validate_parameters({'study': 's.yaml', 'parallel': 2})"
    run = partial(subprocess.run, cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE)
    run([sys.executable, "-c", check], input=run([sys.executable, "-c", send]).stdout)


def test_what_the_form_gives_is_used_or_is_one_line_in_the_state(api: None, tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client

    from hpo_flows.cli.scheduled import run_scheduled
    from hpo_flows.prefect import MlflowTracking

    write_study(tmp_path, stop={"trials": 50})
    own, secret = f"sqlite:///{tmp_path}/own.db", "a-secret-of-its-own"
    MlflowTracking(uri=own, username="me", password=secret).save("own", overwrite=True)
    before = os.environ["MLFLOW_TRACKING_URI"]
    told = {
        "trials": "2",
        "strategy": "quasi_random",
        "seed": 7,
        "tracking": "own",
        "overrides": ["parallel=1", "seed=3", "strategy={name: tpe}", "strategy.start=5"],
    }
    state = run_scheduled("study.yaml", **told, return_state=True)
    assert state.is_completed() and os.environ["MLFLOW_TRACKING_URI"] == before
    ledger = find_study(connect(own), "nightly")
    spec = ledger.spec
    assert (len(ledger.load()), spec.strategy.name, spec.seed, spec.parallel) == (2, "quasi_random", 7, 1)
    for change, problem in (
        ({"trials": "twenty"}, "stop.trials: 'twenty' is not a whole number; correct it"),
        ({"tracking": "none"}, "tracking: Prefect has no block mlflow-tracking/none"),
        ({"notify": "example.com"}, "notify.0.url: 'example.com' is not an address of http or https"),
    ):
        state = run_scheduled("study.yaml", **(told | change), return_state=True)
        assert state.is_failed() and str(state.message).startswith(problem), state.message
    with get_client(sync_client=True) as client:
        kept = (
            client._client.post("/logs/filter", json={}).text + client._client.post("/flow_runs/filter", json={}).text
        )
    for text in (kept.encode(), *(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())):
        assert secret.encode() not in text


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"uri": "https://me:geheim@mlflow.example"}, "the address contains a secret"),
        ({"uri": "https://mlflow.example", "password": "geheim"}, "username and password belong together"),
        (
            {"uri": "https://mlflow.example", "username": "me", "password": "geheim", "token": "geheim"},
            "one of the two",
        ),
        ({"uri": "https://mlflow.example", "pasword": "geheim"}, "pasword"),
    ],
)
def test_credentials_that_cannot_be_used_are_told_without_them(given: dict[str, Any], problem: str) -> None:
    from hpo_flows.prefect import MlflowTracking

    with pytest.raises(ValueError, match=problem) as told:
        MlflowTracking(**given)
    assert "geheim" not in str(told.value)


def test_a_token_takes_the_place_of_other_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    from hpo_flows.prefect import MlflowTracking

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "of the worker")
    block = MlflowTracking(uri="https://mlflow.example", token="geheim")
    assert "geheim" not in f"{block!r} {block}"
    with block.in_force():
        assert os.environ["MLFLOW_TRACKING_TOKEN"] == "geheim" and "MLFLOW_TRACKING_USERNAME" not in os.environ
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "of the worker" and "MLFLOW_TRACKING_TOKEN" not in os.environ


@pytest.mark.slow
def test_a_run_that_is_killed_halfway_is_made_up_for_by_the_next(prefect: Prefect, tmp_path: Path) -> None:
    """With its worker, so nobody tells Prefect: the run stays RUNNING there, and holds the slot of the deployment."""
    write_study(tmp_path, stop={"trials": "+3"}, space=SLOW)
    assert prefect.hpo("deploy", "study.yaml", "--every", "5", "--work-pool", POOL).returncode == 0
    worker = prefect.worker()
    wait_for(lambda: trials() >= 1, prefect)
    prefect.end(worker)
    dead = next(run for run in prefect.runs("nightly") if run.state.type == "RUNNING")
    assert 1 <= len(find_study(connect(), "nightly").load()) <= 3
    # Prefect goes on to think that it runs; the deployment is renewed, which looks for the dead.
    again = prefect.hpo("deploy", "study.yaml", "--every", "5", "--work-pool", POOL)
    assert again.returncode == 0, again.stderr
    (deployment,) = prefect.deployments()
    assert len(deployment.schedules) == 1
    state = prefect.state(dead)
    assert state.type == "CRASHED" and "its process is gone" in state.message
    prefect.worker()
    wait_for(lambda: any(run.state.type == "COMPLETED" for run in prefect.runs("nightly")), prefect)
    told = prefect.log()
    assert "nightly: begins with 3 trials" in told
    assert "nightly: goes on to 3 trials: its last run did not get there" in told.partition("goes on to 6")[0]
    history = find_study(connect(), "nightly").load()
    assert history.trials[0].state.name == "COMPLETE" and len(history.complete) >= 2


@pytest.mark.slow
def test_runs_that_are_due_while_one_goes_on_are_cancelled(prefect: Prefect, tmp_path: Path) -> None:
    write_study(tmp_path, stop={"trials": 3}, space=SLOW)
    assert prefect.hpo("deploy", "study.yaml", "--every", "4", "--work-pool", POOL).returncode == 0
    prefect.worker()
    runs = wait_for(lambda: [run for run in prefect.runs("nightly") if run.state.type == "CANCELLED"][2:], prefect)
    assert {str(run.state.message) for run in runs} == {"Deployment concurrency limit reached."}
    assert not any(run.run_count for run in runs)
    assert len([run for run in prefect.runs("nightly") if run.state.type == "RUNNING"]) <= 1


@pytest.mark.slow
def test_changed_data_begin_a_dated_study_at_the_next_scheduled_run(prefect: Prefect, tmp_path: Path) -> None:
    (tmp_path / "rows.py").write_text(
        "import pathlib\ndef load(): return 'rows', [len(pathlib.Path('rows').read_text())]"
    )
    (tmp_path / "rows").write_text("one")
    write_study(tmp_path, data="rows:load", stop={"trials": "+2"})
    assert prefect.hpo("deploy", "study.yaml", "--every", "5", "--work-pool", POOL).returncode == 0
    prefect.worker()
    wait_for(lambda: trials() >= 4, prefect)  # unchanged data extend it
    (tmp_path / "rows").write_text("other")
    name = f"nightly-{datetime.date.today().isoformat()}"
    wait_for(lambda: trials(name) >= 2, prefect)
    ledger = find_study(connect(), name)
    first = find_study(connect(), "nightly")
    assert ledger.study_run.tags["hpo.follows"] == first.study_run.id
    assert "not those of nightly" in ledger.study_run.tags["hpo.data.why"]
    assert f"{name}: the data" in prefect.log()
    shown = prefect.hpo("status", "study.yaml")
    assert shown.stdout.startswith(f"{name}: ")


@pytest.mark.slow
def test_hpo_serve_runs_a_study_by_itself_and_leaves_no_schedule_behind(prefect: Prefect, tmp_path: Path) -> None:
    write_study(tmp_path, stop={"trials": 2})
    served = prefect.start("hpo_flows.cli", "serve", "study.yaml", "--every", "5")
    wait_for(lambda: any(run.state.type == "COMPLETED" for run in prefect.runs("nightly")), prefect)
    assert trials() == 2
    served.send_signal(signal.SIGTERM)  # as Ctrl-C, which a test that runs in the background does not get
    served.wait(timeout=PATIENCE)
    (deployment,) = prefect.deployments()
    assert deployment.paused


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "times"), [("waiting", 1), ("importing", 1), ("running", 1), ("running", 2)])
def test_ctrl_c_ends_hpo_serve_without_a_traceback(moment: str, times: int, prefect: Prefect, tmp_path: Path) -> None:
    write_study(tmp_path, stop={"trials": 100}, space=SLOW)
    (prefect.server.folder / "started.log").write_text("")
    served = prefect.start("hpo_flows.cli", "serve", "study.yaml", "--every", "3600" if moment == "waiting" else "5")

    def importing() -> bool:
        with contextlib.suppress(psutil.Error):  # a child may end while it is looked at
            return any("spawn_main" in " ".join(child.cmdline()) for child in psutil.Process(served.pid).children())
        return False

    reached = {"waiting": lambda: prefect.deployments(), "importing": importing, "running": trials}[moment]
    wait_for(lambda: bool(reached()), prefect)
    children = psutil.Process(served.pid).children(recursive=True)
    for _ in range(times):
        os.killpg(served.pid, signal.SIGINT)  # as a terminal does: to all processes at once
        time.sleep(0.5)
    assert served.wait(timeout=PATIENCE) in (0, 128 + signal.SIGINT)
    assert not psutil.wait_procs(children, timeout=PATIENCE)[1]
    assert "Traceback" not in prefect.log()
    if times == 1:
        (deployment,) = prefect.deployments()
        assert deployment.paused


@pytest.mark.slow
def test_prefect_itself_ends_a_run_whose_process_and_worker_are_gone(prefect: Prefect, tmp_path: Path) -> None:
    """Nobody starts anything here; and the server forgets its leases, which it keeps in memory, as it is restarted."""
    write_study(tmp_path, stop={"trials": 100}, space=SLOW)
    assert prefect.hpo("deploy", "study.yaml", "--every", "10", "--work-pool", POOL).returncode == 0
    worker = prefect.worker()
    wait_for(lambda: trials() >= 1, prefect)
    time.sleep(5)  # until the first heartbeat has been told
    prefect.end(worker)
    dead = next(run for run in prefect.runs("nightly") if run.state.type == "RUNNING")
    prefect.server.stop()
    prefect.server.start()
    worker = prefect.worker()
    wait_for(lambda: len([run for run in prefect.runs("nightly") if run.state.type == "RUNNING"]) == 1
             and prefect.state(dead).type == "CRASHED", prefect)  # fmt: skip
    assert "heartbeat" in str(prefect.state(dead).message)


def test_flow_runs_of_dead_processes_are_ended_and_others_are_not(api: None) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    from hpo_core.ledger.ownership import LEASE_SECONDS, Owner, now_ms
    from hpo_flows.loop.flow_runs import crash_dead_flow_runs
    from hpo_flows.loop.tune import tune

    me, later = str(Owner.of_this_process()), str(now_ms() + int(1000 * LEASE_SECONDS))
    gone = f"{me.split('/')[0]}/{2**22 + 1}/1"
    labels = {
        "alive": {"hpo.owner": me, "hpo.lease": later},
        "gone": {"hpo.owner": gone, "hpo.lease": later},
        "far away": {"hpo.owner": "elsewhere/1/1", "hpo.lease": later},
        "lease over": {"hpo.owner": "elsewhere/1/1", "hpo.lease": "1"},
        "not ours": {},
    }
    with get_client(sync_client=True) as client:
        runs = {}
        for name, given in labels.items():
            runs[name] = client.create_flow_run(tune, name=name, parameters={}, state=Running()).id
            client.update_flow_run_labels(runs[name], dict(given))
        assert {run.name for run in crash_dead_flow_runs()} & labels.keys() == {"gone", "lease over"}
        types = {name: client.read_flow_run(id).state.type for name, id in runs.items()}  # type: ignore[union-attr]
        for id in runs.values():
            client.delete_flow_run(id)
    assert types == {name: "CRASHED" if name in ("gone", "lease over") else "RUNNING" for name in labels}


@pytest.mark.parametrize("command", ["deploy", "serve"])
@pytest.mark.parametrize(
    ("arguments", "field", "value", "remedy"),
    [
        (["--cron", "0 25 * * *"], "--cron", "'0 25 * * *'", "write minute, hour, day, month and weekday"),
        (["--cron", ""], "--cron", "''", "write minute, hour"),
        (["--cron", "0 2 * * *", "--timezone", "Mars/Base"], "--timezone", "'Mars/Base'", "name one such as"),
        (["--every", "0.1"], "--every", "0.1", "give 1 or more"),
        ([], "--cron", "neither", "give one of them"),
        (["--cron", "0 2 * * *", "--every", "9"], "--cron", "both", "give one of them"),
        (["--cron", "0 2 * * *", "--set", "objective=absent_module:f"], "objective", "absent_module", "run from"),
        (["--cron", "0 2 * * *", "--set", "stop.trials=+x"], "stop.trials", "'+x'", "correct it"),
    ],
)
def test_a_bad_schedule_is_one_error(
    command: str, arguments: list[str], field: str, value: str, remedy: str, api: None,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_study(tmp_path)
    code, told = hpo([command, "study.yaml", *arguments], monkeypatch, capsys)
    assert code == 2 and told.startswith(f"error: {field}: ") and value in told and remedy in told
    assert told.count("\n") == 1


def test_an_unknown_work_pool_is_one_error(
    api: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path)
    arguments = ["deploy", "study.yaml", "--cron", "0 2 * * *", "--work-pool", "absent"]
    code, told = hpo(arguments, monkeypatch, capsys)
    assert code == 2 and told.startswith("error: --work-pool: ") and "'absent'" in told
    assert "prefect work-pool create absent" in told


@pytest.mark.parametrize("command", ["deploy", "serve"])
def test_without_a_prefect_server_nothing_is_deployed(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    write_study(tmp_path)
    arguments = [command, "study.yaml", "--cron", "0 2 * * *"]
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        code, told = hpo(arguments, monkeypatch, capsys)
    assert code == 2 and told.startswith("error: PREFECT_API_URL: ") and "prefect server start" in told
    with temporary_settings({PREFECT_API_URL: f"http://me:secret@127.0.0.1:{free_port()}/api"}):
        code, told = hpo(arguments, monkeypatch, capsys)
    assert code == 3 and "does not respond" in told and "correct PREFECT_API_URL" in told and "secret" not in told


@pytest.mark.slow
def test_prefect_deploy_takes_the_prefect_yaml(prefect: Prefect) -> None:
    prefect.make_pool("hpo")
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--name", "digits-cnn"]
    environment = prefect.environment() | {"PWD": str(ROOT)}
    made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    # Prefect 3.8.8 makes it, and then fails as it asks for workers to tell of, with a request that its server refuses.
    assert "successfully created" in made.stdout, made.stdout + made.stderr
    (deployment,) = prefect.deployments()
    assert deployment.entrypoint == "hpo_flows.cli.scheduled.run_scheduled"
    assert deployment.parameters == {"study": "examples/digits_cnn.yaml", "trials": "+20"}
    assert (deployment.global_concurrency_limit.limit, deployment.concurrency_options.collision_strategy) == (
        1,
        "CANCEL_NEW",
    )
    (step,) = deployment.pull_steps
    assert step["prefect.deployments.steps.set_working_directory"]["directory"] == str(ROOT)


@pytest.mark.parametrize(
    ("cron", "problem"),
    [
        ("* * * * * *", "has 6 fields and not five"),
        ("0 2 * * * 2030", "has 6 fields and not five"),
        ("2", "has 1 field and not five"),
        ("", "has 0 fields and not five"),
        ("61 2 * * *", "is not a cron line"),
        ("0 2 30 2 *", "never comes due"),
        ("0 0 31 4,6,9,11 *", "never comes due"),
    ],
)
def test_a_cron_line_has_five_fields_and_comes_due(
    cron: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path)
    monkeypatch.chdir(tmp_path)
    for command in ("deploy", "serve"):  # no server is asked
        code, said = hpo([command, "study.yaml", "--cron", cron], monkeypatch, capsys)
        assert (code, said.count("\n")) == (2, 1)
        assert said.startswith("error: --cron: ") and repr(cron) in said and problem in said


@pytest.mark.parametrize("every", [0.5, -1.0, 0.0, float("nan"), float("inf"), 1e12])
def test_an_interval_is_a_second_to_a_year(every: float) -> None:
    with pytest.raises(InputError, match=r"--every: .* give 1 or more"):
        Plan(every=every)


@pytest.mark.parametrize("cron", ["0 2 29 2 *", "0 0 L * *", "@daily", "*/5 * * * 1-5"])
def test_a_plan_says_when_it_comes_due(cron: str) -> None:
    plan = Plan(cron, timezone="Europe/Berlin")
    due = plan.next_due()
    assert datetime.datetime.now(datetime.UTC) <= due and str(due.tzinfo) == "Europe/Berlin"
    assert plan.described.startswith(f"{cron} Europe/Berlin, next at {due.year}-") and plan.described.endswith(
        (" CET", " CEST")
    )
    assert " UTC" in Plan(every=60).described
