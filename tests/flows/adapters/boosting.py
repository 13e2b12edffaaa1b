"""Objectives of the boosting libraries, as their users write them: what the contract of the adapters is tested on."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

import hpo_flows.catboost
import hpo_flows.lightgbm
import hpo_flows.xgboost
from hpo_flows.objectives.context import TrialContext


@cache
def data() -> tuple[Any, Any, Any, Any]:
    """Rows to train on and rows to evaluate on, with their labels."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 6))
    y = (2 * X[:, 0] + X[:, 1] * X[:, 2] > 0).astype(int)
    return X[:200], y[:200], X[200:], y[200:]


def _changes(trial: TrialContext) -> dict[str, Any]:
    """What a test adds to the parameters."""
    return dict(trial.config.get("changes", {}))  # type: ignore[call-overload]


def _xgboost_parameters(trial: TrialContext) -> dict[str, Any]:
    given = {"learning_rate": trial.config["rate"], "max_depth": 3, "subsample": 0.7, "colsample_bytree": 0.6}
    return given | {"colsample_bynode": 0.7, "seed": trial.seed, "nthread": 1}


def xgboost_native(trial: TrialContext) -> dict[str, float]:
    import xgboost as xgb

    X, y, X_valid, y_valid = data()
    params = _xgboost_parameters(trial) | {"objective": "binary:logistic"} | _changes(trial)
    evals = [(xgb.DMatrix(X_valid, y_valid), "valid")] if trial.config["evaluate"] else []

    boost = hpo_flows.xgboost.callback(trial, rounds=5)
    given = {"evals": evals, "xgb_model": boost.model, "callbacks": [boost], "verbose_eval": False}
    xgb.train(params, xgb.DMatrix(X, y), boost.rounds, **given)
    return boost.metrics


def xgboost_sklearn(trial: TrialContext) -> dict[str, float]:
    from xgboost import XGBClassifier

    X, y, X_valid, y_valid = data()
    eval_set = [(X_valid, y_valid)] if trial.config["evaluate"] else None

    boost = hpo_flows.xgboost.callback(trial, rounds=5)
    model = XGBClassifier(**_xgboost_parameters(trial), n_estimators=boost.rounds, callbacks=[boost])
    model.fit(X, y, eval_set=eval_set, xgb_model=boost.model, verbose=False)
    return boost.metrics


def _lightgbm_parameters(trial: TrialContext) -> dict[str, Any]:
    given = {"learning_rate": trial.config["rate"], "num_leaves": 7, "subsample": 0.7, "subsample_freq": 2}
    return given | {"colsample_bytree": 0.6, "extra_trees": True, "num_threads": 1, "verbose": -1}


def lightgbm_native(trial: TrialContext) -> dict[str, float]:
    import lightgbm as lgb

    X, y, X_valid, y_valid = data()
    train = lgb.Dataset(X, y)
    valid_sets = [train.create_valid(X_valid, y_valid)] if trial.config["evaluate"] else None
    params = _lightgbm_parameters(trial) | {"objective": "binary"} | _changes(trial)

    boost = hpo_flows.lightgbm.callback(trial, rounds=5)
    given = {"valid_names": ["valid"], "init_model": boost.model, "callbacks": [boost]}
    lgb.train(params | boost.seeds, train, boost.rounds, valid_sets, **given)
    return boost.metrics


def lightgbm_sklearn(trial: TrialContext) -> dict[str, float]:
    from lightgbm import LGBMClassifier

    X, y, X_valid, y_valid = data()
    evaluated = {"eval_X": X_valid, "eval_y": y_valid} if trial.config["evaluate"] else {}

    boost = hpo_flows.lightgbm.callback(trial, rounds=5)
    model = LGBMClassifier(**_lightgbm_parameters(trial), **boost.seeds, n_estimators=boost.rounds)
    model.fit(X, y, **evaluated, init_model=boost.model, callbacks=[boost])
    return boost.metrics


def catboost_sklearn(trial: TrialContext) -> dict[str, float]:
    from catboost import CatBoostClassifier

    X, y, X_valid, y_valid = data()
    given = {"learning_rate": trial.config["rate"], "depth": 3, "bootstrap_type": "Bernoulli", "subsample": 0.7}

    boost = hpo_flows.catboost.callback(trial, rounds=5)
    parameters = given | {"rsm": 0.6, "random_seed": trial.seed, "thread_count": 1} | boost.parameters | _changes(trial)
    model = CatBoostClassifier(**parameters)
    model.fit(X, y, eval_set=(X_valid, y_valid) if trial.config["evaluate"] else None, callbacks=[boost])
    return boost.metrics
