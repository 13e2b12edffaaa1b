"""Tuners under KerasTuner's names: what they print, what they return, and what ends a search."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import hpo_flows.keras as kt
from hpo_core.base.errors import InputError
from hpo_flows.keras.space.objective import Objective
from tests.flows.keras.test_keras import FIT, X, Y, build_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

VALIDATION = {"validation_data": FIT["validation_data"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, prefect_server: None) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("tuner")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPO_HOME", str(made / "home"))
        patch.delenv("KERASTUNER_TUNER_ID", raising=False)
        yield made


# -- arguments -------------------------------------------------------------------------------------------------------

COMMON = [
    "seed", "hyperparameters", "tune_new_entries", "allow_new_entries", "max_retries_per_trial",
    "max_consecutive_failed_trials",
]  # fmt: skip

POSITIONS = {
    "RandomSearch": ["hypermodel", "objective", "max_trials", *COMMON],
    "GridSearch": ["hypermodel", "objective", "max_trials", *COMMON],
    "BayesianOptimization": [
        "hypermodel", "objective", "max_trials", "num_initial_points", "alpha", "beta", *COMMON,
    ],
    "Hyperband": ["hypermodel", "objective", "max_epochs", "factor", "hyperband_iterations", *COMMON],
    "Tuner": [
        "oracle", "hypermodel", "max_model_size", "optimizer", "loss", "metrics", "distribution_strategy", "directory",
        "project_name", "logger", "tuner_id", "overwrite", "executions_per_trial",
    ],
    "SklearnTuner": ["oracle", "hypermodel", "scoring", "metrics", "cv"],
}  # fmt: skip


@pytest.mark.parametrize("name", POSITIONS)
def test_arguments_have_keras_tuner_s_order(name: str) -> None:
    parameters = list(inspect.signature(getattr(kt, name).__init__).parameters.values())[1:]
    assert [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD] == POSITIONS[name]


def test_a_tuner_of_an_oracle_and_in_a_shorter_form() -> None:
    oracle = kt.oracles.RandomSearchOracle("val_loss", 7, seed=5)
    tuner = kt.Tuner(
        oracle, build_model, 1000, directory="out", project_name="p", tuner_id="me", executions_per_trial=2
    )
    assert (tuner.oracle, tuner.max_trials, tuner.seed, tuner.max_model_size) == (oracle, 7, 5, 1000)
    assert (tuner.directory, tuner.project_name, tuner.tuner_id, tuner.executions_per_trial) == ("out", "p", "me", 2)
    short = kt.Tuner(build_model, "val_loss", 7, strategy={"name": "tpe", "start": 3})
    assert (short.oracle.objective, short.max_trials, short.max_model_size) == (Objective("val_loss", "min"), 7, None)
    with pytest.raises(InputError, match="objective: the oracle has it already"):
        kt.Tuner(oracle, build_model, objective="val_loss")
    with pytest.raises(InputError, match="directory: 3 is not a path; give a text or a Path"):
        kt.RandomSearch(build_model, "val_loss", directory=3)
    with pytest.raises(InputError, match="max_model_size: 'big' is not a number above 0"):
        kt.RandomSearch(build_model, "val_loss", max_model_size="big")
    with pytest.raises(InputError, match="isolation: 'thread' is neither 'process' nor 'none'"):
        kt.RandomSearch(build_model, "val_loss", isolation="thread")
    with pytest.raises(InputError, match="verbose: 3 is not 0, 1, 2 or 'auto'"):
        kt.RandomSearch(build_model, "val_loss").search(X, Y, verbose=3)


@pytest.mark.parametrize("name", ["KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT"])
def test_a_chief_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "chief")
    with pytest.raises(InputError, match=f"{name}: no chief is needed here: .*; unset it, and start the same script"):
        kt.RandomSearch(build_model, "val_loss")


def test_folders_of_a_project(tmp_path: Path) -> None:
    tuner = kt.RandomSearch(build_model, "val_loss", directory=tmp_path, project_name="p")
    assert not (tmp_path / "p").exists()
    assert tuner.get_trial_dir("03") == str(tmp_path / "p" / "trial_03") and (tmp_path / "p" / "trial_03").is_dir()
    assert tuner.project_dir == str(tmp_path / "p")


# -- a search --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_as_keras_tuner_prints_it(keras: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def tuner(**settings: Any) -> kt.Tuner:
        return kt.RandomSearch(build_model, "val_accuracy", directory=folder, project_name="p", seed=1, **settings)

    first = tuner(max_trials=2)
    assert (first.results_, first.get_best_step(), first.get_best_models()) == ({}, None, [])
    first.search_space_summary()
    declared = "{'default': None, 'conditions': [], 'min_value': 2, 'max_value': 16, 'step': 1, 'sampling': 'linear'}"
    assert capsys.readouterr().out.startswith(
        f"Search space summary\nDefault search space size: 2\nunits (Int)\n{declared}\nrate (Float)\n"
    )
    first.search(X, Y, epochs=2, **VALIDATION)
    out = capsys.readouterr().out
    trial = first.oracle.get_trial("0")
    values = trial.hyperparameters.values
    begun = f"\nSearch: Running Trial #1\n\n{'Value':18}|{'Best Value So Far':18}|Hyperparameter\n"
    assert out.startswith(f"{begun}{values['units']:<18}|{'?':18}|units\n{values['rate']:<18.5g}|{'?':18}|rate\n\n")
    assert "\nTrial 1 Complete [00h 0" in out and f"]\nval_accuracy: {trial.score}\n\nBest val_accuracy So Far: " in out
    assert "refect" not in out and "MLflow" not in out

    first.search(X, Y, epochs=2, **VALIDATION)  # all trials are done
    assert capsys.readouterr().out == ""
    first.oracle.max_trials = 3
    first.search(X, Y, epochs=2, verbose=0, **VALIDATION)
    assert capsys.readouterr().out == ""

    again = tuner(max_trials=3)  # before any search, in what could be a new process
    assert (len(again.oracle.trials), again.remaining_trials) == (3, 0)
    best = again.oracle.get_best_trials(3)
    assert [each.score for each in best] == sorted((each.score for each in best), reverse=True)  # type: ignore[type-var]
    assert again.results_["best_score"] == best[0].score and again.results_["best_epoch"] == best[0].best_step
    again.reload()
    again.results_summary(2)
    out = capsys.readouterr().out
    assert out.startswith(
        f"Results summary\nResults in {folder}/p\nShowing 2 best trials\n"
        'Objective(name="val_accuracy", direction="max")\n'
        f"\nTrial {best[0].trial_id} summary\nHyperparameters:\nunits: {best[0].hyperparameters.get('units')}\nrate: "
    )
    assert out.endswith(f"Score: {best[1].score}\n") and out.count(" summary\n") == 3
    (model,) = again.get_best_models()
    assert model.evaluate(*FIT["validation_data"], verbose=0)[1] == pytest.approx(best[0].score, rel=1e-5)
    (hp,) = again.get_best_hyperparameters()
    own = again.hypermodel.build(hp)
    assert own.fit(X, Y, verbose=0).history["loss"] and own.count_params() == model.count_params()


@pytest.mark.slow
def test_what_a_build_raises(keras: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def build(hp: Any, error: Exception) -> Any:
        if hp.Choice("kind", ["good", "bad"]) == "bad":
            raise error
        return build_model(hp)

    def tuner(error: Exception) -> Any:
        return kt.GridSearch(
            partial(build, error=error), "val_loss", max_trials=2, directory=folder, max_retries_per_trial=2,
            project_name="raises", isolation="none", first=[{"kind": "bad", "units": 4, "rate": 0.01}],
        )  # fmt: skip

    with pytest.raises(kt.errors.FatalValueError, match="the disk is full"):
        tuner(kt.errors.FatalValueError("the disk is full")).search(X, Y, verbose=0, **VALIDATION)
    failing = tuner(kt.errors.FailedTrialError("it would be too slow"))
    failing.search(X, Y, verbose=0, **VALIDATION)
    failed = failing.oracle.get_trial("0")
    assert failed.status == "FAILED" and "it would be too slow" in str(failed.message)


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["none", "process"])
def test_too_large_models_and_several_objectives(keras: Any, folder: Path, isolation: str) -> None:
    tuner = kt.RandomSearch(
        build_model,
        ["val_loss", Objective("val_accuracy", "max")],
        4,
        max_model_size=30,
        max_consecutive_failed_trials=4,
        directory=folder,
        project_name=f"sizes-{isolation}",
        isolation=isolation,
        progress=False,
    )
    tuner.search(X, Y, epochs=2, **VALIDATION)
    sizes = {id: 4 * trial.hyperparameters.get("units") + 1 for id, trial in tuner.oracle.trials.items()}  # type: ignore[operator]
    for id, trial in tuner.oracle.trials.items():
        assert (trial.status == "COMPLETED") is (sizes[id] <= 30)
        if trial.score is not None:
            values = trial.metrics
            loss, accuracy = values.get_last_value("val_loss"), values.get_last_value("val_accuracy")
            assert trial.score == pytest.approx(loss - accuracy)  # type: ignore[operator]
        else:
            assert "max_model_size" in str(trial.message)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.shuffle=True. was passed, but will be ignored:UserWarning")  # Keras' own
def test_data_that_shuffle_train_here_as_they_are(keras: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(96).batch(16).repeat()
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    for name, given in (("shuffled", {}), ("strategy", {"distribution_strategy": strategy})):
        tuner = kt.RandomSearch(build_model, "val_loss", 1, directory=folder, project_name=name, **given)
        tuner.search(data, steps_per_epoch=3, epochs=1, **VALIDATION)
        why = capsys.readouterr().out.partition("\n")[0]
        assert why == "Trials train in this process, since " + (
            "a distribution_strategy belongs to the process that made it" if given else "x is a data set without an end"
        )
        assert tuner.oracle.get_best_trials()[0].score > 0  # type: ignore[operator]
        assert len(tuner.get_best_models()) == 1


@pytest.mark.slow
def test_estimators_on_folds(folder: Path) -> None:
    from sklearn import datasets, ensemble, linear_model, metrics, model_selection

    def build(hp: Any) -> Any:
        if hp.Choice("kind", ["forest", "ridge"]) == "forest":
            return ensemble.RandomForestClassifier(n_estimators=hp.Int("trees", 2, 10), random_state=0)
        return linear_model.RidgeClassifier(alpha=hp.Float("alpha", 1e-3, 1, sampling="log"))

    tuner = kt.SklearnTuner(
        oracle=kt.oracles.RandomSearchOracle(kt.Objective("score", "max"), max_trials=4),
        hypermodel=build,
        scoring=metrics.make_scorer(metrics.accuracy_score),
        metrics=metrics.f1_score,
        cv=model_selection.StratifiedKFold(3),
        directory=folder,
        project_name="folds",
        progress=False,
    )
    X, y = datasets.load_breast_cancer(return_X_y=True)
    tuner.search(X, y)
    best = tuner.oracle.get_best_trials()[0]
    assert best.score > 0.8 and best.metrics.exists("f1_score")  # type: ignore[operator]
    (estimator,) = tuner.get_best_models()
    expected = "RandomForestClassifier" if best.hyperparameters.get("kind") == "forest" else "RidgeClassifier"
    assert type(estimator).__name__ == expected and estimator.score(X, y) > 0.8
