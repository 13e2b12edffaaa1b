"""What an objective logs by MLflow itself goes into its trial's run, which the flow alone ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from hpo_core.ledger.store import FINISHED, RUNNING, Metric
from hpo_core.tracking.connection import connect
from hpo_core.tracking.mlflow_store import MlflowStore
from hpo_core.tracking.trial_run import Logged, TrialRun, joined


@pytest.fixture
def store(tmp_path: Path) -> MlflowStore:
    return connect(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.fixture
def run(store: MlflowStore) -> TrialRun:
    experiment = store.experiment("study", create=True)
    assert experiment is not None
    return TrialRun(store.uri, store.create_run(experiment, "study-0000", {}).id, experiment, {"depth": "3"})


@pytest.fixture(autouse=True)
def _mlflow_as_before() -> Iterator[None]:
    uri, experiment = mlflow.get_tracking_uri(), mlflow.tracking.fluent._active_experiment_id
    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID")}
    mlflow.set_tracking_uri(None)
    yield
    while mlflow.active_run() is not None:
        mlflow.end_run()
    mlflow.set_tracking_uri(uri)
    mlflow.tracking.fluent._active_experiment_id = experiment
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def logged_by(run: TrialRun) -> Logged:
    """What scripts do: runs in blocks, one after the other, within each other, in threads, and one left open."""
    with joined(run) as logged:
        with mlflow.start_run(run_name="mine", tags={"mine": "yes"}) as first:
            assert first.info.run_id == run.id
            mlflow.log_params({"depth": 4, "more": 1})
            mlflow.log_param("depth", 3)
            mlflow.log_param("depth", "deep")
        with mlflow.start_run():
            with mlflow.start_run():
                mlflow.log_metric("loss", 0.9, step=70)
            with mlflow.start_run(nested=True) as child:
                mlflow.log_metric("loss", 0.1, step=900)
        with mlflow.start_run(nested=True) as other:
            pass
        thread = threading.Thread(target=lambda: mlflow.log_metric("from a thread", 1.0))
        thread.start()
        thread.join()
        mlflow.log_metric("queued", 2.0, synchronous=False)
        mlflow.end_run()
        mlflow.log_metric("left open", 3.0)
        for nested in (child, other):
            tags = mlflow.get_run(nested.info.run_id).data.tags
            assert tags["mlflow.parentRunId"] == run.id
        while mlflow.active_run() is not None:
            mlflow.end_run()
    return logged


@pytest.mark.parametrize("elsewhere", [False, True])
def test_scripts_log_to_the_trials_run(store: MlflowStore, run: TrialRun, elsewhere: bool) -> None:
    """Also where they have set an experiment of their own before."""
    mlflow.set_tracking_uri(run.uri)
    if elsewhere:
        mlflow.set_experiment("another")
    logged = logged_by(run)
    found = store.get(run.id)
    assert (found.status, found.end, found.name) == (RUNNING, None, "study-0000")
    assert found.metrics == {"loss": 0.9, "from a thread": 1.0, "queued": 2.0, "left open": 3.0}
    assert found.params == {"more": "1", "depth": "3"} and found.tags["mine"] == "yes"
    assert logged.steps == {"loss": 70, "from a thread": 0, "queued": 0, "left open": 0}
    assert logged.clashes == {"depth": "deep"} and logged.time > 0
    assert len(store.search([run.experiment], {})) == 3


def test_an_objective_that_runs_a_study_in_its_own_process_logs_to_its_run_before_and_after(
    store: MlflowStore, run: TrialRun
) -> None:
    inner = TrialRun(store.uri, store.create_run(run.experiment, "inner-0000", {}).id, run.experiment, {})
    with joined(run):
        mlflow.log_metric("before", 1.0)
        with joined(inner):
            mlflow.log_metric("within", 2.0)
        mlflow.log_metric("after", 3.0)
    assert store.get(run.id).metrics == {"before": 1.0, "after": 3.0}
    assert store.get(inner.id).metrics == {"within": 2.0}
    assert store.get(run.id).status == store.get(inner.id).status == RUNNING


def test_the_flow_in_the_same_process_ends_the_run(store: MlflowStore, run: TrialRun) -> None:
    with joined(run):
        mlflow.log_metric("loss", 1.0)
        store.log(run.id, [Metric("loss", 0.5, 2**41, 9)], {"depth": "4"}, {})
        store.set_status(run.id, FINISHED)
    found = store.get(run.id)
    assert (found.status, found.metrics["loss"], found.params["depth"]) == (FINISHED, 0.5, "4")


def test_another_server_and_another_run_are_left_alone(store: MlflowStore, run: TrialRun, tmp_path: Path) -> None:
    other = connect(f"sqlite:///{tmp_path}/other.db")
    named = store.create_run(run.experiment, "by hand", {}).id
    with joined(run):
        with mlflow.start_run(run_id=named):
            mlflow.log_metric("loss", 1.0)
        mlflow.set_tracking_uri(other.uri)
        with mlflow.start_run(experiment_id="0") as own:
            mlflow.log_param("depth", "deep")
    assert store.get(named).status == FINISHED and not store.get(run.id).metrics
    found = other.get(own.info.run_id)
    assert found.params == {"depth": "deep"} and "mlflow.parentRunId" not in found.tags


def test_after_the_trial_all_is_as_before(store: MlflowStore, run: TrialRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "of a project")
    before = dict(os.environ)
    with joined(run), mlflow.start_run():
        pass
    assert dict(os.environ) == before
    monkeypatch.delenv("MLFLOW_RUN_ID")
    mlflow.set_tracking_uri(run.uri)
    with mlflow.start_run(experiment_id=run.experiment) as own:
        pass
    assert own.info.run_id != run.id and "mlflow.parentRunId" not in store.get(own.info.run_id).tags


CHILD = """
import mlflow
for number in range(2):
    with mlflow.start_run(run_name=f"part {number}"):
        mlflow.log_metric("loss", number)
        with mlflow.start_run(nested=True, run_name=f"below part {number}"):
            pass
