"""Studies for tests: their specifications, the commands that run them, and a folder of their own for each test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.lineage.opening import find_study
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec
from hpo_core.tracking.connection import connect, create
from hpo_flows.api import open_ledger, run
from hpo_flows.cli.app import main
from hpo_flows.objectives.reference import Objective
from hpo_flows.results import StudyResult
from tests.conftest import wait_until

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("HPO_TEST_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("HPO_TEST_MARKS", str(tmp_path))
    create(tmp_path / "mlflow.db")  # a copy, which costs the processes of a test nothing


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


def gated(folder: Path, free: int) -> dict[str, Any]:
    """The space of the objective ``gated``: ``free`` trials end, the others only once :func:`let_pass` is called."""
    gate = {"gate": {"type": "fixed", "value": str(folder / "gate")}, "free": {"type": "fixed", "value": free}}
    return {"x": {"type": "float", "low": 0, "high": 1}, **gate}


def let_pass(folder: Path) -> None:
    (folder / "gate").touch()


def tune(spec: StudySpec) -> StudyResult:
    return run(open_ledger(spec), Objective(spec.objective, (str(ROOT),)))


def environment() -> dict[str, str]:
    """For a flow in a process of its own: the test's Prefect server, and the tests' objectives."""
    from prefect.settings import get_current_settings

    api = os.environ.get("HPO_TEST_PREFECT") or get_current_settings().api.url
    assert api is not None
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PREFECT_API_URL": api, "PYTHONPATH": path}


def write_study(folder: Path, objective: str = "slow", **changes: Any) -> Path:
    spec = make_spec(objective, **changes)
    path = folder / "study.yaml"
    data = spec.model_dump(mode="json", exclude_none=True)
    if spec.repeats is None:
        data["repeats"] = "off"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def start(path: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hpo_flows.cli", "tune", str(path), *arguments]
    return subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def called(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """The command line in this process, since another takes seconds to import MLflow: exit code, output, errors."""
    monkeypatch.setattr(sys, "argv", ["hpo", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0), *capsys.readouterr()


def wait_for_complete(count: int, study: str = "study") -> History:
    store = connect()

    def so_far() -> History | None:
        try:
            history = find_study(store, study).load()
        except InputError:
            return None
        return history if len(history.complete) >= count else None

    return wait_until(so_far, "the study does not get on")


def check_logged_by_mlflow(result: StudyResult) -> None:
    """One run a trial of ``logs_by_mlflow``, wherever it trained: with what MLflow logged, and with its result."""
    from mlflow import MlflowClient

    client = MlflowClient(result.tracking_uri)
    runs = {run.info.run_id: run for run in client.search_runs([result.experiment_id])}
    assert runs.keys() == {result.run_id, *(trial.run_id for trial in result.history)}
    for trial in result.history:
        run, x = runs[trial.run_id], float(trial.config["x"])  # type: ignore[arg-type]
        assert (run.info.status, trial.loss, run.data.metrics["loss"]) == ("FINISHED", x, x)
        assert [(each.step, each.value) for each in client.get_metric_history(trial.run_id, "curve")] == [
            (step, x + step) for step in range(3)
        ]
        assert run.data.metrics["training_score"] == 1.0 and run.data.params["fit_intercept"] == "True"
        assert run.data.tags["asked"] == "yes" and run.data.tags["mlflow.runName"].startswith(result.spec.name)
