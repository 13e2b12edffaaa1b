"""Metrics against scikit-learn's own, pictures, data sets, and the ready objective outside a flow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from sklearn import metrics as reference
from sklearn.datasets import load_diabetes, load_wine
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from hpo_core.selection.evaluation import Fold, Phase
from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.datasets import describe
from hpo_flows.objectives.metrics import classification_metrics, log_pictures, regression_metrics
from hpo_flows.sklearn import sklearn_objective

WINE = load_wine(return_X_y=True)


def context(tmp_path: Path, sent: list[Any], phase: Phase = "search", **facts: Any) -> TrialContext:
    (tmp_path / "scratch").mkdir(exist_ok=True)
    given = {"config": {}, "number": 0, "seed": 7, "fidelity": None} | facts
    return TrialContext(
        scratch=tmp_path / "scratch", outbox=tmp_path / "outbox", send=sent.append, phase=phase, **given
    )


def test_metrics_of_a_classifier_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    y, p = rng.integers(3, size=50), rng.dirichlet(np.ones(3), 50)
    found = classification_metrics(y, p.argmax(1), p)
    expected = {
        "accuracy": reference.accuracy_score(y, p.argmax(1)),
        "precision": reference.precision_score(y, p.argmax(1), average="macro"),
        "recall": reference.recall_score(y, p.argmax(1), average="macro"),
        "f1": reference.f1_score(y, p.argmax(1), average="macro"),
        "log_loss": reference.log_loss(y, p),
        "roc_auc": reference.roc_auc_score(y, p, multi_class="ovr"),
    }
    assert found == pytest.approx(expected, rel=1e-12)
    single = classification_metrics(y, p.argmax(1), p.astype("float32"))  # as a network's softmax; scikit-learn warns
    assert single == pytest.approx(expected, rel=1e-5)


def test_two_classes_may_come_as_one_column() -> None:
    y, p = np.array([0, 1, 1, 0]), np.array([0.2, 0.9, 0.4, 0.3])
    one = classification_metrics(y, p > 0.5, p[:, None])
    assert one == classification_metrics(y, p > 0.5, np.column_stack([1 - p, p]))
    assert one["roc_auc"] == 1.0
    with pytest.raises(ValueError, match="probabilities: 2 columns for 3 classes"):
        classification_metrics(y, p > 0.5, p, classes=[0, 1, 2])


def test_a_class_that_is_absent_leaves_out_what_is_not_defined() -> None:
    y, p = np.array([0, 1]), np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]])
    found = classification_metrics(y, p.argmax(1), p)
    assert "roc_auc" not in found and found["accuracy"] == 1.0 and found["log_loss"] > 0


def test_metrics_of_a_regressor() -> None:
    found = regression_metrics(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 5.0]))
    assert (found["mse"], found["mae"]) == (4 / 3, 2 / 3)


def test_pictures_are_pngs_among_the_artifacts(tmp_path: Path) -> None:
    sent: list[Any] = []
    p = np.array([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    log_pictures(context(tmp_path, sent), np.array([0, 1, 1]), p.argmax(1), p)
    assert [(Path(m.path).name, m.folder) for m in sent] == [
        ("confusion_matrix.png", "pictures"),
        ("roc_curve.png", "pictures"),
    ]
    assert all(Path(m.path).read_bytes().startswith(b"\x89PNG") for m in sent)


def test_a_digest_is_of_the_content() -> None:
    table = pandas.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]})
    assert describe("t", table).digest == describe("t", table.copy()).digest
    assert describe("t", table).digest != describe("t", table.assign(b=["x", "z"])).digest
    assert describe("t", np.zeros((2, 3))).digest != describe("t", np.zeros((3, 2))).digest
    assert describe("t", np.zeros((2, 3)), [0, 1]).arrays == {
        "features": ("float64", [-1, 3]),
        "targets": ("int64", [-1]),
    }


PHASES: list[tuple[Phase, Fold | None]] = [("search", None), ("fold", Fold(0, 3)), ("test", None)]


@pytest.mark.parametrize(("phase", "fold"), PHASES)
def test_the_ready_objective_is_scored_on_what_the_phase_holds_out(
    phase: Phase, fold: Fold | None, tmp_path: Path
) -> None:
    X, y = WINE
    objective = sklearn_objective(lambda config: DecisionTreeClassifier(**config), X, y, scoring="balanced_accuracy")
    trial = context(tmp_path, [], phase, fold=fold, config={"max_depth": 3})
    found = objective(trial)
    train, held_out = trial.split(len(y), stratify=y)
    tree = DecisionTreeClassifier(max_depth=3, random_state=7).fit(X[train], y[train])
    assert found["accuracy"] == tree.score(X[held_out], y[held_out])
    expected = reference.balanced_accuracy_score(y[held_out], tree.predict(X[held_out]))
    assert found["balanced_accuracy"] == expected


def test_the_ready_objective_takes_what_scikit_learn_takes(tmp_path: Path) -> None:
    frame = load_wine(as_frame=True)

    def run(build: Any, X: Any, y: Any, **settings: Any) -> dict[str, float]:
        return sklearn_objective(build, X, y, **settings)(context(tmp_path, []))

    pipeline = run(lambda config: make_pipeline(StandardScaler(), LogisticRegression()), frame.data, frame.target)
    assert pipeline["roc_auc"] > 0.9
    names = np.array(["one", "two", "three"])[WINE[1]]
    assert run(lambda config: DecisionTreeClassifier(), WINE[0], names)["accuracy"] > 0.7
    assert "log_loss" not in run(lambda config: make_pipeline(StandardScaler(), LinearSVC()), *WINE)
    scores = run(lambda config: Ridge(), *load_diabetes(return_X_y=True), scoring=lambda e, X, y: 0.25)
    assert 0 < scores["mse"] < 6000 and scores["score"] == 0.25
    with pytest.raises(TypeError, match="build returned 5, which is not a scikit-learn estimator"):
        run(lambda config: 5, *WINE)


def test_the_studys_fidelity_sets_the_estimators_parameter(tmp_path: Path) -> None:
    from sklearn.ensemble import RandomForestClassifier

    grown: list[int] = []
    objective = sklearn_objective(
        lambda config: RandomForestClassifier(),
        *WINE,
        fidelity="n_estimators",
        scoring=lambda estimator, X, y: grown.append(len(estimator.estimators_)) or 0.0,  # type: ignore[func-returns-value]
    )
    objective(context(tmp_path, [], fidelity=9.0))
    assert grown == [9]


def test_what_is_for_the_best_waits_and_may_fail(tmp_path: Path) -> None:
    """Each failure is told, and none hides another: of a trial that is complete, none fails it."""
    sent: list[Any] = []
    trial = context(tmp_path, sent)
    done: list[int] = []
    trial.on_best(lambda: 1 / 0)
    trial.on_best(lambda: sys.exit(3))
    trial.on_best(lambda: done.append(1))
    assert not done and not sent
    trial.finish_best()
    assert done == [1]
    assert [message.reason for message in sent[:2]] == ["ZeroDivisionError: division by zero", "SystemExit: 3"]
    text = Path(sent[2].path).read_text()
    assert "ZeroDivisionError" in text and "SystemExit" in text


def test_a_model_that_cannot_be_kept_is_told_whether_or_not_its_trial_is_the_best(tmp_path: Path) -> None:
    sent: list[Any] = []
    context(tmp_path, sent).log_model(object(), [1])
    [told] = sent
    assert told.what == "the model is not kept" and "'object' is not a model of" in told.reason


def test_a_full_disk_loses_the_details_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    trial = context(tmp_path, sent)
    trial.on_best(lambda: 1 / 0)
    monkeypatch.setattr(Path, "write_text", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("No space left")))
    trial.finish_best()
    assert [message.reason for message in sent] == ["ZeroDivisionError: division by zero"]


def test_the_last_model_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    trial = context(tmp_path, sent)
    saved: list[int] = []
    monkeypatch.setattr("hpo_flows.objectives.context.save_model", lambda model, path, example: saved.append(example))
    monkeypatch.setattr(trial, "log_artifact", lambda path, folder: None)
    for example in (1, 2):
        trial.log_model(Ridge(), example)
    trial.finish_best()
    assert saved == [2] and not sent