mlflow.log_metric("left open", 1.0)
"""


def test_runs_of_processes_that_the_objective_starts_are_below_the_trials(store: MlflowStore, run: TrialRun) -> None:
    """And end themselves alone, not the trial."""
    with joined(run):
        subprocess.run([sys.executable, "-c", CHILD], check=True)
    found = store.get(run.id)
    assert (found.status, found.end, found.metrics) == (RUNNING, None, {})
    runs = {each.id: each for each in store.search([run.experiment], {})}
    names = {each.id: each.name for each in runs.values()}
    parents = {each.name: names.get(each.tags.get("mlflow.parentRunId", "")) for each in runs.values()}
    unnamed = (parents.keys() - {"study-0000", "part 0", "part 1", "below part 0", "below part 1"}).pop()
    assert parents == {
        "study-0000": None, "part 0": "study-0000", "part 1": "study-0000", unnamed: "study-0000",
        "below part 0": "part 0", "below part 1": "part 1",
    }  # fmt: skip


SCRIPT = """
import sys
from hpo_core.tracking.trial_run import TrialRun, joined
with joined(TrialRun(*sys.argv[1:], {})):
    assert "mlflow" not in sys.modules
    from mlflow import log_metric, start_run
    with start_run():
        log_metric("loss", 0.5)
    log_metric("left open", 1.0)
"""


def test_mlflow_is_changed_as_it_is_imported(store: MlflowStore, run: TrialRun) -> None:
    """And its hook at the exit of the process ends nothing, since it knows of no run."""
    subprocess.run([sys.executable, "-c", SCRIPT, run.uri, run.id, run.experiment], check=True)
    found = store.get(run.id)
    assert found.metrics == {"loss": 0.5, "left open": 1.0}
