"""A noisy study confirms its best configurations: alone, by two flows at once, and after it was stopped or extended."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hpo_core.history.history import History
from hpo_core.lineage.opening import find_study
from hpo_core.tracking.connection import connect
from hpo_flows.cli.app import app
from hpo_flows.results import load_study
from tests.studies import _somewhere_else as _somewhere_else
from tests.studies import make_spec, start, tune, write_study

pytestmark = pytest.mark.usefixtures("prefect_server")


def confirming(history: History) -> Counter[int | None]:
    return Counter(trial.repeat_of for trial in history if trial.confirms)


@pytest.mark.slow
def test_a_noisy_study_confirms_says_so_and_grows() -> None:
    result = tune(make_spec("noisy", stop={"trials": 20}))
    history = result.history
    assert len(history.complete) == 20 and sum(confirming(history).values()) == 6
    assert result.best is not None and result.best.confirmed
    assert result.best_value == pytest.approx(result.best.loss)
    store = connect()
    for trial in history:
        run = store.get(trial.run_id)
        tags = run.tags
        again = "" if trial.repeat_of is None else f" ({trial.repeat_of:04d} again)"
        assert run.name == f"study-{trial.number:04d}{again}"
        assert tags.get("hpo.repeat_of") == (None if trial.repeat_of is None else str(trial.repeat_of))
        if trial.confirms:
            assert f"Trial {trial.repeat_of} again, to confirm it." in tags["mlflow.note.content"]
    run = find_study(store, "study").study_run
    assert "the mean of" in run.tags["mlflow.note.content"]
    assert "±" in str(result) and "±" in str(load_study("study"))
    told = CliRunner().invoke(app, ["best", "study"])
    assert "the mean of" in told.output and "luckiest: trial" in told.output
    explained = CliRunner().invoke(app, ["explain", "study", str(max(t.number for t in history if t.confirms))])
    assert "to confirm it" in explained.output and "Replay: the same configuration" in explained.output
    assert result.best is not None and result.best.metrics["loss"] == result.best.loss == result.best_value
    frame = result.trials_dataframe()
    assert list(frame["repeat_of"].dropna()) == [trial.repeat_of for trial in history if trial.repeat_of is not None]
    again = tune(make_spec("noisy", stop={"trials": "+20"})).history
    assert len(again.complete) == 40 and sum(confirming(again).values()) == 12
    assert again.trials[:20] == history.trials


@pytest.mark.slow
@pytest.mark.parametrize("server", [None, "mlflow_server"])
def test_two_flows_at_once_confirm_once(
    server: str | None, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"name": f"together-{server}", "stop": {"trials": 24}}
    if server is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue(server).uri)
    flows = [start(write_study(tmp_path, "noisy", **changes)) for _ in range(2)]
    for flow in flows:
        _, errors = flow.communicate()
        assert flow.returncode == 0, errors
    history = find_study(connect(), f"together-{server}").load()
    assert len(history.complete) == 24 and not history.running
    assert sum(confirming(history).values()) == 6 and len(confirming(history)) == 4
    probes = [trial for trial in history if trial.repeat_of is not None and not trial.confirms]
    assert len(probes) == 1


@pytest.mark.slow
def test_the_model_of_what_was_confirmed_is_kept() -> None:
    result = tune(make_spec("noisy_model", stop={"trials": 14}, parallel=1))
    assert result.best is not None and result.best.confirmed
    assert result.best_model().predict([[0.0]])[0] == pytest.approx(result.best.config["x"])
    told = CliRunner().invoke(app, ["best", "study"]).output
    kept = [trial for trial in result.history if trial.run_id in told]
    assert len(kept) == 1 and kept[0].confirms and kept[0].repeat_of == result.best.number
