"""The loop with real parts: Prefect's server, MLflow, worker processes, Keras."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.api import StudyResult, open_ledger, run
from flows.objective import Objective
from hpo_core.errors import InputError
from hpo_core.history import History
from hpo_core.ledger import find_study
from hpo_core.study import StudySpec, study_from
from hpo_core.trial import TrialState
from mlflow_server.embedded import connect

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("HPO_TEST_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("HPO_TEST_MARKS", str(tmp_path))


def make_spec(objective: str = "quick", **changes: Any) -> StudySpec:
    data: dict[str, Any] = {
        "name": "study",
        "objective": f"tests.objectives:{objective}",
        "metric": "loss",
        "direction": "minimize",
        "space": {"x": {"type": "float", "low": 0, "high": 1}},
        "stop": {"trials": 6},
        "parallel": 2,
    }
    return study_from(data | changes)


def tune(spec: StudySpec) -> StudyResult:
    return run(open_ledger(spec), Objective(spec.objective, (str(ROOT),)))


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
    assert {"hpo.strategy", "hpo.seed", "hpo.history", "hpo.task_run", "hpo.lease"} <= tags.keys()


def test_any_proposal_can_be_replayed_from_what_mlflow_keeps() -> None:
    spec = make_spec("quick", parallel=1, strategy="random")
    history = tune(spec).history
    for trial in history:
        before = History(history.trials[: trial.number])
        (proposal,) = spec.propose(before, 1)
        assert proposal.config == trial.config


def test_a_trial_has_seed_scratch_and_artifacts_of_its_own(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    result = tune(make_spec("facts"))
    assert len({trial.metrics["seed"] for trial in result.history}) == 6
    assert {trial.metrics["files"] for trial in result.history} == {1.0}  # nothing left by the trial before
    assert 1 <= len({trial.metrics["pid"] for trial in result.history}) <= 2  # workers live for many trials
    trial = result.history.trials[3]
    client = MlflowClient(result.tracking_uri)
    note = Path(client.download_artifacts(trial.run_id, "note.txt", str(tmp_path)))
    assert note.read_text() == f"seed {int(trial.metrics['seed'])}"
    assert list((tmp_path / ".hpo" / "trials").iterdir()) == []


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
    "bad input": "callbacks.0.EarlyStopping.monitor: 'los' is no metric; name one",
    "bad report": "ValueError: the metric 'loss' has the value 'high', which is not a number",
    "2,000 metrics": None,
    "impossible metric name": "MLflow refused what the trial logged",
    "exit": "the objective called sys.exit(3)",
    "_exit": "its process ended with exit code 4",
    "segfault": "its process was killed by SIGSEGV",
    "hang": "timed out after 3 s",
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
            trial_timeout=3,
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
    assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]


def test_a_metric_that_the_objective_does_not_return_ends_the_study_at_once() -> None:
    spec = make_spec("misbehave", space={"how": {"type": "fixed", "value": "wrong key"}}, stop={"trials": 50})
    with pytest.raises(InputError, match=r"metric: .*no 'loss' but \['accuracy'\]; return it, or correct metric"):
        tune(spec)
    (trial,) = open_ledger(spec).load().trials
    assert trial.state is TrialState.FAILED


def test_a_mistake_in_the_study_that_only_the_worker_sees_ends_it_at_once() -> None:
    spec = make_spec("misbehave", space={"how": {"type": "fixed", "value": "bad input"}}, stop={"trials": 50})
    with pytest.raises(InputError, match=r"^callbacks\.0\.EarlyStopping\.monitor: 'los' is no metric; name one$"):
        tune(spec)
    (trial,) = open_ledger(spec).load().trials
    assert trial.state is TrialState.FAILED


@pytest.mark.slow
def test_an_objective_that_uses_mlflow_itself_disturbs_nothing() -> None:
    hows = ["own run", "autolog"]
    space = {"how": {"type": "choice", "choices": hows}}
    result = tune(make_spec("misbehave", space=space, first=[{"how": how} for how in hows], parallel=1))
    assert [trial.loss for trial in result.history] == [1.0, 1.0]


def test_slots_refill_as_trials_end() -> None:
    """One long trial does not hold up the short ones beside it."""
    space = {"x": {"type": "float", "low": 0, "high": 1}, "seconds": {"type": "choice", "choices": [0.3, 3.0]}}
    first = [{"x": 0.5, "seconds": 3.0}] + [{"x": i / 10, "seconds": 0.3} for i in range(5)]
    history = tune(make_spec("slow", space=space, first=first)).history
    long, *short = history.trials
    assert long.end is not None
    assert sum(trial.end is not None and trial.end < long.end for trial in short) >= 4


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


def test_a_plain_function_from_a_script_without_a_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from flows import run_study\n"
        "from hpo_core import Float\n"
        "def objective(trial):\n"
        "    return (trial.config['x'] - 0.3) ** 2\n"
        "result = run_study(objective, name='script', space={'x': Float(low=0, high=1)}, metric='loss', trials=4,\n"
        "                   progress=False)\n"
        "print(len(result.history.complete), result.best_value >= 0, sorted(result.best_config))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.splitlines()[-1:] == ["4 True ['x']"], done.stderr


def environment() -> dict[str, str]:
    """For a flow in a process of its own: the test's Prefect server, and the tests' objectives."""
    from prefect.settings import get_current_settings

    api = os.environ.get("HPO_TEST_PREFECT") or get_current_settings().api.url
    assert api is not None
    return os.environ | {"PREFECT_API_URL": api, "PYTHONPATH": str(ROOT)}


def write_study(folder: Path, objective: str = "slow", **changes: Any) -> Path:
    spec = make_spec(objective, **changes)
    path = folder / "study.yaml"
    data = spec.model_dump(mode="json", exclude_none=True)
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def start(path: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "flows.cli", "tune", str(path), *arguments]
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_for_complete(count: int, seconds: float = 90, study: str = "study") -> History:
    store = connect()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            history = find_study(store, study).load()
        except InputError:
            time.sleep(0.2)
            continue
        if len(history.complete) >= count:
            return history
        time.sleep(0.1)
    raise AssertionError("the study does not get on")


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_killed_flow_goes_on_where_it_was(tmp_path: Path, how: str) -> None:
    path = write_study(tmp_path, stop={"trials": 12}, retries=1)
    flow = start(path)
    before = wait_for_complete(3)
    os.kill(flow.pid, getattr(signal, how))
    output, _ = flow.communicate(timeout=60)
    assert flow.returncode == {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130}[how], output
    if how != "SIGKILL":
        assert "to go on" in output and "Traceback" not in output
        stopped = find_study(connect(), "study")
        assert not stopped.load().running  # marked by the flow itself
        assert stopped.study_run.status == "KILLED"
    resumed = start(path)
    output, _ = resumed.communicate(timeout=100)
    assert resumed.returncode == 0, output
    history = find_study(connect(), "study").load()
    assert [trial.number for trial in history] == list(range(12))
    assert not history.running
    finished = {trial.run_id: trial.loss for trial in history.complete}
    for trial in before.complete:
        assert finished[trial.run_id] == trial.loss  # kept as it was
    fresh = [trial.identity for trial in history if "retry_of" not in trial.notes]
    assert len(set(fresh)) == len(fresh)
    lost = [trial for trial in history.failed if trial.notes.get("lost")]
    assert len(lost) <= 2
    assert {str(trial.number) for trial in lost} == {
        trial.notes["retry_of"] for trial in history if "retry_of" in trial.notes
    }


def test_the_command_line_answers_scripts(tmp_path: Path) -> None:
    path = write_study(tmp_path, stop={"trials": 2}, space={"x": {"type": "float", "low": 0, "high": 1}})

    def hpo(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli", *arguments]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=False)

    assert hpo("validate", str(path)).returncode == 0
    missing = hpo("status", str(path))
    assert missing.returncode == 2 and "no study 'study'" in missing.stderr
    done = hpo("tune", str(path))
    assert done.returncode == 0, done.stderr
    assert "Incumbent: trial" in done.stdout and "hpo ui" in done.stdout
    for study in (str(path), "study"):
        status = json.loads(hpo("status", study, "--json").stdout)
        assert (status["study"], status["complete"], status["running"], status["failed"]) == ("study", 2, 0, 0)
        assert status["best"] == json.loads(hpo("best", study, "--json").stdout)["value"]
        assert status["tracking_uri"] == os.environ["MLFLOW_TRACKING_URI"]
    more = hpo("tune", "study", "--trials", "3", "--set", "seed=4", "--strategy", "random")
    assert more.returncode == 0, more.stderr
    assert "stop.trials: 2 -> 3" in more.stderr
    assert json.loads(hpo("status", "study", "--json").stdout)["complete"] == 3
    wrong = hpo("tune", str(path), "--set", "strategy=nothing")
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr and "'nothing' is no strategy" in wrong.stderr
    os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    gone = hpo("status", "study")
    assert gone.returncode == 3 and "does not answer" in gone.stderr and "Traceback" not in gone.stderr


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
