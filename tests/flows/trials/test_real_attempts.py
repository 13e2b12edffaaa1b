"""With real parts: a value belongs to the trial that returned it, whatever happens to the trials around it."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hpo_core.history.trial import TrialState
from hpo_core.tracking.mlflow_store import MlflowStore
from hpo_flows.objectives.context import TrialContext
from hpo_flows.results import StudyResult
from hpo_flows.trials import recorder
from tests.conftest import MlflowServer, wait_until
from tests.studies import _somewhere_else as _somewhere_else
from tests.studies import make_spec
from tests.studies import tune as tune_spec

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture(autouse=True)
def _written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "FIRST_WRITE_SECONDS", 0.2)
    monkeypatch.setattr(recorder, "WRITE_SECONDS", 0.2)


def tune(objective: str, **changes: Any) -> StudyResult:
    reference = f"tests.flows.trials.test_real_attempts:{objective}"
    return tune_spec(make_spec(**changes).model_copy(update={"objective": reference}))


def deletes_its_run(trial: TrialContext) -> float:
    """Trial 1 deletes its run, as a person in MLflow's UI, and goes on; each answers its own number."""
    if trial.number == 1:
        from mlflow import MlflowClient

        client = MlflowClient(os.environ["HPO_TEST_URI"])
        [experiment] = client.search_experiments(filter_string="name = 'deleted'")
        found = client.search_runs([experiment.experiment_id], "tags.`hpo.number` = '1' and tags.`hpo.role` = 'trial'")
        client.delete_run(found[0].info.run_id)
        (Path(os.environ["HPO_TEST_MARKS"]) / "deleted").touch()
        for step in range(10_000):  # until its worker is ended
            trial.report(step, {"curve": 1.0})
            time.sleep(0.1)
    return float(trial.number)


@pytest.mark.parametrize("server", [pytest.param("sqlite", marks=pytest.mark.slow), "mlflow_server"])
def test_no_value_moves_to_another_trial_when_a_run_is_deleted(
    server: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if server != "sqlite":
        running: MlflowServer = request.getfixturevalue(server)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", running.uri)
        monkeypatch.setenv("HPO_TEST_URI", running.uri)
    result = tune("deletes_its_run", name="deleted", stop={"trials": 5}, parallel=1)
    assert (tmp_path / "deleted").exists()
    assert {trial.number: trial.loss for trial in result.history} == {n: float(n) for n in (0, 2, 3, 4)}


def ends_earlier_at_last(trial: TrialContext) -> dict[str, float]:
    """The first attempt reports more steps than the second, and another metric, and then dies in one of two ways."""
    mark = Path(os.environ["HPO_TEST_MARKS"]) / str(trial.number)
    if mark.exists():
        for step in range(2):
            trial.report(step, {"loss": 1.0 - step, "curve": float(step)})
        (trial.checkpoint / "from").write_text("the second attempt")
        return {"loss": 0.25}
    mark.touch()
    for step in range(10):
        trial.report(step, {"loss": 9.0 + step, "curve": 9.0 + step, "ghost": 1.0})
    (trial.checkpoint / "from").write_text("the first attempt")
    wait_until(lambda: len(list(mark.parent.glob("written-*"))) == 2, "they are not written")
    if trial.number % 2:
        os._exit(1)
    raise RuntimeError("the first attempt")


def test_what_mlflow_shows_of_a_trial_is_the_attempt_that_ended_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    log, written = MlflowStore.log, Counter[str]()

    def watched(self: Any, run: str, metrics: Any, params: Any, tags: Any) -> None:
        log(self, run, metrics, params, tags)
        written[run] += sum(metric.key == "ghost" for metric in metrics)
        if written[run] >= 10:
            (tmp_path / f"written-{run}").touch()

    monkeypatch.setattr(MlflowStore, "log", watched)
    monkeypatch.setattr(recorder, "WRITE_SECONDS", 0.2)
    result = tune("ends_earlier_at_last", stop={"trials": 2}, parallel=2, retries=1, early_stop="median")
    client = MlflowClient(result.tracking_uri)
    for trial in result.history:
        assert trial.state is TrialState.COMPLETE and trial.loss == 0.25
        assert trial.metrics == {"loss": 0.25, "curve": 1.0}
        assert trial.rungs == {}  # the first attempt's, at 5 steps
        run = client.get_run(trial.run_id)
        assert (run.data.metrics["loss"], run.data.metrics["curve"]) == (0.25, 1.0)
        assert len(client.get_metric_history(trial.run_id, "ghost")) == 11, "the first attempt was not written"


def odd_names(trial: TrialContext) -> dict[str, float]:
    for step in range(3):
        trial.report(step, {"top@5": 1.0, "curve": float(step)})
        time.sleep(0.3)
    if trial.number == 1:
        trial.report(10**20, {"curve": 1.0})
    return {"loss": float(trial.number), "loss (val)": 1.0}


def test_what_mlflow_cannot_hold_costs_its_own_name_or_trial_alone() -> None:
    result = tune("odd_names", stop={"trials": 3}, parallel=1)
    first, second, third = result.history
    assert [trial.loss for trial in (first, third)] == [0.0, 2.0]
    assert first.metrics == {"loss": 0.0, "curve": 2.0}
    assert first.notes["metrics_refused"] == "loss (val), top@5"
    assert second.state is TrialState.FAILED and "the step 100000000000000000000 is not a whole number" in second.reason
