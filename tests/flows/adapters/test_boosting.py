"""What XGBoost, LightGBM and CatBoost promise beyond the contract: what goes on exactly, and what leaves nothing."""

from __future__ import annotations

import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpo_flows.catboost
import hpo_flows.lightgbm
import hpo_flows.xgboost
from hpo_core.base.errors import InputError
from hpo_core.base.extras import is_installed
from hpo_flows.adapters.boosting import metric_name
from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.messages import Failed
from tests.flows.adapters.boosting import data
from tests.flows.adapters.contract import ADAPTERS, BOOSTING, Trained, Training
from tests.flows.adapters.contract import training as training
from tests.snippets import a_trial

HERE = "tests.flows.adapters.test_boosting"
METRIC = {each.name: each.metric for each in ADAPTERS}


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not is_installed(package), reason=f"{package} is not installed")


def goes_on(training: Training, objective: str, metric: str, **config: Any) -> tuple[Trained, Trained, Trained]:
    """A whole training, its first part, and the rest."""
    whole = training(objective, metric, fidelity=9, **config)
    part = training(objective, metric, fidelity=4, **config)
    rest = training(objective, metric, fidelity=9, resume=part.checkpoint, **config)
    assert rest.metrics == pytest.approx(whole.metrics, rel=1e-6)
    return whole, part, rest


# -- exactly ------------------------------------------------------------------------------------------------------


@needs("xgboost")
@pytest.mark.parametrize(
    "changes",
    [
        {"booster": "dart", "rate_drop": 0.5, "verbosity": 0},  # since 3.4 it warns that dart is trees with a rate_drop
        {"tree_method": "approx"},
        {"tree_method": "exact", "num_parallel_tree": 2, "colsample_bynode": 1},
        {"booster": "gblinear", "verbosity": 0},  # or it warns of the parameters for trees
        {"objective": "multi:softprob", "num_class": 3},
    ],
    ids=lambda changes: next(iter(changes.values())),
)
def test_xgboost_goes_on_exactly(changes: dict[str, Any], training: Training) -> None:
    metric = "valid-mlogloss" if "num_class" in changes else "valid-logloss"
    whole, part, rest = goes_on(training, f"{BOOSTING}:xgboost_native", metric, changes=changes)
    assert list(rest.curve) == [4, 5, 6, 7, 8]
    assert part.losses(metric) | rest.losses(metric) == pytest.approx(whole.losses(metric), rel=1e-6)


@needs("lightgbm")
@pytest.mark.parametrize(
    "changes",
    [
        {"subsample_freq": 3},
        {"pos_bagging_fraction": 0.5, "neg_bagging_fraction": 0.8, "subsample": 1.0},
        {"linear_tree": True, "feature_fraction_bynode": 0.5},
    ],
    ids=lambda changes: "-".join(map(str, changes)),
)
def test_lightgbm_goes_on_exactly(changes: dict[str, Any], training: Training) -> None:
    metric = METRIC["lightgbm"]
    whole, part, rest = goes_on(training, f"{BOOSTING}:lightgbm_native", metric, changes=changes)
    assert list(rest.curve) == [4, 5, 6, 7, 8]
    assert part.losses(metric) | rest.losses(metric) == pytest.approx(whole.losses(metric), rel=1e-6)


@needs("lightgbm")
def test_rows_stay_for_as_many_rounds_as_asked(training: Training) -> None:
    """By round alone, though LightGBM counts from where a training goes on."""
    curves = [
        training(f"{BOOSTING}:lightgbm_native", METRIC["lightgbm"], changes={"subsample_freq": freq}).curve
        for freq in (1, 3)
    ]
    assert curves[0][0] == curves[1][0] and curves[0][1] != curves[1][1]


# -- or not at all ------------------------------------------------------------------------------------------------


@needs("lightgbm")
@pytest.mark.parametrize(
    "changes",
    [{"boosting": "dart"}, {"boosting": "rf"}, {"data_sample_strategy": "goss", "subsample_freq": 0}],
    ids=lambda changes: next(iter(changes.values())),
)
def test_what_lightgbm_cannot_go_on_from_is_not_left(changes: dict[str, Any], training: Training) -> None:
    _, part, rest = goes_on(training, f"{BOOSTING}:lightgbm_native", METRIC["lightgbm"], changes=changes)
    assert not part.checkpoint.exists() or not list(part.checkpoint.iterdir())
    assert list(rest.curve) == list(range(9))


