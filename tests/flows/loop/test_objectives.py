"""Studies with several metrics, to their front: alone, by two flows at once, asked for, and with fidelities."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from hpo_core import Float
from hpo_core.base.errors import InputError, StudyUnknown
from hpo_core.history.history import History
from hpo_core.history.trial import TrialState
from hpo_core.lineage.opening import find_study
from hpo_core.tracking.connection import connect
from hpo_flows import TrialContext, open_study, run_study
from hpo_flows.api.outside import ask_for, tell_for
from hpo_flows.reports.html.publish import hypervolumes, reference_tag
from tests.studies import _somewhere_else as _somewhere_else
from tests.studies import gated, let_pass, start, wait_until, write_study

SPACE = {"x": Float(low=-2, high=3), "y": Float(low=0, high=5)}
METRICS = {"gain": "maximize", "cost": "minimize"}
GIVEN: dict[str, Any] = {"metric": "", "direction": "", "metrics": METRICS}
LIMITED: dict[str, Any] = {"metric": "gain", "direction": "maximize", "limits": {"cost": "<= 0.25"}, "repeats": "off"}


def objective(trial: TrialContext) -> dict[str, float]:
    x, y = trial.config["x"], trial.config["y"]
    assert isinstance(x, float) and isinstance(y, float)
    trial.report(0, {"cost": x**2 + y})  # which need not be returned
    return {"gain": -((x - 1) ** 2) - y if trial.number != 3 else math.nan}


def check_front(history: History) -> None:
    """Every trial has both losses, and the front is what MLflow's own values say."""
    values = {t.number: (-t.metrics["gain"], t.metrics["cost"]) for t in history.complete}
    assert values == {t.number: t.losses for t in history.complete}
    for number, (gain, cost) in values.items():
        beaten = any(g <= gain and c <= cost and (g, c) != (gain, cost) for g, c in values.values())
        assert beaten != (number in {t.number for t in history.front})


def test_a_study_finds_a_front_and_goes_on(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    given: dict[str, Any] = {"name": "both", "space": SPACE, "metrics": METRICS, "progress": False, "tracking_uri": uri}
    result = run_study(objective, trials=14, parallel=2, **given)
    check_front(result.history)
    assert len(result.history.front) >= 3
    assert [t.reason for t in result.history.failed] == ["the objective returned gain = nan"]
    points = hypervolumes(result.spec, result.history)
    assert points[-1].value == pytest.approx(result.history.hypervolume)
    assert list(json.loads(reference_tag(result.spec, result.history)["hpo.reference"])) == list(METRICS)
    longer = run_study(objective, trials=16, **given)
    assert longer.history.reference == result.history.reference
    assert longer.history.hypervolume >= result.history.hypervolume
    with pytest.raises(InputError, match="metrics"):
        run_study(objective, trials=18, **given | {"metrics": {"cost": "minimize", "gain": "maximize"}})
    with pytest.raises(InputError, match=r"metrics: the objective returned no 'size'.*correct metrics: in the study"):
        run_study(objective, trials=2, **given | {"name": "other", "metrics": {"gain": "maximize", "size": "minimize"}})


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("strategy", "given"),
    [("bayesian", GIVEN), ("tpe", GIVEN), ("hyperband", GIVEN), ("bayesian", LIMITED), ("tpe", LIMITED)],
)
def test_two_flows_at_once_lose_and_double_nothing(strategy: str, given: dict[str, Any], tmp_path: Path) -> None:
    fidelity = {"fidelity": {"name": "epochs", "min": 1, "max": 9, "eta": 3}} if strategy == "hyperband" else {}
    name = f"together-{strategy}-{'limits' in given}"
    changes = {
        "strategy": strategy,
        "stop": {"trials": 30},
        "name": name,
        "space": gated(tmp_path, 0),
        **given,
        **fidelity,
    }
    path = write_study(tmp_path, "two_metrics", **changes)
    flows = [start(path) for _ in range(2)]

    def both_train() -> bool:
        try:
            return len({trial.owner for trial in find_study(connect(), name).load().running}) == 2
        except StudyUnknown:
            return False

    wait_until(both_train)
    let_pass(tmp_path)
    for flow in flows:
        _, errors = flow.communicate()
        assert flow.returncode == 0, errors
    history = find_study(connect(), name).load()
    assert [t.number for t in history] == list(range(30)) and len(history.complete) == 30
    assert len({(t.identity, t.fidelity) for t in history}) == 30
    assert len({t.owner for t in history}) == 2
    if "limits" in given:
        assert all(trial.feasible == (trial.metrics["cost"] <= 0.25) for trial in history.complete)
        assert history.incumbent is not None and history.incumbent.feasible
        assert history.incumbent.loss == min(t.loss for t in history.complete if t.feasible and t.loss is not None)
        return
    if strategy != "hyperband":
        check_front(history)
        return
    for rung, above in ((1.0, 3.0), (3.0, 9.0)):  # what was promoted is on the first fronts of its rung
        promoted = [t for t in history if t.fidelity == above and t.parent is not None]
        assert promoted and all(history.trials[t.parent or 0].fidelity == rung for t in promoted)


def test_a_study_whose_trials_are_asked_for() -> None:
    study = open_study(name="asked", space=SPACE, metrics=METRICS, trials=4)
    with study.ask() as trial:
        trial.report(0, {"cost": 2.0})
        with pytest.raises(InputError, match=r"the result is 0\.5; tell a dict with gain and cost"):
            trial.tell(0.5)
        trial.tell({"gain": 0.5})
    with study.ask() as trial:
        trial.tell({"gain": 0.9, "cost": math.inf})
    number = ask_for(study, 60)["number"]
    assert tell_for(study, number, '{"gain": 0.7, "cost": 3}', "") == "gain 0.7, cost 3"
    assert tell_for(study, number, '{"gain": 0.7, "cost": 3}', "") == "gain 0.7, cost 3"
    history = find_study(connect(), "asked").load()
    assert [(t.state, t.losses) for t in history] == [
        (TrialState.COMPLETE, (-0.5, 2.0)),
        (TrialState.FAILED, ()),
        (TrialState.COMPLETE, (-0.7, 3.0)),
    ]
    assert [t.number for t in history.front] == [2, 0]
