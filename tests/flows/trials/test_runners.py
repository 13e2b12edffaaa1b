"""Trials on other machines: engines of real processes, a real MLflow server; and what a study file may ask of them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from hpo_core.base.errors import EngineError, InputError
from hpo_core.history.history import History
from hpo_core.history.trial import TrialState
from hpo_core.lineage.opening import find_study
from hpo_core.selection.evaluation import Training
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec
from hpo_core.tracking.connection import connect
from hpo_flows.api import open_ledger, run
from hpo_flows.cli import app as cli
from hpo_flows.loop.stages import FlowSession, Stages
from hpo_flows.objectives.reference import Objective
from hpo_flows.results import StudyResult, result_of
from hpo_flows.trials.remote import dispatcher as away_module
from hpo_flows.trials.remote import engines, remote_session
from hpo_flows.trials.remote.deployment import parameters as deployment_parameters
from hpo_flows.trials.remote.dispatcher import RemoteTrials
from hpo_flows.trials.remote.remote_session import AlreadyStarted, RemoteSession
from hpo_flows.trials.remote.request import TrialRequest
from hpo_flows.workers.job import TrialCancelled
from tests.conftest import PATIENCE, MlflowServer, PrefectServer, free_port, wait_until
from tests.studies import ROOT, check_logged_by_mlflow, gated, let_pass, make_spec


@pytest.fixture(autouse=True)
def _at_the_server(mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)


@contextlib.contextmanager
def started(folder: Path, *command: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a folder of its own, with this project's packages; ended with all that it started."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "output.log", "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def dask_address(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Dask cluster of three worker processes, one trial each at a time."""
    pytest.importorskip("prefect_dask")
    folder, port = tmp_path_factory.mktemp("dask"), free_port()
    address, here = f"tcp://127.0.0.1:{port}", ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
    workers = ["--nworkers", "3", "--nthreads", "1", "--resources", "CPU=2", "--local-directory", str(folder)]
    with (
        started(folder, "distributed.cli.dask_scheduler", "--port", str(port), *here),
        started(folder, "distributed.cli.dask_worker", address, *here, *workers),
    ):
        wait_until(lambda: workers_at(address) == 3, "the workers do not come")
        yield address


def workers_at(address: str) -> int:
    from distributed import Client

    with contextlib.suppress(OSError), Client(address, timeout=30, set_as_default=False) as client:
        return len(client.scheduler_info()["workers"])
    return 0


def tune(spec: StudySpec) -> StudyResult:
    return run(open_ledger(spec), Objective(spec.objective, (str(ROOT),)))


def kill_one(name: str, killed: list[int], folder: Path) -> None:
    """Kill the process that trains a trial of the study, once one waits at the gate; and let the others pass."""
    ledger = find_study(connect(), name)
    while not killed:
        time.sleep(0.1)
        for trial in ledger.load().running:
            pid = int(trial.owner.split("/")[1])
            if pid != os.getpid() and trial.number >= 3:
                os.kill(pid, signal.SIGKILL)
                killed.append(trial.number)
                let_pass(folder)
                return


def check_whole(history: History, complete: int, failed: int) -> None:
    assert [trial.number for trial in history] == list(range(complete + failed))
    states = Counter(trial.state for trial in history)
    assert (states[TrialState.COMPLETE], states[TrialState.FAILED]) == (complete, failed), list(history)


# -- Dask -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_dask_worker_that_is_killed_loses_its_trial_alone(dask_address: str, tmp_path: Path) -> None:
    dask = {"type": "dask", "address": dask_address}
    shared = {"runner": dask, "resources": {"cpus": 1}, "space": gated(tmp_path, 3)}
    spec = make_spec("gated", name="killed", parallel=3, stop={"trials": 8}, **shared)
    ledger, killed = open_ledger(spec), list[int]()
    killer = threading.Thread(target=kill_one, args=("killed", killed, tmp_path), daemon=True)
    killer.start()
    history = run(ledger, Objective(spec.objective, (str(ROOT),))).history
    check_whole(history, complete=8, failed=1)
    [lost] = history.failed
    assert [lost.number] == killed
    assert lost.reason.startswith("lost: ")
    again = [trial for trial in history if trial.notes.get("retry_of") == str(lost.number)]
    assert [trial.config for trial in again] == [lost.config]
    owners = {trial.owner for trial in history}
    assert len(owners) >= 2 and ledger.owner not in owners


@pytest.mark.slow
def test_a_worker_that_lacks_the_objective_ends_the_study_with_one_error(dask_address: str) -> None:
    data = make_spec(name="lacking", runner={"type": "dask", "address": dask_address}).model_dump()
    spec = study_from(data | {"objective": "nowhere.at_all:train"})
    with pytest.raises(InputError, match=r"'nowhere.at_all:train' cannot be imported") as refused:
        tune(spec)
    assert refused.value.field == "objective"
    assert not find_study(connect(), "lacking").load().running


