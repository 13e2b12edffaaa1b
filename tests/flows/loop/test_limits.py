"""Studies with limits on results, from the file to the best trial."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from hpo_core import Float
from hpo_core.base.errors import InputError
from hpo_flows import TrialContext, run_study

SPACE = {"x": Float(low=0, high=5), "y": Float(low=0, high=5)}


def objective(trial: TrialContext) -> dict[str, float]:
    x, y = trial.config["x"], trial.config["y"]
    assert isinstance(x, float) and isinstance(y, float)
    trial.report(0, {"size_mb": y})
    return {"loss": (x - 3) ** 2 + (y - 3) ** 2, "latency_ms": 10 * x}


def run(folder: Path, **settings: Any) -> Any:
    given: dict[str, Any] = {"name": "limited", "space": SPACE, "metric": "loss", "progress": False, "trials": 14}
    return run_study(objective, tracking_uri=f"sqlite:///{folder}/mlflow.db", **given | settings)


def test_a_study_keeps_to_its_limits_and_may_change_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = run(tmp_path, limits={"latency_ms": "<= 20", "size_mb": "<= 2"})
    best = first.best
    assert best.feasible and best.metrics["latency_ms"] <= 20 and best.metrics["size_mb"] <= 2
    assert first.best_value < 4.5  # the optimum within the limits is 2
    wider = run(tmp_path, limits={"latency_ms": "<= 30"}, trials=16)
    assert wider.best_value <= first.best_value and wider.best.metrics["latency_ms"] <= 30


def test_a_limited_metric_that_no_trial_logs_ends_the_study_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"limits\.memory.*'memory'.*return it, or remove its limit"):
        run(tmp_path, limits={"memory": "<= 1"})


def test_a_final_choice_is_among_those_that_keep_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(tmp_path, limits={"latency_ms": "<= 20"}, trials=8, final={"top": 2, "folds": 2})
    assert result.choice is not None and all(each.trial.feasible for each in result.choice.standings)
    assert math.isfinite(result.best_value)
