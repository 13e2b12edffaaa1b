"""The loop with real parts: Prefect's server, MLflow, worker processes, Keras."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from hpo_core.base.errors import InputError, StudyFailed
from hpo_core.history.history import History
from hpo_core.history.trial import TrialState
from hpo_core.lineage.opening import find_study
from hpo_core.study.file import study_from
from hpo_core.tracking.connection import connect
from hpo_flows.api import early_workers, open_ledger, run
from hpo_flows.objectives.reference import Objective
from tests.conftest import PATIENCE, wait_until
from tests.studies import (
    ROOT,
    called,
    environment,
    gated,
    let_pass,
    make_spec,
    start,
    tune,
    wait_for_complete,
    write_study,
)
from tests.studies import _somewhere_else as _somewhere_else

pytestmark = pytest.mark.usefixtures("prefect_server")


def test_a_study_runs_to_its_total_and_then_says_so(tmp_path: Path) -> None:
    spec = make_spec("slow", first=[{"x": 0.25}])
    result = tune(spec)
    assert [trial.state for trial in result.history] == [TrialState.COMPLETE] * 6
    first = result.history.trials[0]
    assert (first.config, first.loss, first.metrics["extra"]) == ({"x": 0.25}, (0.25 - 0.3) ** 2, 1.0)
    assert "6 trials" in result.reason
    again = tune(spec)
    assert [trial.run_id for trial in again.history] == [trial.run_id for trial in result.history]
    more = tune(study_from(spec.model_dump() | {"stop": {"trials": 8}}))
    assert [trial.number for trial in more.history] == list(range(8))


def test_what_mlflow_shows(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    spec = make_spec("slow", experiment="shown")
    result = tune(spec)
    client = MlflowClient(result.tracking_uri)
    experiment = client.get_experiment_by_name("shown")
    runs = client.search_runs([experiment.experiment_id])
    parent = next(run for run in runs if run.info.run_id == result.run_id)
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == result.run_id]
    assert len(runs) == 7 and len(children) == 6
    assert parent.info.status == "FINISHED"
    best = result.best
    assert best is not None
    assert f"trial {best.number}" in parent.data.tags["mlflow.note.content"]
    child = next(run for run in children if run.info.run_id == best.run_id)
    assert child.info.run_name == f"study-{best.number:04d}"
    assert child.info.status == "FINISHED"
    assert child.data.params == {"x": str(best.config["x"])}
    assert child.data.metrics["loss"] == best.loss
    curve = client.get_metric_history(child.info.run_id, "curve")
    assert [(point.step, point.value) for point in curve] == [(0, 0.0), (1, 1.0), (2, 2.0)]
    tags = child.data.tags
    assert {tag for tag in tags if tag.startswith("hpo.")} - {"hpo.task_run_url"} == {
        *("hpo.role", "hpo.study", "hpo.number", "hpo.strategy", "hpo.proposal", "hpo.result"),
        *("hpo.owner", "hpo.lease", "hpo.task_run"),
    }
    said = tags["mlflow.note.content"]
    assert said.startswith(f"**loss {best.loss:.6g}**\n\nProposed by ")
    assert said.endswith(
        f"[study](#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}?workflowType=machine_learning)"
    )


def test_any_proposal_can_be_replayed_from_what_mlflow_keeps() -> None:
    spec = make_spec("quick", parallel=1, strategy="random")
    history = tune(spec).history
    for trial in history:
        before = History(history.trials[: trial.number])
        (proposal,) = spec.propose(before, 1)
        assert proposal.config == trial.config


def test_a_trial_has_seed_scratch_and_artifacts_of_its_own(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    spec = make_spec("facts")
    objective = Objective(spec.objective, (str(ROOT),))
    with early_workers(spec, objective) as pool:
        assert pool is not None
        pids = {worker.pid for worker in pool._all.values()}
        result = run(open_ledger(spec), objective, pool=pool)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert len({trial.metrics["seed"] for trial in result.history}) == 6
    assert {trial.metrics["files"] for trial in result.history} == {1.0}  # nothing left by the trial before
    assert {trial.metrics["pid"] for trial in result.history} <= pids  # workers live for many trials
    trial = result.history.trials[3]
    client = MlflowClient(result.tracking_uri)
    note = Path(client.download_artifacts(trial.run_id, "note.txt", str(tmp_path)))
    assert note.read_text() == f"seed {int(trial.metrics['seed'])}"
    assert list((tmp_path / ".hpo" / "trials").iterdir()) == []


@pytest.mark.parametrize(
    "lacking", [{"runner": {"type": "dask", "address": "tcp://127.0.0.1:9"}}, {"resources": {"gpus": 64}}]
)
def test_no_workers_are_started_early_for_a_study_that_cannot_be_trained_here(lacking: dict[str, Any]) -> None:
    spec = make_spec("facts", **lacking)
    with early_workers(spec, Objective(spec.objective, (str(ROOT),))) as pool:
        assert pool is None


def test_a_killed_process_is_retried_in_the_same_run() -> None:
    result = tune(make_spec("once_then_fine", retries=1, stop={"trials": 3}))
    assert Counter(trial.state for trial in result.history) == {TrialState.COMPLETE: 3}


def test_without_retries_a_killed_process_is_a_failed_trial_that_says_so() -> None:
    result = tune(make_spec("once_then_fine", stop={"trials": 3}))
    assert [trial.reason for trial in result.history] == ["its process was killed by SIGKILL"] * 3


EXPECTED = {
    "fine": None,
    "raise": "RuntimeError: on purpose",
    "nan": "the objective returned loss = nan",
    "inf": "the objective returned loss = inf",
    "string": "the objective returned '0.5!'; return the loss as a number",
    "none": "the objective returned None",
    "wrong key": "the objective returned no 'loss' but ['accuracy']",
    "bad input": "callbacks.0.EarlyStopping.monitor: 'los' is not a metric; name one",
    "bad report": "ValueError: the metric 'loss' has the value 'high', which is not a number",
    "2,000 metrics": None,
    "impossible metric name": None,
    "exit": "the objective called sys.exit(3)",
    "_exit": "its process ended with exit code 4",
    "segfault": "its process was killed by SIGSEGV",
    "fork": None,
    "print a lot": None,
    "spawn children": None,
}


def test_a_misbehaving_objective_fails_its_own_trial_and_nothing_else() -> None:
    first = [{"how": how} for how in EXPECTED]
    result = tune(
        make_spec(
            "misbehave",
            space={"how": {"type": "choice", "choices": list(EXPECTED)}},
            first=first,
            stop={"trials": len(first)},
        )
    )
    assert len(result.history) == len(first)
    for trial in result.history:
        expected = EXPECTED[str(trial.config["how"])]
        if expected is None:
            assert trial.state is TrialState.COMPLETE, trial
        else:
            assert trial.state is TrialState.FAILED, trial
            assert trial.reason.startswith(expected), trial.reason
    child = int(Path("child").read_text())
    wait_until(lambda: ended(child), "a child that the objective left behind lives on")


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_hanging_objective_is_ended_at_its_time_limit() -> None:
    result = tune(make_spec("misbehave", space={"how": {"type": "fixed", "value": "hang"}}, stop={"trials": 1},
                            trial_timeout=3))  # fmt: skip
    assert [trial.reason for trial in result.history.failed] == ["timed out after 3 s"]


def test_a_metric_that_the_objective_does_not_return_ends_the_study_at_once() -> None:
    spec = make_spec("misbehave", space={"how": {"type": "fixed", "value": "wrong key"}}, stop={"trials": 50})
    with pytest.raises(InputError, match=r"metric: .*no 'loss' but \['accuracy'\]; return it, or correct metric"):
        tune(spec)
    ledger = open_ledger(spec)
    (trial,) = ledger.load().trials
    assert trial.state is TrialState.FAILED
    assert ledger.study_run.status == "FAILED"  # or it counts as running for minutes, and cannot be deleted


def test_a_mistake_in_the_study_that_only_the_worker_sees_ends_it_at_once() -> None:
    spec = make_spec("misbehave", space={"how": {"type": "fixed", "value": "bad input"}}, stop={"trials": 50})
    with pytest.raises(InputError, match=r"^callbacks\.0\.EarlyStopping\.monitor: 'los' is not a metric; name one$"):
        tune(spec)
    ledger = open_ledger(spec)
    (trial,) = ledger.load().trials
    assert trial.state is TrialState.FAILED
    assert ledger.study_run.status == "FAILED"  # or it counts as running for minutes, and cannot be deleted


def test_a_study_whose_first_trials_fail_alike_ends_and_goes_on_once_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec("broken", stop={"trials": 20})
    with pytest.raises(StudyFailed, match=r"first [34] trials all failed .*FileNotFoundError: no") as caught:
        tune(spec)
    assert "in broken" in str(caught.value) and "stop: {same_error: false}" in str(caught.value)
    ledger = open_ledger(spec)
    assert len(ledger.load().failed) in (3, 4) and not ledger.load().running
    assert ledger.study_run.status == "FAILED"
    on = make_spec("broken", stop={"trials": 8, "same_error": False})
    assert len(tune(on).history.failed) == 8
    monkeypatch.setenv("HPO_TEST_FROM", "0")
    assert len(tune(make_spec("broken", stop={"trials": 10})).history.complete) == 2


def test_a_trial_that_began_with_those_that_failed_alike_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    space = {"x": {"type": "float", "low": 0, "high": 1}, "seconds": {"type": "choice", "choices": [0, 2]}}
    monkeypatch.setenv("HPO_TEST_FROM", "2")
    first = [{"x": 0.1, "seconds": 0}, {"x": 0.2, "seconds": 2}]
    result = tune(make_spec("broken", space=space, first=first, stop={"trials": 5}))
    assert [trial.state for trial in result.history] == [TrialState.FAILED] * 2 + [TrialState.COMPLETE] * 3


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["process", "none"])
def test_what_an_objective_logs_by_mlflow_itself_is_in_its_trials_run(isolation: str) -> None:
    """Autologging and runs of the objective's own: one run a trial, ended by the flow, with its result."""
    import mlflow
    from mlflow import MlflowClient

    hows = ["own run", "autolog"]
    space = {"how": {"type": "choice", "choices": hows}}
    more = {"isolation": isolation, "resources": {"log": True}}
    result = tune(make_spec("misbehave", space=space, first=[{"how": how} for how in hows], parallel=1, **more))
    mlflow.autolog(disable=True, silent=True)  # which one of them may have turned on here
    assert [trial.loss for trial in result.history] == [1.0, 1.0]
    client = MlflowClient(result.tracking_uri)
    runs = {run.info.run_id: run for run in client.search_runs([result.experiment_id])}
    own, logged = (runs.pop(trial.run_id) for trial in result.history)
    assert list(runs) == [result.run_id]
    for each in (own, logged):
        assert each.info.status == "FINISHED" and each.data.metrics["loss"] == 1.0
        assert each.data.tags["mlflow.source.type"] == "LOCAL" and each.data.tags["mlflow.user"]
    assert own.data.tags["mlflow.runName"] == f"{result.spec.name}-0000"
    assert logged.data.metrics["training_score"] == 1.0 and logged.data.params["fit_intercept"] == "True"


