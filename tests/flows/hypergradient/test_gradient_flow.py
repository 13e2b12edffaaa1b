"""Gradient-based studies with real parts: Prefect, MLflow, worker processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hpo_core.base.errors import InputError
from hpo_core.history.trial import TrialState
from hpo_core.study.spec import StudySpec
from hpo_flows.api import open_ledger, run
from hpo_flows.cli.app import main
from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.reference import Objective
from tests.studies import ROOT, tune
from tests.studies import _somewhere_else as _somewhere_else
from tests.studies import make_spec as make_study


def make_spec(objective: str, **changes: Any) -> StudySpec:
    return make_study(objective, strategy="gradient", **({"stop": {"trials": 16}} | changes))


@pytest.mark.usefixtures("prefect_server")
def test_a_study_climbs_and_goes_on_where_it_was_ended(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    facts = {"metric": "score", "direction": "maximize"}
    tune(make_spec("hill", stop={"trials": 7}, **facts))
    result = tune(make_spec("hill", **facts))
    assert [trial.state for trial in result.history] == [TrialState.COMPLETE] * 16
    assert result.best_value > 1 - 1e-3
    steps = [trial for trial in result.history if trial.parent is not None]
    assert len(steps) >= 10
    assert any(trial.number >= 7 and (trial.parent or 99) < 7 for trial in steps), "no chain was left behind"
    for trial in steps:  # from the checkpoint of where the chain stood, however often it had to start from there
        assert trial.metrics["depth"] == result.history.trials[trial.parent or 0].metrics["depth"] + 1
        assert trial.metrics["seed"] == result.history.trials[trial.parent or 0].metrics["seed"]
    client = MlflowClient(result.tracking_uri)
    logged = client.get_run(steps[0].run_id)
    x = float(logged.data.params["x"])
    assert logged.data.metrics["hypergradient/x"] == pytest.approx(-2 * (x - 0.3), rel=1e-12)
    assert logged.data.metrics["hypergradient_norm/weights"] == 5.0
    assert logged.data.tags["hpo.parent"] == str(steps[0].parent)
    path = client.download_artifacts(steps[0].run_id, "hypergradient/weights.npy", str(tmp_path))
    np.testing.assert_array_equal(np.load(path), [3.0, 4.0])


@pytest.mark.usefixtures("prefect_server")
def test_an_objective_that_is_not_declared_ends_the_study_before_any_trial() -> None:
    ledger = open_ledger(make_spec("quick"))
    with pytest.raises(InputError, match="quick' is not declared to give hypergradients"):
        run(ledger, Objective("tests.objectives:quick", (str(ROOT),)))
    assert len(ledger.load()) == 0


@pytest.mark.usefixtures("prefect_server")
def test_an_objective_that_gives_none_ends_the_study_at_the_first_trial() -> None:
    ledger = open_ledger(make_spec("forgetful", parallel=1))
    with pytest.raises(InputError, match="the strategy goes by hypergradients, and the objective gave none"):
        run(ledger, Objective("tests.objectives:forgetful", (str(ROOT),)))
    assert [trial.state for trial in ledger.load()] == [TrialState.FAILED]


@pytest.mark.parametrize(("objective", "code"), [("hill", 0), ("quick", 2)])
def test_validation_asks_for_the_declaration(
    objective: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(make_spec(objective).model_dump(mode="json", exclude_none=True)))
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setattr("sys.argv", ["hpo", "validate", str(file)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == code
    assert code == 0 or "decorate it with hpo_flows.gives_hypergradient" in capsys.readouterr().err


def test_a_hypergradient_that_is_no_number(tmp_path: Path) -> None:
    trial = TrialContext(
        config={}, number=0, seed=0, fidelity=None, scratch=tmp_path, outbox=tmp_path / "out", send=lambda message: None
    )
    with pytest.raises(ValueError, match="has the value 'steep'"):
        trial.report_hypergradient({"x": "steep"})
    with pytest.raises(ValueError, match="the objective gave none"):
        trial.check_hypergradient({"loss": 1.0})
    trial.check_hypergradient({"loss": 1.0, "hypergradient/x": 2.0})
