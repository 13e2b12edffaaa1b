"""Studies whose trials have a cost, from the file to the end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hpo_core import Int
from hpo_core.base.errors import InputError
from hpo_flows import TrialContext, run_study
from hpo_flows.cli.app import app
from tests.conftest import PATIENCE, wait_until
from tests.flows.loop.test_crashes import now_in_mlflow
from tests.studies import _somewhere_else as _somewhere_else
from tests.studies import gated, let_pass, start, wait_for_complete, write_study

SPACE = {"x": Int(low=0, high=100), "steps": Int(low=1, high=20)}


def objective(trial: TrialContext) -> dict[str, float]:
    x, steps = trial.config["x"], trial.config["steps"]
    assert isinstance(x, int) and isinstance(steps, int)
    time.sleep(0.01 * steps)
    return {"loss": (x - 30) ** 2 + 1 / steps, "dollars": float(steps)}


def run(folder: Path, **settings: Any) -> Any:
    given: dict[str, Any] = {"name": "priced", "space": SPACE, "metric": "loss", "progress": False, "repeats": "off"}
    return run_study(objective, tracking_uri=f"sqlite:///{folder}/mlflow.db", **given | settings)


@pytest.mark.slow
def test_a_budget_in_cost_is_kept_to_and_every_proposal_is_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    first = run(tmp_path, cost="dollars", stop={"cost": 60}, parallel=2)
    costs = [trial.cost for trial in first.history]
    assert all(trial.cost == trial.config["steps"] for trial in first.history)
    assert 60 <= sum(costs) <= 60 + 2 * 20, "it ends with what runs when the budget is spent"
    more = run(tmp_path, cost="dollars", stop={"cost": sum(costs) + 15}, parallel=2)
    assert sum(trial.cost for trial in more.history) >= sum(costs) + 15
    for trial in more.history:
        found = more.explain(trial.number)
        assert found.seen is not None and found.same, trial.number
    told = CliRunner().invoke(app, ["explain", "priced"]).output
    assert "No further trial is to start: a cost of" in told and "dollars" in told


@pytest.mark.slow
def test_measured_seconds_are_those_of_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(tmp_path, cost="seconds", trials=3)
    for trial in result.history:
        assert trial.end is not None and trial.cost is not None
        assert 0.01 * trial.config["steps"] <= trial.cost <= (trial.end - trial.start) / 1000


@pytest.mark.slow
def test_a_cost_that_no_trial_logs_ends_the_study_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"cost: .*'euros'.*return it, or give cost: seconds"):
        run(tmp_path, cost="euros", trials=2)


def priced(folder: Path, free: int, **changes: Any) -> Path:
    """A study whose trials cost 1 to 2 euros each; from number ``free`` on they wait to be let pass."""
    return write_study(folder, "priced", space=gated(folder, free), cost="euros", repeats="off", **changes)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_two_flows_keep_to_one_budget(tmp_path: Path) -> None:
    path = priced(tmp_path, 0, parallel=3, stop={"cost": 40, "trials": 500})
    flows = [start(path) for _ in range(2)]
    wait_until(lambda: len(now_in_mlflow().running) == 6, "not both flows begin")
    let_pass(tmp_path)
    for flow in flows:
        output, _ = flow.communicate(timeout=PATIENCE)
        assert flow.returncode == 0, output
        assert "euros is spent" in output
    history = now_in_mlflow()
    assert [trial.number for trial in history.every] == list(range(len(history.every)))
    assert len({trial.owner for trial in history}) == 2 and len(history.complete) == len(history)
    costs = [trial.cost or 0.0 for trial in history]
    assert 40 <= sum(costs) <= 40 + sum(sorted(costs)[-6:])


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_killed_trial_counts_with_what_it_had_reported_of_its_cost(tmp_path: Path) -> None:
    path = priced(tmp_path, 2, parallel=1, stop={"cost": 8})
    flow = start(path)
    wait_for_complete(2)
    wait_until(lambda: any("euros" in trial.metrics for trial in now_in_mlflow().running), "its cost is not written")
    flow.kill()
    flow.communicate(timeout=PATIENCE)
    let_pass(tmp_path)
    resumed = start(path)
    output, _ = resumed.communicate(timeout=PATIENCE)
    assert resumed.returncode == 0, output
    history = now_in_mlflow()
    (lost,) = history.failed
    again = next(trial for trial in history if trial.notes.get("retry_of") == str(lost.number))
    assert lost.cost == again.cost == 1 + float(lost.config["x"])
    total = sum(trial.cost or 0.0 for trial in history)
    assert 8 <= total <= 10 and f"a cost of {total:.4g} euros is spent" in output