def test_slots_refill_as_trials_end(tmp_path: Path) -> None:
    """One long trial does not hold up the short ones beside it: it goes on until four of them have ended."""
    space = {"x": {"type": "float", "low": 0, "high": 1}, "long": {"type": "choice", "choices": [True, False]}}
    first = [{"x": 0.5, "long": True}] + [{"x": i / 10, "long": False} for i in range(5)]
    history = tune(make_spec("outlasting", space=space, first=first)).history
    assert [trial.state for trial in history] == [TrialState.COMPLETE] * 6
    assert history.trials[0].metrics["outlasted"] >= 4


def test_stop_rules_end_a_study() -> None:
    spec = make_spec("quick", name="target", stop={"target": 0.01, "trials": 50})
    result = tune(spec)
    assert "target" in result.reason and len(result.history) < 50
    result = tune(make_spec("quick", name="patience", stop={"no_improvement": 5, "trials": 200}))
    assert "without improvement" in result.reason
    result = tune(make_spec("slow", name="minutes", stop={"minutes": 0.03, "trials": 500}))
    assert "minutes" in result.reason and not result.history.running


def test_a_finite_space_ends_when_it_is_used_up() -> None:
    result = tune(make_spec("quick", space={"x": {"type": "choice", "choices": [0.1, 0.2, 0.3]}}, stop={"trials": 9}))
    assert len(result.history.complete) == 3
    assert "nothing more to propose" in result.reason