EARLY = 3


def xgboost_early(trial: TrialContext) -> dict[str, float]:
    import xgboost as xgb

    X, y, X_valid, y_valid = data()
    boost = hpo_flows.xgboost.callback(trial)
    model = xgb.XGBClassifier(
        n_estimators=boost.rounds, learning_rate=2.0, early_stopping_rounds=EARLY, callbacks=[boost]
    )
    model.fit(X, y, eval_set=[(X_valid, y_valid)], xgb_model=boost.model, verbose=False)
    return boost.metrics | {"best": model.best_score, "loss": boost.metrics["validation_0-logloss"]}


def lightgbm_early(trial: TrialContext) -> dict[str, float]:
    import lightgbm as lgb

    X, y, X_valid, y_valid = data()
    boost = hpo_flows.lightgbm.callback(trial)
    model = lgb.LGBMClassifier(n_estimators=boost.rounds, learning_rate=2.0, verbose=-1, **boost.seeds)
    callbacks = [boost, lgb.early_stopping(EARLY, verbose=False)]
    model.fit(X, y, eval_X=X_valid, eval_y=y_valid, init_model=boost.model, callbacks=callbacks)
    best = model.best_score_["valid_0"]["binary_logloss"]
    return boost.metrics | {"best": best, "loss": boost.metrics["valid_0-binary_logloss"]}


@pytest.mark.parametrize("library", [pytest.param(name, marks=needs(name)) for name in ("xgboost", "lightgbm")])
def test_the_librarys_own_early_stopping_leaves_nothing_and_the_best_round_counts(
    library: str, training: Training
) -> None:
    trained = training(f"{HERE}:{library}_early", "loss", fidelity=50)
    losses = list(trained.losses(METRIC[f"{library} sklearn"]).values())
    assert len(losses) < 50 and losses.index(min(losses)) == len(losses) - 1 - EARLY
    assert trained.metrics["loss"] == trained.metrics["best"] == min(losses)
    assert not trained.checkpoint.exists() or not list(trained.checkpoint.iterdir())


@needs("catboost")
def test_catboosts_own_early_stopping_goes_on(training: Training) -> None:
    objective, metric = f"{BOOSTING}:catboost_sklearn", METRIC["catboost"]
    changes = {"early_stopping_rounds": EARLY, "learning_rate": 2.0}
    whole = training(objective, metric, fidelity=90, changes=changes)
    assert len(whole.curve) < 90
    part = training(objective, metric, fidelity=len(whole.curve) - 2, changes=changes)
    rest = training(objective, metric, fidelity=90, resume=part.checkpoint, changes=changes)
    assert part.curve | rest.curve == whole.curve and len(rest.curve) == 2
    over = training(objective, metric, fidelity=99, resume=rest.checkpoint, changes=changes)
    assert over.curve == {} and over.metrics == rest.metrics, "it has ended, however many rounds there are"


def catboost_by_name(trial: TrialContext) -> dict[str, float]:
    from catboost import CatBoostClassifier

    X, y, X_valid, y_valid = data()
    boost = hpo_flows.catboost.callback(trial)
    names = ("learning_rate", "depth", "l2_leaf_reg")
    model = CatBoostClassifier(**{name: trial.config[name] for name in names}, **boost.parameters)
    model.fit(X, y, eval_set=(X_valid, y_valid), callbacks=[boost])
    return boost.metrics


@needs("catboost")
@pytest.mark.parametrize(
    ("changed", "goes_on"), [({"learning_rate": 0.4}, True), ({"learning_rate": 0.4, "l2_leaf_reg": 9.0}, False)]
)
def test_catboost_goes_on_with_another_learning_rate_alone(
    changed: dict[str, float], goes_on: bool, training: Training
) -> None:
    given: dict[str, Any] = {"objective": f"{HERE}:catboost_by_name", "metric": METRIC["catboost"]}
    config = {"learning_rate": 0.1, "depth": 3, "l2_leaf_reg": 3.0}
    parent, whole = training(**given, **config, fidelity=4), training(**given, **config)
    rest = training(**given, **config | changed, resume=parent.checkpoint, parent=config)
    assert list(rest.curve) == list(range(4 if goes_on else 0, 9))
    assert rest.metrics[METRIC["catboost"]] != pytest.approx(whole.metrics[METRIC["catboost"]])
    assert rest.use.scratch_instead == ("" if goes_on else "CatBoost does not go on with another l2_leaf_reg")


