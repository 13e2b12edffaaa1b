"""The objective of study.yaml: XGBoost on scikit-learn's breast cancer data. Replace data and model by your own."""

from __future__ import annotations

from typing import Any

import xgboost as xgb
from sklearn.datasets import load_breast_cancer

from hpo_flows.xgboost import callback

X, y = load_breast_cancer(return_X_y=True)


def train(trial: Any) -> dict[str, float]:
    """Train with the configuration of a trial, and return the metrics on the rows that are held out.

    Args:
        trial: A hpo_flows.TrialContext. ``trial.config`` has a value for each parameter of study.yaml,
            ``trial.seed`` is the trial's own seed, ``trial.fidelity`` the number of rounds.
    """
    # 20 % of the rows are kept for `final:`, and not seen here.
    rows, held_out = trial.split(y, stratify=y)
    boost = callback(trial)  # curves in MLflow, early stopping; what to begin with, and for how many rounds
    booster = xgb.train(
        {**trial.config, "objective": "binary:logistic", "seed": trial.seed},
        xgb.DMatrix(X[rows], y[rows]),
        boost.rounds,
        evals=[(xgb.DMatrix(X[held_out], y[held_out]), "valid")],
        xgb_model=boost.model,
        callbacks=[boost],
        verbose_eval=False,
    )
    trial.log_model(booster, X[held_out][:5])  # kept in MLflow if this is the best trial so far, ready to be served
    return boost.metrics
