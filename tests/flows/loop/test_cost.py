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