# -- cross-validation, several data sets, own metrics ---------------------------------------------------------------


def xgboost_cv(trial: TrialContext) -> dict[str, float]:
    import xgboost as xgb

    X, y, *_ = data()
    boost = hpo_flows.xgboost.callback(trial)
    xgb.cv({"objective": "binary:logistic"}, xgb.DMatrix(X, y), boost.rounds, nfold=3, callbacks=[boost])
    return boost.metrics


def lightgbm_cv(trial: TrialContext) -> dict[str, float]:
    import lightgbm as lgb

    X, y, *_ = data()
    boost = hpo_flows.lightgbm.callback(trial)
    params = {"objective": "binary", "verbose": -1, "bagging_fraction": 0.5, "bagging_freq": 1}
    lgb.cv(params, lgb.Dataset(X, y), boost.rounds, nfold=3, callbacks=[boost])
    return boost.metrics


@pytest.mark.parametrize(
    ("library", "metric"),
    [
        pytest.param("xgboost", "test-logloss", marks=needs("xgboost")),
        pytest.param("lightgbm", "valid-binary_logloss", marks=needs("lightgbm")),
    ],
)
def test_cv_reports_means_and_deviations(library: str, metric: str, training: Training) -> None:
    whole, part, rest = goes_on(training, f"{HERE}:{library}_cv", metric)
    assert {metric, f"{metric}-std"} <= set(whole.curve[0]) and 0 < whole.metrics[f"{metric}-std"] < 1
    assert not part.checkpoint.exists() and rest.curve == whole.curve
    assert list(training(f"{HERE}:{library}_cv", metric, stop_after=2).curve) == [0, 1]


def xgboost_many(trial: TrialContext) -> dict[str, float]:
    import xgboost as xgb

    X, y, X_valid, y_valid = data()
    train, valid = xgb.DMatrix(X, y), xgb.DMatrix(X_valid, y_valid)
    params = {"objective": "binary:logistic", "eval_metric": ["map@5-", "error@0.7"], "disable_default_eval_metric": 0}
    boost = hpo_flows.xgboost.callback(trial)
    own = lambda predicted, matrix: ("own", float(np.mean(predicted)))  # noqa: E731
    given = {"evals": [(train, "train"), (valid, "held_out")], "custom_metric": own, "verbose_eval": False}
    xgb.train(params, train, boost.rounds, callbacks=[boost], xgb_model=boost.model, **given)
    return boost.metrics


@needs("xgboost")
def test_every_data_set_and_metric_has_a_name(training: Training) -> None:
    names = {f"{data}-{metric}" for data in ("train", "held_out") for metric in ("map_at_5-", "error_at_0.7", "own")}
    trained = training(f"{HERE}:xgboost_many", "train-own", fidelity=2)
    assert set(trained.metrics) == set(trained.curve[1]) == names


@needs("catboost")
def test_what_is_not_evaluated_in_a_round_is_not_reported(training: Training) -> None:
    objective, metric = f"{BOOSTING}:catboost_sklearn", METRIC["catboost"]
    trained = training(objective, metric, fidelity=7, changes={"metric_period": 3})
    assert {step for step, metrics in trained.curve.items() if metrics} == {0, 3, 6}


def test_names_are_those_that_mlflow_takes() -> None:
    assert metric_name("valid", "Quantile:alpha=0.1;use_weights=true") == "valid-Quantile:alpha_0.1_use_weights_true"


# -- mistakes -----------------------------------------------------------------------------------------------------


def xgboost_forgets(trial: TrialContext) -> dict[str, float]:
    import xgboost as xgb

    X, y, *_ = data()
    boost = hpo_flows.xgboost.callback(trial)
    xgb.train({}, xgb.DMatrix(X, y), boost.rounds, callbacks=[boost])
    return {"loss": 1.0}


def lightgbm_forgets(trial: TrialContext) -> dict[str, float]:
    import lightgbm as lgb

    X, y, *_ = data()
    boost = hpo_flows.lightgbm.callback(trial)
    lgb.train({"verbose": -1}, lgb.Dataset(X, y), boost.rounds, callbacks=[boost])
    return {"loss": 1.0}


