"""The champion with real parts: re-trainings as tasks and nested runs, MLflow's registry, flows that are killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from hpo_core.base.errors import InputError
from hpo_core.lineage.opening import find_study
from hpo_core.study.spec import StudySpec
from hpo_core.tracking.connection import connect
from hpo_flows.cli import manage as cli
from hpo_flows.loop.stages import Stages
from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.messages import Artifact, Report
from hpo_flows.results import StudyResult
from tests.conftest import PATIENCE, ModelServer, wait_until
from tests.flows.loop.test_final import nested
from tests.objectives import _wine
from tests.studies import _somewhere_else as _somewhere_else
from tests.studies import make_spec, start, tune, write_study

needs_prefect = pytest.mark.usefixtures("prefect_server")
CHAMPION = {"model": "shapes", "seeds": 3}


def estimator_spec(name: str, noise: float, loss: float, **changes: Any) -> StudySpec:
    """A study of one configuration, whose models have about the given loss."""
    given = {
        "name": name,
        "experiment": "shapes",
        "space": {"loss": {"type": "fixed", "value": loss}, "noise": {"type": "fixed", "value": noise}},
        "stop": {"trials": 1},
        "champion": CHAMPION,
        "parallel": 1,
    }
    return make_spec("constant", **given | changes)


def verdict(result: StudyResult) -> dict[str, str]:
    tags = MlflowClient(result.tracking_uri).get_run(result.run_id).data.tags
    return {key.removeprefix("hpo.champion_"): tags[key] for key in tags if key.startswith("hpo.champion_")}


@needs_prefect
@pytest.mark.filterwarnings("ignore:.*Any type hint")  # MLflow's own, as it is imported
def test_a_winner_is_promoted_only_over_what_it_beats_by_more_than_its_spread(
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = tune(estimator_spec("first", 0.1, 5.0))
    client = MlflowClient(first.tracking_uri)
    assert verdict(first)["decision"] == "promoted" and "there was no champion" in verdict(first)["reason"]
    assert nested(first, first.history.trials[0].run_id) == [f"first-0000-seed-{i}" for i in (1, 2, 3)]

    second = tune(estimator_spec("second", 0.01, 4.0))
    found = verdict(second)
    assert (found["decision"], found["version"], found["against"]) == ("promoted", "2", "1")
    third = tune(estimator_spec("third", 1.0, 3.8))
    found = verdict(third)
    assert (found["decision"], found["version"], found["against"]) == ("refused", "3", "2")
    assert "not above the margin" in found["reason"]
    assert "third-0000-champion-2" in nested(third, third.history.trials[0].run_id)

    assert client.get_model_version_by_alias("shapes", "champion").version == 2
    tags = client.get_model_version("shapes", "3").tags
    losses = json.loads(tags["hpo.values"])
    margin = 2.919986 * np.std(losses, ddof=1) * np.sqrt(4 / 3)  # t(0.95, 2)
    assert float(tags["hpo.margin"]) == pytest.approx(margin, rel=1e-5)
    assert float(tags["hpo.gain"]) == pytest.approx(float(tags["hpo.against_value"]) - np.mean(losses))
    assert client.get_model_version("shapes", "2").tags["hpo.replaces"] == "1"
    metrics = client.get_run(third.run_id).data.metrics
    assert metrics["challenger/loss"] == pytest.approx(np.mean(losses))
    assert metrics["challenger/margin"] == pytest.approx(margin, rel=1e-5)

    # The registered model is the median one, and is scored as it was when it was trained.
    second_tags = client.get_model_version("shapes", "2").tags
    assert float(tags["hpo.against_value"]) == sorted(json.loads(second_tags["hpo.values"]))[1]

    before = len(client.search_model_versions("name = 'shapes'"))
    assert verdict(tune(estimator_spec("third", 1.0, 3.8))) == verdict(third)
    assert len(client.search_model_versions("name = 'shapes'")) == before

    with pytest.raises(InputError, match=r"--force: version 3 of 'shapes' is not the champion \(refused: a gain of"):
        cli.promote("third")
    with pytest.raises(InputError, match="--reason: is missing"):
        cli.promote("third", force=True)
    cli.promote("third", force=True, reason="it is smaller")
    assert client.get_model_version_by_alias("shapes", "champion").tags["hpo.forced"] == "it is smaller"
    cli.promote("third")
    cli.rollback("shapes", reason="it is worse")
    assert client.get_model_version_by_alias("shapes", "champion").version == 2
    assert client.get_model_version("shapes", "4").tags["hpo.rolled_back"].endswith("it is worse")
    cli.rollback("shapes")
    with pytest.raises(InputError, match="MODEL: version 1 of 'shapes' is the champion and names none before it"):
        cli.rollback("shapes")
    assert "version 4 is the champion" in capsys.readouterr().out
    assert verdict(third)["decision"] == "promoted" and "gain" in verdict(third)["reason"]


@pytest.mark.slow
@needs_prefect
def test_an_objective_that_does_not_do_its_part_is_told_so_and_goes_on_once_it_does() -> None:
    spec = estimator_spec("silent", 0.0, 1.0)
    with pytest.raises(InputError, match=r"champion: in phase 'seed', the objective logged no model; call trial\."):
        tune(spec.model_copy(update={"objective": "tests.objectives:fixed_loss"}))
    tune(spec)
    other = estimator_spec("deaf", 0.0, 0.5)
    with pytest.raises(InputError, match=r"champion: .* did not read trial\.champion; if that is not None"):
        tune(other.model_copy(update={"objective": "tests.objectives:fixed_loss"}))
    with pytest.raises(InputError, match="champion: in phase 'champion', the objective returned no 'loss' but"):
        tune(other.model_copy(update={"objective": "tests.objectives:other_metric"}))
    assert verdict(tune(other))["decision"] == "promoted"


def test_commands_on_what_is_no_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="MODEL: 'a/b': a registered model's name has no slashes"):
        cli.rollback("a/b")
    with pytest.raises(InputError, match="MODEL: 'absent' has no version with the alias 'champion'; name a model"):
        cli.rollback("absent")
    from hpo_flows.api import open_ledger

    open_ledger(make_spec("quick"))
    with pytest.raises(InputError, match="champion: study 'study' names no registered model; add champion"):
        cli.promote("study")
    open_ledger(estimator_spec("new", 0.0, 1.0))
    with pytest.raises(InputError, match="STUDY: study 'new' has no version of 'shapes' yet; run it to its end"):
        cli.promote("new")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # TensorFlow's and MLflow's own
def test_a_keras_objective_logs_its_model_and_scores_the_champion(tmp_path: Path) -> None:
    from hpo_flows.keras.training.objective import keras_objective

    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype("float32")
    y = (x.sum(axis=1) > 0).astype("float32")

    def build(hp: Any) -> Any:
        import keras

        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(hp.Int("units", 2, 8), "relu")])
        model.add(keras.layers.Dense(1, "sigmoid"))
        model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
        return model

    def rows(trial: TrialContext) -> dict[str, Any]:
        train, held_out = trial.split(len(y), stratify=y)
        return {"x": x[train], "y": y[train], "validation_data": (x[held_out], y[held_out])}

    objective = keras_objective(build, rows, epochs=3, executions=2, objective="val_accuracy")

    def call(phase: Any, units: int, model: Path | None = None) -> tuple[dict[str, float], list[dict[str, Any]]]:
        sent: list[Any] = []
        folder = tmp_path / phase
        (folder / "scratch").mkdir(parents=True)
        facts: dict[str, Any] = {"number": 0, "seed": 1, "fidelity": None, "config": {"units": units}}
        places = {"scratch": folder / "scratch", "outbox": folder / "outbox"}
        trial = TrialContext(**facts, **places, send=sent.append, phase=phase, champion=model)
        metrics = objective(trial)
        trial.finish_best()
        return metrics, sent

    trained, sent = call("seed", 8)
    (logged,) = [each for each in sent if isinstance(each, Artifact)]
    assert logged.folder == "model"
    scored, sent = call("champion", 2, Path(logged.path))
    assert not [each for each in sent if isinstance(each, Report)]  # nothing is trained
    assert scored["val_accuracy"] == trained["val_accuracy"]
    assert scored["val_loss"] == pytest.approx(trained["val_loss"], rel=1e-4)


@pytest.mark.slow
@needs_prefect
def test_mlflow_serves_the_champion(tmp_path: Path) -> None:
    settings = {"metric": "accuracy", "direction": "maximize", "space": {"max_depth": {"type": "fixed", "value": 4}}}
    tune(make_spec("wine", **settings, stop={"trials": 1}, champion={"model": "wine", "seeds": 2}, parallel=1))
    server = ModelServer(tmp_path, "models:/wine@champion")
    try:
        server.start()
        X, y = _wine()
        assert np.mean(np.array(server.predictions(X.tolist())) == y) > 0.8
    finally:
        server.stop()


@pytest.mark.slow
@needs_prefect
def test_a_flow_killed_among_the_re_trainings_goes_on_and_repeats_none(tmp_path: Path) -> None:
    spec = estimator_spec("study", 0.1, 2.0, champion={"model": "shapes", "seeds": 4})
    path = write_study(tmp_path, "constant", **spec.model_dump(mode="json", exclude_none=True, exclude={"objective"}))
    flow = start(path)
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])

    def complete() -> set[str]:
        experiment = client.get_experiment_by_name("shapes")
        found = [] if experiment is None else client.search_runs([experiment.experiment_id], "tags.`hpo.role` = 'seed'")
        return {run.info.run_id for run in found if run.info.status == "FINISHED"}

    wait_until(lambda: complete() or flow.poll() is not None, "no re-training is complete")
    assert flow.poll() is None
    os.kill(flow.pid, signal.SIGKILL)
    flow.communicate(timeout=PATIENCE)
    before = complete()
    result = tune(spec)
    assert verdict(result)["decision"] == "promoted" and before <= complete()
    assert len(complete()) == 4 and result.challenge is not None and result.challenge.done
    assert [each.number for each in connect().versions("shapes")] == [1]


@pytest.mark.slow
@needs_prefect
def test_two_flows_at_once_come_to_one_verdict(tmp_path: Path) -> None:
    space = {"loss": {"type": "float", "low": 1, "high": 2}, "noise": {"type": "fixed", "value": 0.1}}
    spec = estimator_spec("study", 0, 0, champion={"model": "shapes", "seeds": 4}, space=space, stop={"trials": 6})
    path = write_study(tmp_path, "constant", **spec.model_dump(mode="json", exclude_none=True, exclude={"objective"}))
    flows = [start(path) for _ in range(2)]
    outputs = [flow.communicate(timeout=PATIENCE)[0] for flow in flows]
    assert [flow.returncode for flow in flows] == [0, 0], outputs
    assert all("champion of shapes: version 1 promoted" in output for output in outputs)
    ledger = find_study(connect(), "study")
    stages = Stages(ledger)
    stages.load(ledger.load())
    challenge = stages.challenge
    assert challenge is not None and challenge.done and len(challenge.retrained) == 4
    assert [each.number for each in connect().versions("shapes")] == [1]
