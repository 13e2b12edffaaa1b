"""XGBoost's own interface on scikit-learn's breast cancer data (569 cell nuclei, malignant or benign)."""

from __future__ import annotations

import xgboost as xgb
from sklearn.datasets import load_breast_cancer

import hpo_flows.xgboost
from hpo_flows import TrialContext

X, y = load_breast_cancer(return_X_y=True)


def train(trial: TrialContext) -> dict[str, float]:
    """Train up to ``trial.fidelity`` rounds."""
    rows, held_out = trial.split(y, stratify=y)
    params = {**trial.config, "objective": "binary:logistic", "eval_metric": ["error", "logloss"], "seed": trial.seed}
    valid = xgb.DMatrix(X[held_out], y[held_out])

    boost = hpo_flows.xgboost.callback(trial)
    booster = xgb.train(
        params,
        xgb.DMatrix(X[rows], y[rows]),
        boost.rounds,
        evals=[(valid, "valid")],
        xgb_model=boost.model,
        callbacks=[boost],
        verbose_eval=False,
    )
    trial.log_dataset("breast cancer", X, y)
    trial.log_model(booster, X[held_out][:5])
    return boost.metrics