def test_what_no_dask_worker_offers_is_told_before_anything_begins(dask_address: str) -> None:
    dask = {"type": "dask", "address": dask_address}
    with pytest.raises(InputError, match='--resources "GPU=1 CPU=2"'):
        tune(make_spec(name="too-large", runner=dask, resources={"gpus": 1, "cpus": 2}))
    assert not len(find_study(connect(), "too-large").load())


@pytest.mark.slow
def test_promotions_early_stops_and_folds_work_at_a_distance(dask_address: str) -> None:
    shared: dict[str, Any] = {"runner": {"type": "dask", "address": dask_address}, "parallel": 3}
    fidelity = {"name": "epochs", "min": 1, "max": 9, "eta": 3}
    promoting = make_spec("epochs", name="far-asha", strategy="asha", fidelity=fidelity, stop={"trials": 16}, **shared)
    promoted = tune(promoting).history
    children = [trial for trial in promoted if trial.parent is not None]
    assert children and all(trial.notes["continued"] == f"yes: trial {trial.parent}" for trial in children)
    for trial in children:  # only the epochs that its parent had not trained, from the seed of the first
        parent = promoted.trials[trial.parent or 0]
        assert trial.metrics["trained"] == (trial.fidelity or 0) - (parent.fidelity or 0)
        assert trial.metrics["seed"] == parent.metrics["seed"]

    rule = {"rule": "median", "first": 1, "trials": 2}
    stopping = make_spec("epochs", name="far-stops", early_stop=rule, stop={"trials": 8}, strategy="random", **shared)
    assert any(trial.reason.startswith("stopped by median") for trial in tune(stopping).history.complete)

    space = {"x": {"type": "float", "low": 0, "high": 1}}
    validating = make_spec(
        "cross_validated", name="far-cv", space=space, stop={"trials": 10}, strategy="random", **shared
    )
    validated = tune(validating).history
    assert any(" of 4 folds: worse than trial" in trial.reason for trial in validated.complete)
    assert all(len(trial.folds) == 4 for trial in validated.complete if trial.whole)

    choosing = make_spec("parted", name="far-folds", stop={"trials": 4}, final={"top": 2, "folds": 2}, **shared)
    result = tune(choosing)
    assert result.choice is not None and result.choice.winner is not None
    assert result.choice.folds == (4, 4)
    assert result.test_metrics["held_out"] > 0


@pytest.mark.slow
def test_a_champion_is_challenged_at_a_distance(dask_address: str) -> None:
    shared: dict[str, Any] = {
        "runner": {"type": "dask", "address": dask_address},
        "parallel": 3,
        "stop": {"trials": 1},
        "champion": {"model": "far", "seeds": 3},
    }
    for name, loss, against in (("far-first", 5.0, ""), ("far-second", 4.0, "1")):
        space = {"loss": {"type": "fixed", "value": loss}, "noise": {"type": "fixed", "value": 0.1}}
        result = tune(make_spec("constant", name=name, space=space, **shared))
        tags = connect().get(result.run_id).tags
        assert (tags["hpo.champion_decision"], tags["hpo.champion_against"]) == ("promoted", against)
    owners = {trial.owner for trial in result.history}
    assert find_study(connect(), "far-second").owner not in owners


@pytest.mark.slow
def test_what_an_objective_logs_by_mlflow_is_in_its_trials_run_at_a_distance(dask_address: str) -> None:
    dask = {"type": "dask", "address": dask_address}
    result = tune(make_spec("logs_by_mlflow", name="far-logs", runner=dask, parallel=3))
    assert len(result.history.complete) == 6
    check_logged_by_mlflow(result)
    assert find_study(connect(), "far-logs").owner not in {trial.owner for trial in result.history}


# -- who answers for a trial ------------------------------------------------------------------------------------


class Engine:
    """Takes trials and does nothing with them; a fake, to force what real engines seldom do."""

    name = "an engine"

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.recalled = error, list[bool]()
        self.orders = list[TrialRequest]()

    def submit(self, name: str, request: TrialRequest, retries: int) -> Engine:
        self.orders.append(request)
        return self

    def result(self, timeout: float) -> None:
        if self.error is not None:
            raise self.error

    def recall(self, future: Any, *, gone: bool) -> None:
        self.recalled.append(gone)

    def died(self, error: BaseException) -> bool:
        return isinstance(error, ConnectionError)