def test_an_objective_that_cannot_be_imported_is_named_before_any_training() -> None:
    spec = make_spec("absent")
    with pytest.raises(InputError, match="absent"):
        tune(spec)
    assert len(open_ledger(spec).load()) == 0


SCRIPT = """
import multiprocessing, os, pickle
from dataclasses import dataclass
from hpo_flows import run_study
from hpo_core import Float

@dataclass
class Config:
    x: float

def loss(config):
    return (config.x - 0.3) ** 2

class Model:
    def __call__(self, trial):
        config = pickle.loads(pickle.dumps(Config(trial.config["x"])))
        os.chdir(trial.scratch)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.map(loss, [config])[0]

result = run_study(Model(), name="script", space={"x": Float(low=0, high=1)}, metric="loss", trials=3, progress=False)
print(len(result.history.complete), result.best_value >= 0, sorted(result.best_config))
"""


def test_an_objective_from_a_script_without_a_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script)], env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.stdout.splitlines()[-1:] == ["3 True ['x']"], done.stderr


def test_what_trials_print_is_kept_with_their_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("HPO_TEST_MARKS", str(tmp_path))
    hows = ["print and raise", "fine", "print and raise twice"]
    space = {"how": {"type": "choice", "choices": hows}}
    first = [{"how": how} for how in hows]
    result = tune(make_spec("misbehave", space=space, first=first, stop={"trials": 3}, parallel=1, retries=1))
    client = MlflowClient(result.tracking_uri)
    again, silent, twice = result.history.trials
    assert [item.path for item in client.list_artifacts(silent.run_id)] == []
    for trial, state in ((again, TrialState.COMPLETE), (twice, TrialState.FAILED)):
        assert trial.state is state
        text = Path(client.download_artifacts(trial.run_id, "output.txt", str(tmp_path))).read_text()
        said = f"this is trial {trial.number}\n"
        assert text == f"=== attempt 1: RuntimeError: on purpose ===\n{said}\n=== the last attempt ===\n{said}"
    assert [message for message in caplog.messages if "printed" in message] == [
        "the last that trial 2 printed:\nthis is trial 2"
    ]


