"""Studies by strategies of the user's own, Optuna's samplers and populations: real flows, alone and two at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hpo_core.base.extras import is_installed
from hpo_core.ledger.store import FAILED
from hpo_core.lineage.opening import find_study
from hpo_core.lineage.replay import explain
from hpo_core.strategies.own import LOADED
from hpo_core.tracking.connection import connect
from tests.studies import _somewhere_else as _somewhere_else
from tests.studies import environment, make_spec, start, tune

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]

MODULE = """
from hpo_core import fill, trial_rng

class Uniform:
    def __init__(self, breaks_at=1000):
        self.breaks_at = breaks_at
    def propose(self, space, history, n, *, seed):
        if len(history) >= self.breaks_at:
            raise RuntimeError("it has had enough")
        def points(number):
            rng = trial_rng(seed, number)
            while True:
                yield rng.random(space.dimensions)
        return fill(space, history, n, seed=seed, points=points)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "own_in_flows.py").write_text(MODULE)
    return tmp_path


def study_in(folder: Path, strategy: str, trials: int) -> Path:
    path = folder / "study.yaml"
    path.write_text(f"""
name: study
objective: tests.objectives:slow
metric: loss
direction: minimize
space: {{x: {{type: float, low: 0, high: 1}}}}
strategy: {strategy}
stop: {{trials: {trials}}}
parallel: 2
repeats: off
""")
    return path


def hpo(folder: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "hpo_flows.cli", *arguments]
    ran = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.parametrize("strategy", ["own_in_flows:Uniform", "{name: optuna, sampler: CmaEsSampler}"])
def test_two_flows_at_once_lose_and_double_nothing(folder: Path, strategy: str) -> None:
    if "optuna" in strategy and not (is_installed("optuna") and is_installed("cmaes")):
        pytest.skip("the extra [optuna] is not installed")
    path = study_in(folder, strategy, 24)
    flows = [start(path) for _ in range(2)]
    for flow in flows:
        out, _ = flow.communicate()
        assert flow.returncode == 0, out
    history = find_study(connect(), "study").load()
    assert [trial.number for trial in history] == list(range(24))
    assert len(history.complete) == 24 == len(history.identities)


def test_a_study_whose_strategy_breaks_is_ended_and_read_where_it_is_not(folder: Path) -> None:
    path = study_in(folder, "{name: 'own_in_flows:Uniform', breaks_at: 3}", 9)
    code, said = hpo(folder, "tune", str(path))
    assert code == 2 and "propose raised RuntimeError: it has had enough" in said, said
    assert "Traceback" not in said
    ledger = find_study(connect(), "study")
    assert ledger.study_run.status == FAILED and not ledger.load().running
    (folder / "elsewhere").mkdir()
    (folder / "own_in_flows.py").rename(folder / "gone.txt")
    for command in (["list"], ["status", "study"], ["best", "study"], ["status", str(path)]):
        code, said = hpo(folder / "elsewhere", *command)
        assert code == 0 and "study" in said, said
    code, said = hpo(folder / "elsewhere", "explain", "study", "1")
    assert "cannot be imported" in " ".join(said.split()), said
    code, said = hpo(folder / "elsewhere", "tune", str(path))
    assert code == 2 and "strategy.name: 'own_in_flows:Uniform' cannot be imported" in said, said
    LOADED.clear()


def test_a_population_goes_on_from_checkpoints_and_can_be_replayed() -> None:
    strategy: dict[str, Any] = {"name": "pbt", "population": 5, "generations": 3}
    fidelity = {"name": "epochs", "min": 1, "max": 9}
    result = tune(make_spec("epochs", strategy=strategy, fidelity=fidelity, stop={"trials": 40}))
    history = result.history
    assert [trial.fidelity for trial in history.complete].count(9.0) == 5 and len(history.complete) == 15
    assert all(trial.metrics["trained"] == 3 for trial in history)
    assert all(str(trial.notes["continued"]).startswith("yes") for trial in history if trial.parent is not None)
    copies = [t for t in history if t.parent is not None and t.notes["picked"] == "exploit"]
    assert copies and all(t.config != history.trials[t.parent or 0].config for t in copies)
    assert explain(find_study(connect(), "study"), copies[-1].number).same
    again = tune(make_spec("epochs", strategy=strategy, fidelity=fidelity, stop={"trials": 40}))
    assert len(again.history) == 15
