"""The final choice with real parts: folds as tasks and nested runs, the winner and its model; a flow that is killed."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from hpo_core.ledger.evaluations import FoldLedger
from hpo_core.lineage.opening import find_study
from hpo_core.selection.evaluation import Fold
from hpo_core.study.spec import StudySpec
from hpo_core.tracking.connection import connect
from hpo_flows.api import open_ledger
from hpo_flows.cli.app import app
from hpo_flows.cli.look import best as best_command
from hpo_flows.cli.look import status as status_command
from hpo_flows.results import StudyResult
from tests.conftest import PATIENCE, ModelServer, wait_until
from tests.objectives import _wine
from tests.studies import _somewhere_else as _somewhere_else
from tests.studies import make_spec, start, tune, write_study

pytestmark = pytest.mark.usefixtures("prefect_server")


def wine_spec(**changes: object) -> StudySpec:
    given = {
        "metric": "accuracy",
        "direction": "maximize",
        "space": {"max_depth": {"type": "int", "low": 1, "high": 9}},
        "first": [{"max_depth": depth} for depth in (2, 5, 9)],
        "stop": {"trials": 3},
        "final": {"top": 3, "folds": 2},
    }
    return make_spec("wine", **given | changes)


def nested(result: StudyResult, parent: str) -> list[str]:
    client = MlflowClient(result.tracking_uri)
    experiment = client.get_run(result.run_id).info.experiment_id
    runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    return sorted(run.info.run_name.removeprefix("study-") for run in runs)


def said(*command: str) -> str:
    """What a command of hpo prints."""
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    return result.output


def told(*command: str) -> Any:
    return json.loads(said(*command))


@pytest.mark.filterwarnings("ignore:.*Any type hint")  # MLflow's own, as it is imported
def test_the_winner_is_named_by_its_folds_tested_once_and_can_be_served(tmp_path: Path) -> None:
    import mlflow.pyfunc

    spec = wine_spec()
    result = tune(spec)
    assert [trial.number for trial in result.history.complete] == [0, 1, 2]
    choice = result.choice
    assert choice is not None and choice.winner is not None and choice.done
    deep = next(standing for standing in choice.standings if standing.trial.config["max_depth"] == 9)
    assert deep.reason.endswith("failed: RuntimeError: too deep for a fold")
    winner = choice.winner.trial
    assert result.best is winner and result.best_config == winner.config
    assert result.best_value == pytest.approx(
        np.mean([fold.metrics["accuracy"] for fold in choice.winner.folds.values()])
    )

    names = {trial.number: nested(result, trial.run_id) for trial in result.history}
    n = winner.number
    assert names[n] == [f"{n:04d}-fold-1", f"{n:04d}-fold-2", f"{n:04d}-test"]
    assert names[1 - n] == [f"{1 - n:04d}-fold-1", f"{1 - n:04d}-fold-2"]
    assert f"{2:04d}-test" not in names[2] and len(names[2]) <= 2

    client = MlflowClient(result.tracking_uri)
    study = client.get_run(result.run_id)
    assert choice.test is not None
    assert study.data.tags["hpo.winner"] == str(n) and study.data.tags["hpo.winner_run"] == winner.run_id
    assert study.data.metrics["final/accuracy"] == pytest.approx(result.best_value)
    assert study.data.metrics["test/accuracy"] == choice.test.metrics["accuracy"] == result.test_metrics["accuracy"]
    assert f"final choice: trial {n}" in study.data.tags["mlflow.note.content"]

    inputs = [client.get_run(run).inputs.dataset_inputs for run in (result.run_id, winner.run_id, choice.test.run_id)]
    assert [[(used.dataset.name, len(used.dataset.digest)) for used in each] for each in inputs] == [[("wine", 8)]] * 3
    assert len({each[0].dataset.digest for each in inputs}) == 1

    assert {file.path for file in client.list_artifacts(choice.test.run_id, "pictures")} == {
        "pictures/confusion_matrix.png",
        "pictures/roc_curve.png",
    }
    assert not client.list_artifacts(winner.run_id)  # of the best, and that is decided only now
    model = mlflow.pyfunc.load_model(f"runs:/{choice.test.run_id}/model")
    X, y = _wine()
    assert np.mean(model.predict(X) == y) > 0.8
    assert model.metadata.signature.inputs.input_types()[0] == np.dtype("float64")
    assert np.asarray(model.input_example).shape == (5, 13)

    status = told("status", "study", "--json")
    assert (status["winner"], status["final"]["mean"]) == (n, pytest.approx(result.best_value))
    (listed,) = told("list", "--json")["studies"]
    assert listed["winner"] == n
    for facts in (status, listed):
        assert (facts["best_trial"], facts["best"]) == (n, pytest.approx(result.best_value))
    best = told("best", "study", "--json")
    assert (best["trial"], best["value"]) == (n, pytest.approx(result.best_value))
    assert best["metrics"]["accuracy"] == best["value"] and best["error"] == status["final"]["error"]
    assert best["searched"] == winner.metrics["accuracy"] != best["value"]
    shown = f"{result.best_value:.6g}"
    assert f"final choice: trial {n} with accuracy" in said("status", "study") and shown in said("list")
    rows = told("export", "study", "--format", "json")
    assert [row["winner"] for row in rows] == [trial.number == n for trial in result.history]
    assert rows[n]["final.accuracy"] == pytest.approx(result.best_value) and rows[2]["final.accuracy"] is None
    frame = result.trials_dataframe()
    assert list(frame) == list(rows[0]) and frame["final.accuracy"][n] == rows[n]["final.accuracy"]

    before = len(client.search_runs([study.info.experiment_id]))
    again = tune(spec)  # nothing is left to do
    assert again.choice == choice
    assert len(client.search_runs([study.info.experiment_id])) == before


@pytest.mark.slow
def test_without_a_final_choice_new_incumbents_keep_their_model() -> None:
    result = tune(wine_spec(final=None, parallel=1, first=[{"max_depth": depth} for depth in (1, 9, 1)]))
    client = MlflowClient(result.tracking_uri)
    kept = {trial.number for trial in result.history if client.list_artifacts(trial.run_id, "model")}
    found = result.best
    assert found is not None and found.number in kept and result.choice is None
    losses = [trial.loss for trial in result.history]
    assert kept == {i for i, loss in enumerate(losses) if loss is not None and loss < min([*losses[:i], 0.0])}  # type: ignore[type-var]


def marks(path: Path) -> Counter[str]:
    return Counter((path / "called").read_text().splitlines()) if (path / "called").exists() else Counter()


def wait_for_marks(path: Path, count: int) -> None:
    wait_until(lambda: sum(marks(path).values()) >= count, "the final choice does not get on")


def complete_folds() -> set[str]:
    """``trial part`` of every evaluation that has its result in MLflow."""
    found = FoldLedger(find_study(connect(), "study")).load()
    complete = [each for each in found if each.loss is not None]
    return {f"{each.number} {each.kind.index if isinstance(each.kind, Fold) else 'test'}" for each in complete}


def wait_for_folds(path: Path, count: int) -> set[str]:
    """Wait until so many evaluations have their result in MLflow; answers which."""
    wait_for_marks(path, 2 * count)
    wait_until(lambda: len(complete_folds()) >= count, "no fold gets its result")
    return complete_folds()


def check_once(path: Path, spec: StudySpec, finished: set[str]) -> None:
    """All is evaluated, the test once, and nothing again that had its result when a flow was killed."""
    found = marks(path)
    ended = {line.removesuffix(" ended") for line in found if line.endswith("ended")}
    assert ended == complete_folds()
    assert spec.final is not None and len(ended) == spec.final.top * spec.final.folds + 1
    assert {found[f"{kind} begun"] for kind in finished} == {1}
    (tested,) = [kind for kind in ended if "test" in kind]
    first = find_study(connect(), "study").load().incumbent
    assert first is not None and tested == f"{first.number} test"  # all folds are equal here
    assert found[f"{tested} begun"] == 1


FOLDED = {"stop": {"trials": 3}, "final": {"top": 2, "folds": 3}}


@pytest.mark.slow
def test_a_flow_killed_among_the_folds_goes_on_and_repeats_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(tmp_path, "folded", **FOLDED)
    flow = start(path)
    finished = wait_for_folds(tmp_path, 1)
    os.kill(flow.pid, signal.SIGKILL)
    flow.communicate(timeout=PATIENCE)
    spec = make_spec("folded", **FOLDED)
    result = tune(spec)
    assert result.choice is not None and result.choice.winner is not None and result.choice.done
    check_once(tmp_path, spec, finished)

    capsys.readouterr()
    best_command(str(path), as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert result.history.incumbent is not None
    assert (shown["trial"], shown["incumbent"]) == (result.choice.winner.trial.number, result.history.incumbent.number)
    assert shown["final"]["mean"] == result.best_value
    assert shown["test"] == result.test_metrics == {"loss": result.best_value, "train": 40, "held_out": 10}
    assert {fold.metrics["held_out"] for fold in result.choice.winner.folds.values()} == {13, 14}


@pytest.mark.slow
def test_flows_at_once_share_the_folds_and_name_one_winner(tmp_path: Path) -> None:
    path = write_study(tmp_path, "folded", stop={"trials": 6}, final={"top": 4, "folds": 5})
    flows = [start(path) for _ in range(3)]
    finished = wait_for_folds(tmp_path, 3)
    flows[0].kill()
    flows[0].communicate(timeout=PATIENCE)
    outputs = [flow.communicate(timeout=PATIENCE)[0] for flow in flows[1:]]
    assert [flow.returncode for flow in flows[1:]] == [0, 0], outputs
    check_once(tmp_path, find_study(connect(), "study").spec, finished)
    assert len({line for output in outputs for line in output.splitlines() if line.startswith("Final choice: t")}) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Any type hint")  # MLflow's own, as it is imported
def test_the_front_is_trained_again_and_what_is_preferred_becomes_the_champion(
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = make_spec(
        "small_trees",
        **{"metric": "", "direction": "", "metrics": {"accuracy": "maximize", "size": "minimize"}},
        space={"leaves": {"type": "int", "low": 2, "high": 12}},
        prefer="size <= 4",
        strategy="grid",
        stop={"trials": 20},
        final={"top": 3, "folds": 3},
        champion={"model": "trees", "seeds": 2},
    )
    result = tune(spec)
    choice = result.choice
    assert choice is not None and choice.winner is not None and choice.test is not None and choice.done
    assert 2 <= len(choice.standings) <= 3 and {s.trial.number for s in choice.standings} <= {
        trial.number for trial in result.history.front
    }
    for point in result.pareto:
        standing = next(s for s in choice.standings if s.trial.number == point.best.number)
        folds = [fold.metrics["accuracy"] for fold in standing.folds.values()]
        assert len(folds) == 3 and point.best_values["accuracy"] == pytest.approx(np.mean(folds))
    kept = [point for point in result.pareto if point.best_values["size"] <= 4]
    best = max(kept, key=lambda point: point.best_values["accuracy"])
    assert result.best_config == best.best_config and result.best_values == best.best_values
    smallest = min(result.pareto, key=lambda point: point.best_values["size"])
    assert result.prefer("size=1").best_config == smallest.best_config
    assert result.best_model().get_n_leaves() == result.test_metrics["size"]

    client = MlflowClient(result.tracking_uri)
    study = client.get_run(result.run_id).data
    assert study.metrics["final/accuracy"] == result.best_values["accuracy"] and study.metrics["final/size"] <= 4
    version = client.get_model_version_by_alias("trees", "champion")
    assert (version.tags["hpo.metric"], version.tags["hpo.decision"]) == ("accuracy", "promoted")

    capsys.readouterr()
    best_command("study", as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["trial"] == shown["winner"] == choice.winner.trial.number and shown["test"] == result.test_metrics
    assert shown["values"] == result.best_values and len(shown["front"]) == len(result.pareto)
    status_command("study", as_json=True)
    status = json.loads(capsys.readouterr().out)
    assert status["front"] == [{"trial": p.best.number, "values": p.best_values} for p in result.pareto]
    assert status["best_trial"] == result.best.number
    best_command("study", prefer=["size=1"], as_json=True)
    assert json.loads(capsys.readouterr().out)["config"] == smallest.best_config
    best_command("study")
    text = " ".join(capsys.readouterr().out.split())
    assert (
        "Pareto front of study by its folds: " in text
        and "# preferred by size <= 4" in text
        and f"Final choice: trial {choice.winner.trial.number}" in text
    )

    greedy = spec.model_copy(update={"name": "greedy", "prefer": ["accuracy >= 0.5"]})  # by size, so champions compare
    assert tune(greedy).challenge.record.tags["hpo.metric"] == "size"  # type: ignore[union-attr]


@pytest.mark.slow
def test_mlflow_serves_the_winners_model(tmp_path: Path) -> None:
    result = tune(wine_spec(final={"top": 1, "folds": 2}))
    assert result.choice is not None and result.choice.test is not None
    server = ModelServer(tmp_path, f"runs:/{result.choice.test.run_id}/model")
    try:
        server.start()
        X, y = _wine()
        assert np.mean(np.array(server.predictions(X.tolist())) == y) > 0.8
    finally:
        server.stop()


@pytest.mark.slow
def test_hpo_stop_ends_a_study_before_its_final_choice(tmp_path: Path) -> None:
    path = write_study(tmp_path, "folded", stop={"trials": 3}, final={"top": 2, "folds": 20}, parallel=1)
    flow = start(path)
    wait_for_marks(tmp_path, 2)
    open_ledger(make_spec("folded", stop={"trials": 3}, final={"top": 2, "folds": 20}, parallel=1)).study.request_stop()
    output, _ = flow.communicate(timeout=PATIENCE)
    assert flow.returncode == 0 and "hpo stop was called" in output and "of 40 folds are done" in output
    assert not any("test" in line for line in marks(tmp_path))