def away(name: str, engine: Any) -> tuple[RemoteTrials, Training]:
    """A trial that was handed to the engine."""
    ledger = open_ledger(make_spec(name=name))
    objective = Objective(ledger.spec.objective, (str(ROOT),))
    session = FlowSession(
        ledger,
        cast(Any, None),
        objective,
        Path(),
        stages=Stages(ledger),
        publisher=cast(Any, None),
        observe=lambda progress: None,
    )
    [proposal] = ledger.spec.propose(history := ledger.load(), 1)
    trial = ledger.reserve(proposal, history)
    assert trial is not None
    ledger.release(trial)
    waiting = RemoteTrials(session, engine)
    training = Training(trial)
    waiting.submit("a trial", training)
    return waiting, training


def tags_of(trial: Training, **tags: str) -> dict[str, str]:
    """What stands in a trial's run, with some tags changed."""
    store = connect()
    if tags:
        store.log(trial.run_id, [], {}, {f"hpo.{key}": value for key, value in tags.items()})
    run = store.get(trial.run_id)
    return {**run.tags, "status": run.status}


def test_a_trial_that_another_worker_began_is_not_begun_again() -> None:
    _, trial = away("twice", engine := Engine())
    [request] = engine.orders
    remote = RemoteSession(request)
    assert remote.begin(request).config == trial.config
    assert tags_of(trial)["hpo.owner"] == remote.session.ledger.owner
    assert remote.begin(request).config == trial.config  # another attempt in this process
    tags_of(trial, owner="another/1/2")
    with pytest.raises(AlreadyStarted, match="another/1/2"):
        remote.begin(request)


def test_a_trial_whose_worker_is_gone_is_lost_and_one_that_cannot_begin_ends_the_study() -> None:
    waiting, trial = away("gone", Engine(ConnectionError("the worker left")))
    assert waiting.settle(trial) is None
    assert tags_of(trial)["status"] == "FAILED" and tags_of(trial)["hpo.lost"] == "died"
    waiting, trial = away("begun", Engine(ValueError("after it had begun")))
    tags_of(trial, owner="another/1/2")
    assert waiting.settle(trial) is None
    assert "after it had begun" in tags_of(trial)["hpo.reason"]
    waiting, trial = away("unable", Engine(ImportError("No module named 'flows'")))
    assert isinstance(waiting.settle(trial), EngineError)


def test_a_trial_that_was_reaped_frees_its_slot_though_its_future_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(away_module, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(away_module, "RENEW_SECONDS", 0.0)
    waiting, trial = away("silent", engine := Engine())
    tags_of(trial, lease="1")
    assert waiting.ended() == [] and int(tags_of(trial)["hpo.lease"]) > time.time() * 1000  # it waits in a queue
    tags_of(trial, owner="another/1/2", lease="1")
    assert waiting.ended() == [] and tags_of(trial)["hpo.lease"] == "1"  # the worker's affair
    other = find_study(connect(), "silent")
    other.load()
    assert [lost.number for lost in other.reap()] == [0]
    assert waiting.ended() == [trial] and engine.recalled == [True]


def test_a_flow_that_is_stopped_ends_its_trials_and_their_workers_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_session, "WATCH_SECONDS", 0.0)
    waiting, trial = away("stopped", engine := Engine())
    stop = remote_session.StopCheck(RemoteSession(engine.orders[0]).session, trial.run_id)
    assert not stop.is_set()
    waiting.interrupt()
    assert tags_of(trial)["hpo.lost"] == "interrupted" and engine.recalled == [False]
    assert stop.is_set()
    with pytest.raises(TrialCancelled):  # one that waited in the queue meanwhile
        RemoteSession(engine.orders[0]).begin(engine.orders[0])


# -- bad input, and secrets -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runner", "words"),
    [
        ({"type": "slurm"}, "'slurm'"),
        ({"type": "dask"}, "add address: tcp://host:port"),
        ({"type": "dask", "address": "scheduler"}, "write it as tcp://host:port"),
        ({"type": "dask", "address": "ray://head:10001"}, "write it as tcp://host:port"),
        ({"type": "ray", "address": "tcp://head:1"}, "write it as ray://host:port"),
        ({"type": "process", "address": "tcp://head:1"}, "remove it"),
        ({"type": "deployment"}, "name one of the Prefect server"),
        ({"type": "dask", "address": "tcp://head:1", "work_pool": "gpus"}, "choose that or remove them"),
        ({"type": "dask", "adress": "tcp://head:1"}, "did you mean 'address'?"),
    ],
)
def test_a_runner_that_makes_no_sense_is_refused(runner: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)) as refused:
        make_spec(runner=runner)
    assert refused.value.field.startswith("runner")


