"""A promoted trial goes on from what its parent left: in Keras, over MLflow, on another machine, and if it is gone."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger.tags import CHECKPOINT
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec
from hpo_flows.api import open_ledger, run
from hpo_flows.objectives.messages import Report
from hpo_flows.objectives.reference import Objective
from hpo_flows.results import StudyResult
from hpo_flows.trials.checkpoints import inherited, pack, packed, unpack, worth_keeping
from hpo_flows.workers.job import Job
from hpo_flows.workers.pool import WorkerPool
from tests.conftest import PATIENCE, MlflowServer
from tests.memory_store import MemoryStore

ROOT = Path(__file__).parents[3]


def study(objective: str = "tests.objectives:epochs", **changes: Any) -> StudySpec:
    data: dict[str, Any] = {
        "name": "halving",
        "objective": objective,
        "metric": "loss",
        "direction": "minimize",
        "space": {"x": {"type": "float", "low": 0, "high": 1}},
        "fidelity": {"name": "epochs", "min": 1, "max": 9},
        "strategy": "hyperband",
        "stop": {"trials": 13},
    }
    return study_from(data | changes)


def tune(spec: StudySpec, uri: str | None = None) -> StudyResult:
    return run(open_ledger(spec, uri), Objective(spec.objective, (str(ROOT),)))


# -- Keras ------------------------------------------------------------------------------------------------------


def test_continued_training_is_uninterrupted_training(tmp_path: Path) -> None:
    objective = Objective("examples.digits_cnn:train", (str(ROOT),))
    config = {"learning_rate": 0.05, "filters": 8, "optimizer": "sgd", "momentum": 0.9}
    with WorkerPool(1, objective) as pool:

        def train(name: str, fidelity: float, resume: Path | None = None) -> dict[int, dict[str, float]]:
            curve: dict[int, dict[str, float]] = {}

            def take(message: Any) -> None:
                if isinstance(message, Report):
                    curve[message.step] = message.metrics

            job = Job(objective, {"val_accuracy": -1}, config, 0, 11, fidelity, tmp_path / name, resume)
            with pool.worker() as worker:
                curve[-1] = worker.run(job, timeout=PATIENCE, on_message=take)
            return curve

        whole = train("whole", 4.0)
        half = train("half", 2.0)
        rest = train("rest", 4.0, tmp_path / "half" / "outbox" / "checkpoint")
    assert sorted(whole) == [-1, 0, 1, 2, 3] and sorted(half) == [-1, 0, 1] and sorted(rest) == [-1, 2, 3]
    for epoch, curve in [(0, half), (1, half), (2, rest), (3, rest), (-1, rest)]:
        assert curve[epoch] == pytest.approx(whole[epoch], rel=1e-4), f"epoch {epoch}"
    assert half[1]["loss"] > 1.05 * rest[2]["loss"] > 1.05 * rest[3]["loss"], "it learns, so the curves say something"


# -- flows ------------------------------------------------------------------------------------------------------


@pytest.fixture
def somewhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_server: None) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    yield uri


def test_a_study_goes_on_from_checkpoints_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_server: None, mlflow_server: MlflowServer
) -> None:
    for name, trials in (("here", 10), ("there", 13)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.setenv("HPO_HOME", str(tmp_path / name))
        result = tune(study(name="two-machines", stop={"trials": trials}), mlflow_server.uri)
    *roots, first, second, third, top = result.history.trials
    assert {trial.metrics["trained"] for trial in roots} == {1.0}
    assert [trial.metrics["trained"] for trial in (first, second, third, top)] == [2.0, 2.0, 2.0, 6.0]
    for trial in (first, second, third, top):
        assert trial.notes["continued"] == f"yes: trial {trial.parent}"
        assert trial.metrics["seed"] == result.history.trials[result.history.origin(trial)].metrics["seed"]
    best = min(roots, key=lambda trial: abs(float(trial.config["x"]) - 0.3))  # type: ignore[arg-type]
    assert result.best == top and (top.identity, top.fidelity) == (best.identity, 9.0)
    assert {name: top.notes[name] for name in ("bracket", "rung")} == {"bracket": "0", "rung": "2"}
    # What no rung can need is gone, except what the incumbent left.
    again = open_ledger(study(name="two-machines"), mlflow_server.uri).load()
    kept = [trial.number for trial in again if trial.notes.get("checkpoint") == "kept"]
    assert kept == [12]
    artifacts = list((mlflow_server.folder / "artifacts").rglob("checkpoint.zip"))
    assert [top.run_id in str(path) for path in artifacts] == [True]


def test_a_checkpoint_that_does_not_fit_is_told(somewhere_else: str) -> None:
    spec = study("tests.objectives:picky", space={"x": {"type": "ordinal", "choices": [0.1, 0.9]}}, stop={"trials": 9})
    history = tune(study_from(spec.model_dump() | {"strategy": {"name": "asha", "sampler": "grid"}})).history
    promoted = [trial for trial in history if trial.parent is not None]
    assert promoted[0].state is TrialState.FAILED
    parent = promoted[0].parent
    assert promoted[0].reason == (
        f"ValueError: the checkpoint has 3 layers, the configuration 2 (going on from trial {parent})"
    )
    tuned = tune(study("tests.objectives:picky", name="other", space={"x": {"type": "fixed", "value": 0.9}})).history
    assert [trial.notes.get("continued") for trial in tuned] == [None, *["no: the checkpoint has 3 layers"] * 2]


def test_a_checkpoint_of_other_code_ends_the_study(somewhere_else: str) -> None:
    spec = study("tests.objectives:outgrown", strategy="successive_halving")
    with pytest.raises(InputError, match=r"checkpoint: the parent trial's checkpoint does not fit: it has 3 layers"):
        tune(spec)
    history = open_ledger(spec).load()
    # Beside the one that is to blame, the study's end may have interrupted another.
    failed = [trial for trial in history.failed if not trial.notes.get("lost")]
    assert [trial.parent is not None for trial in failed] == [True]
    assert history.complete and not history.running


def test_an_objective_that_ignores_the_fidelity_is_told_of(
    somewhere_else: str, caplog: pytest.LogCaptureFixture
) -> None:
    history = tune(study("tests.objectives:quick", stop={"trials": 11}, parallel=2)).history
    assert {trial.notes["warning"] for trial in history} == {"the objective did not read trial.fidelity"}
    told = [record.message for record in caplog.records if "did not read trial.fidelity" in record.message]
    assert told == ["halving: the objective did not read trial.fidelity: it trains all alike, whatever epochs"]
    assert {str(trial.notes["continued"]) for trial in history if trial.parent is not None} == {
        f"no: there is no checkpoint of trial {trial.parent}" for trial in history if trial.parent is not None
    }


# -- what may be wrong with one -----------------------------------------------------------------------------------


def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "left" / "deep"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(bytes(range(256)) * 50)
    packed = pack(folder.parent, tmp_path / "checkpoint.zip")
    assert packed is not None
    return packed


def test_a_folder_comes_back_as_it_was(tmp_path: Path) -> None:
    unpack(archive(tmp_path), tmp_path / "back")
    assert (tmp_path / "back" / "deep" / "weights").read_bytes() == bytes(range(256)) * 50
    (tmp_path / "empty").mkdir()
    assert pack(tmp_path / "empty", tmp_path / "none.zip") is None
    assert pack(tmp_path / "absent", tmp_path / "none.zip") is None


def test_a_checkpoint_that_cannot_be_kept_costs_no_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    archive(tmp_path)
    assert packed(tmp_path / "left", tmp_path / "no folder" / "checkpoint.zip") is None
    assert "cannot be kept" in caplog.text


def test_an_archive_cannot_write_elsewhere(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as file:
        file.writestr("../../up", "x")
        file.writestr("/abs", "x")
    unpack(tmp_path / "evil.zip", tmp_path / "a" / "b")
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {"up", "abs"}
    assert not (tmp_path / "up").exists() and not Path("/abs").exists()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda data: data, ""),
        (lambda data: data[:-100], "cannot be read: the archive is damaged"),
        (lambda data: data[:500] + b"?" + data[501:], "cannot be read: the archive is damaged"),
        (lambda data: b"", "cannot be read: the archive is damaged"),
        (None, "is not there"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_means_from_scratch(tmp_path: Path, damage: Any, why: str) -> None:
    store = MemoryStore()
    if damage is not None:
        store.artifacts["r1", CHECKPOINT] = damage(archive(tmp_path).read_bytes())
    parent = Trial(3, {"x": 0.5}, TrialState.COMPLETE, 1.0, 1.0, run_id="r1", notes={"checkpoint": "kept"})
    resume, obstacle = inherited(store, History([parent]), 3, tmp_path / "job")
    assert why in obstacle and bool(obstacle) == (resume is None)
    assert (resume is None) == bool(why)
    without = Trial(3, {"x": 0.5}, TrialState.COMPLETE, 1.0, 1.0, run_id="r1")
    assert inherited(store, History([without]), 3, tmp_path / "job")[0] is None
    assert inherited(store, History(), 3, tmp_path / "job") == (None, "trial 3 is gone")


def test_needed_are_checkpoints_that_a_trial_may_go_on_from() -> None:
    spec = study(strategy="successive_halving")
    roots = [Trial(i, {"x": i / 10}, TrialState.COMPLETE, i / 10, 1.0) for i in range(9)]
    assert spec.resumable(History(roots[:4])) == {0, 1, 2}  # trial 3 is not among the best three of any nine
    assert spec.resumable(History(roots)) == {0, 1, 2}
    running = Trial(9, {"x": 0.0}, TrialState.RUNNING, fidelity=3.0, parent=0)
    assert spec.resumable(History([*roots, running])) == {0, 1, 2}
    done = Trial(9, {"x": 0.0}, TrialState.COMPLETE, 0.0, 3.0, parent=0)
    assert spec.resumable(History([*roots, done])) == {1, 2, 9}
    lost = Trial(10, {"x": 0.1}, TrialState.FAILED, None, 3.0, parent=1, notes={"lost": "died"})
    assert spec.resumable(History([*roots, done, lost])) == {1, 2, 9}
    failed = Trial(10, {"x": 0.1}, TrialState.FAILED, None, 3.0, parent=1)
    assert spec.resumable(History([*roots, done, failed])) == {2, 9}
    top = Trial(12, {"x": 0.0}, TrialState.COMPLETE, 0.0, 9.0, parent=9)
    third = Trial(11, {"x": 0.2}, TrialState.COMPLETE, 0.2, 3.0, parent=2)
    assert spec.resumable(History([*roots, done, failed, third, top])) == {12}, "the incumbent's alone"
    assert study(strategy="random").resumable(History([*roots, done, top])) == {12}


def test_what_breaks_a_limit_is_not_kept_and_repeats_of_it_are_merged() -> None:
    spec = study(strategy="successive_halving", limits={"ms": "<= 20"})
    kept = [Trial(i, {"x": i / 10}, TrialState.COMPLETE, 0.5, 1.0, excess={"ms": -0.1}) for i in range(8)]
    ninth = Trial(8, {"x": 0.8}, TrialState.RUNNING, fidelity=1.0)
    assert worth_keeping(spec, History([*kept, ninth]), ninth, {"loss": 0.1, "ms": 19.0})
    assert not worth_keeping(spec, History([*kept, ninth]), ninth, {"loss": 0.1, "ms": 21.0})
    again = Trial(9, {"x": 0.0}, TrialState.RUNNING, fidelity=1.0, notes={"repeat_of": "0"})
    assert not worth_keeping(spec, History([*kept, again]), again, {"loss": 0.1, "ms": 19.0})