def lightgbm_forgets_seeds(trial: TrialContext) -> dict[str, float]:
    import lightgbm as lgb

    X, y, *_ = data()
    boost = hpo_flows.lightgbm.callback(trial)
    lgb.train({"verbose": -1, "feature_fraction": 0.5}, lgb.Dataset(X, y), boost.rounds, callbacks=[boost])
    return {"loss": 1.0}


@pytest.mark.parametrize(
    ("library", "argument"),
    [
        pytest.param("xgboost", "xgb_model", marks=needs("xgboost")),
        pytest.param("lightgbm", "init_model", marks=needs("lightgbm")),
    ],
)
def test_a_model_that_is_not_given_is_told(library: str, argument: str, training: Training) -> None:
    part = training(f"{HERE}:{library}_forgets", "loss", fidelity=2)
    failed = training(f"{HERE}:{library}_forgets", "loss", fidelity=4, resume=part.checkpoint).outcome
    assert isinstance(failed, Failed) and failed.blamed_key == argument
    assert failed.reason == (
        f"{argument}: the training does not go on from the parent trial's model, but has only the rounds that it "
        f"lacks; give {argument}=callback.model"
    )


@needs("lightgbm")
def test_seeds_that_are_not_given_are_told(training: Training) -> None:
    failed = training(f"{HERE}:lightgbm_forgets_seeds", "loss", fidelity=2).outcome
    assert isinstance(failed, Failed) and failed.reason.endswith("add callback.seeds to its parameters")


@pytest.mark.parametrize(
    ("library", "use"),
    [
        pytest.param("xgboost", "rounds", marks=needs("xgboost")),
        pytest.param("lightgbm", "rounds", marks=needs("lightgbm")),
        pytest.param("catboost", "parameters", marks=needs("catboost")),
    ],
)
def test_rounds_come_from_the_fidelity_or_are_given(library: str, use: str, tmp_path: Path) -> None:
    module = getattr(hpo_flows, library)
    with pytest.raises(
        InputError, match=r"rounds: the study has no fidelity to set them; give callback\(trial, rounds"
    ):
        getattr(module.callback(a_trial(tmp_path)), use)
    found = getattr(module.callback(a_trial(tmp_path, fidelity=27.0), rounds=5), use)
    assert (found if use == "rounds" else found["iterations"]) == 27


# -- the user's own way -------------------------------------------------------------------------------------------


def xgboost_plain(trial: TrialContext) -> dict[str, float]:
    import xgboost as xgb

    X, y, X_valid, y_valid = data()
    boost = hpo_flows.xgboost.callback(trial)
    params = {"objective": "binary:logistic", "subsample": 0.5, "seed": 3}
    evals = [(xgb.DMatrix(X_valid, y_valid), "valid")]
    given = {"evals": evals, "verbose_eval": False}
    xgb.train(params, xgb.DMatrix(X, y), 4, callbacks=[boost], **given)
    xgb.train(params, xgb.DMatrix(X, y), 4, evals_result=(log := {}), **given)  # type: ignore[var-annotated]
    return boost.metrics | {"without": log["valid"]["logloss"][-1]}


@needs("xgboost")
def test_a_training_with_rounds_of_its_own_is_only_watched(training: Training) -> None:
    trained = training(f"{HERE}:xgboost_plain", "valid-logloss", fidelity=9)
    assert trained.metrics["without"] == trained.metrics["valid-logloss"] and list(trained.curve) == [0, 1, 2, 3]
    assert not trained.checkpoint.exists() and trained.use.read == ()


@needs("xgboost")
def test_an_estimator_is_cloned_with_its_callback_and_pickled_without(tmp_path: Path) -> None:
    from sklearn.base import clone
    from xgboost import XGBClassifier

    boost = hpo_flows.xgboost.callback(a_trial(tmp_path), rounds=2)
    model = clone(XGBClassifier(callbacks=[boost], n_estimators=2))
    assert deepcopy(boost) is boost and model.get_params()["callbacks"] == [boost]
    X, y, *_ = data()
    model.fit(X, y, eval_set=[(X, y)], verbose=False)
    assert boost.metrics["validation_0-logloss"] < 0.6
    pickled = pickle.dumps(model)
    assert b"hpo_flows" not in pickled
    assert np.array_equal(pickle.loads(pickled).predict(X), model.predict(X))