@pytest.mark.parametrize(
    "how", ["SIGKILL", *(pytest.param(how, marks=pytest.mark.slow) for how in ("SIGTERM", "SIGINT"))]
)
def test_a_killed_flow_goes_on_where_it_was(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path, "gated", space=gated(tmp_path, 4), stop={"trials": 12})
    flow = start(path)
    before = wait_for_complete(3)
    os.kill(flow.pid, getattr(signal, how))
    output, _ = flow.communicate(timeout=PATIENCE)
    let_pass(tmp_path)
    assert flow.returncode == {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130}[how], output
    if how != "SIGKILL":
        assert "to go on" in output and "Traceback" not in output
        stopped = find_study(connect(), "study")
        assert not stopped.load().running  # marked by the flow itself
        assert stopped.study_run.status == "KILLED"
    code, *told = called(["tune", str(path)], monkeypatch, capsys)
    assert code == 0, told
    history = find_study(connect(), "study").load()
    assert [trial.number for trial in history] == list(range(12 + len(history.failed)))
    assert len(history.complete) == 12 and not history.running
    finished = {trial.run_id: trial.loss for trial in history.complete}
    for trial in before.complete:
        assert finished[trial.run_id] == trial.loss  # kept as it was
    fresh = [trial.identity for trial in history if trial.repeat_of is None and "retry_of" not in trial.notes]
    assert len(set(fresh)) == len(fresh)
    lost = [trial for trial in history.failed if trial.notes.get("lost")]
    assert len(lost) <= 2
    assert {str(trial.number) for trial in lost} == {
        trial.notes["retry_of"] for trial in history if "retry_of" in trial.notes
    }