@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_an_address_where_nothing_answers_is_told_at_once(engine: str) -> None:
    pytest.importorskip(f"prefect_{engine}")
    address = f"127.0.0.1:{free_port()}"
    began = time.monotonic()
    with pytest.raises(EngineError, match=f"does not respond at {address}"):
        tune(make_spec(name=f"nobody-{engine}", runner={"type": engine, "address": address}))
    assert time.monotonic() - began < PATIENCE
    assert cli._explain(EngineError("told")) == 3


def test_an_extra_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=re.escape('pip install "hpo-flows[ray]"')):
        engines.make_runner(make_spec(runner={"type": "ray", "address": "head:1"}))


def test_others_cannot_reach_a_database_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(InputError, match="start a tracking server"):
        open_ledger(make_spec(runner={"type": "dask", "address": "tcp://head:1"}))
    assert not (tmp_path / "mlflow.db").exists()


def test_no_password_is_shown_or_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "tell-nobody")
    _, _ = away("secret", engine := Engine())
    assert engine.orders[0].tracking["MLFLOW_TRACKING_PASSWORD"] == "tell-nobody"
    assert "tell-nobody" not in repr(engine.orders[0])
    request = replace(engine.orders[0], tracking={"MLFLOW_TRACKING_URI": "https://me:tell-nobody@mlflow.example/a"})
    parameters = deployment_parameters("a trial", request, 0)
    assert "tell-nobody" not in str(parameters) and parameters["tracking_uri"] == "https://mlflow.example/a"


# -- a work pool ------------------------------------------------------------------------------------------------

PARTED = """
import os
import mlflow
from tests.objectives import logs_by_mlflow

def train(trial):
    mlflow.log_metric("folder", int(os.environ["HPO_TEST_FOLDER"]))
    return logs_by_mlflow(trial)
"""


@pytest.mark.slow
def test_two_prefect_workers_share_nothing_but_the_servers(tmp_path: Path, mlflow_server: MlflowServer) -> None:
    home = tmp_path / "prefect"
    home.mkdir()
    server = PrefectServer(home)
    server.start()
    try:
        everywhere = server.environment() | {"MLFLOW_TRACKING_URI": ""}
        pool = [sys.executable, "-m", "prefect", "work-pool", "create", "pool", "--type", "process"]
        subprocess.run(pool, check=True, env=os.environ | everywhere, capture_output=True)
        with contextlib.ExitStack() as stack:
            for number in (1, 2):
                folder = tmp_path / f"machine-{number}"
                folder.mkdir()
                (folder / "parted_objective.py").write_text(PARTED)
                own = {"PREFECT_HOME": str(folder / "prefect"), "HPO_HOME": str(folder / "hpo")}
                own |= {"PYTHONPATH": f"{ROOT}:{folder}", "HPO_TEST_FOLDER": str(number)}
                worker = ["prefect", "worker", "start", "--pool", "pool", "--limit", "1", "--name", str(number)]
                stack.enter_context(started(folder, *worker, **(everywhere | own)))
            study = tmp_path / "study.yaml"
            data = make_spec(name="parted", runner={"type": "deployment", "work_pool": "pool"}).model_dump(mode="json")
            study.write_text(json.dumps(data | {"objective": "parted_objective:train"}))
            flow = subprocess.run(
                [sys.executable, "-m", "hpo_flows.cli", "tune", str(study)],
                env=os.environ | server.environment() | {"PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
            assert flow.returncode == 0, flow.stderr
        with httpx.Client(base_url=f"{server.uri}/api", timeout=PATIENCE) as prefect:
            trials = prefect.post("/flow_runs/filter", json={"flows": {"name": {"any_": ["trial"]}}}).json()
    finally:
        server.stop()
    ledger = find_study(connect(), "parted")
    history = ledger.load()
    check_whole(history, complete=6, failed=0)
    assert {trial.metrics["folder"] for trial in history} == {1.0, 2.0}
    check_logged_by_mlflow(result_of(ledger, history, "", Stages(ledger)))
    assert sorted(each["name"] for each in trials) == [f"parted-{number:04d}" for number in range(6)]
    for each in trials:
        assert each["work_queue_name"] == "parted" and {"study:parted", "strategy:auto"} <= set(each["tags"])


# -- Ray --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_trials_on_ray(tmp_path: Path) -> None:
    """In a network namespace of its own: Ray listens on every interface, and lets anybody in who reaches it."""
    pytest.importorskip("prefect_ray")
    enter = ["unshare", "--net", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*enter, "ip link set lo up"], capture_output=True).returncode:
        pytest.skip("no network namespace can be made here")
    done = subprocess.run(
        [*enter, f"ip link set lo up && exec {sys.executable} -m tests.on_ray"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": "", "PREFECT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