def test_the_command_line_answers_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path, stop={"trials": 2}, space={"x": {"type": "float", "low": 0, "high": 1}})

    def hpo(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "hpo_flows.cli", *arguments]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False)

    def here(*arguments: str) -> tuple[int, str, str]:
        return called(list(arguments), monkeypatch, capsys)

    def shown(*arguments: str) -> Any:
        code, printed, _ = here(*arguments, "--json")
        assert code == 0
        return json.loads(printed)

    assert here("validate", str(path))[0] == 0
    code, _, error = here("validate", str(path), "--set", "objective=tests.objectives:folded_by_two")
    assert code == 2 and "called with the trial alone" in error
    code, _, error = here("status", str(path))
    assert code == 2 and "no study named 'study'" in error
    done = hpo("tune", str(path))
    assert done.returncode == 0, done.stderr
    # What sqlite keeps beside a database that nobody closed belongs to it: a copy of the file alone would lack trials.
    assert not [*tmp_path.glob("mlflow.db-*")]
    assert "Best: trial" in done.stdout and "MLflow: hpo ui study" in done.stdout
    assert "all 2 trials are done" in done.stdout and "Configuration: best-study.yaml" in done.stdout
    first, *_, before_last, last = done.stderr.splitlines()
    assert "reading" in first and "trial 0 " in before_last + last and "trial 1 " in before_last + last
    assert "\x1b" not in done.stderr + done.stdout
    for study in (str(path), "study"):
        status = shown("status", study)
        assert (status["study"], status["complete"], status["running"], status["failed"]) == ("study", 2, 0, 0)
        assert status["best"] == shown("best", study)["value"]
        assert status["tracking_uri"] == os.environ["MLFLOW_TRACKING_URI"]
    code, _, errors = here("tune", "study", "--trials", "3", "--set", "seed=4", "--strategy", "random")
    assert code == 0, errors
    assert "stop.trials: 2 -> 3" in errors
    assert json.loads(hpo("status", "study", "--json").stdout) == shown("status", "study")
    assert shown("status", "study")["complete"] == 3
    code, _, error = here("tune", str(path), "--set", "strategy=nothing")
    assert code == 2 and "'nothing' is not a strategy" in error
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, _, errors = here("status", "study")
    assert code == 3 and "does not respond" in errors and "Traceback" not in errors


@pytest.mark.slow
def test_a_keras_network_is_tuned() -> None:
    spec = study_from(
        {
            "name": "digits",
            "objective": "examples.digits_cnn:train",
            "metric": "val_accuracy",
            "direction": "maximize",
            "space": {
                "learning_rate": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True},
                "filters": {"type": "int", "low": 8, "high": 16, "step": 8},
                "optimizer": {"type": "choice", "choices": ["adam", "sgd"]},
                "momentum": {"type": "float", "low": 0.5, "high": 0.9, "when": {"optimizer": ["sgd"]}},
            },
            "stop": {"trials": 2},
            "parallel": 1,
            "first": [{"learning_rate": 0.005, "filters": 16, "optimizer": "adam"}],
        }
    )
    result = tune(spec)
    assert len(result.history.complete) == 2, [trial.reason for trial in result.history]
    assert result.best is not None
    assert result.best_value > 0.8
    assert 0.8 < result.best.metrics["test_accuracy"] <= 1


def test_what_prefect_shows() -> None:
    from prefect import tags
    from prefect.client.orchestration import get_client

    how = {"how": {"type": "choice", "choices": ["fine", "raise"]}}
    with tags("mine"):
        tune(make_spec("misbehave", name="shown", space=how, parallel=1, strategy="grid", stop={"trials": 2}))
    with get_client(sync_client=True) as client:

        def found(what: str, **filters: Any) -> list[dict[str, Any]]:
            answer = client._client.post(f"/{what}/filter", json=filters | {"limit": 50})
            answer.raise_for_status()
            return list(answer.json()["events"] if what == "events" else answer.json())

        (run,) = found("flow_runs", flow_runs={"name": {"any_": ["shown"]}}, sort="START_TIME_ASC")
        own = {"id": {"any_": [run["id"]]}}

        def ended() -> dict[str, Any]:
            tasks = {task["name"]: task for task in found("task_runs", flow_runs=own)}
            return tasks if {task["state_type"] for task in tasks.values()} == {"COMPLETED", "FAILED"} else {}

        tasks = wait_until(ended)  # Prefect records them in its own time
        assert tasks.keys() == {"shown-0000: loss 1", "shown-0001"}
        for each in (run, *tasks.values()):
            assert sorted(each["tags"]) == ["mine", "strategy:grid", "study:shown"]
        artifacts = {each["key"]: each["data"] for each in found("artifacts", flow_runs=own)}
        assert artifacts.keys() == {"shown-best", "shown-progress"} and artifacts["shown-progress"] == 100
        told = {"event": {"name": ["hpo.study.finished"]}, "resource": {"id": ["hpo.study.shown"]}}
        (end,) = wait_until(lambda: found("events", filter=told))
        assert end["payload"]["value"] == 1
        related = {each["prefect.resource.id"] for each in end["related"]}
        assert {f"prefect.flow-run.{run['id']}", "prefect.tag.mine"} <= related
