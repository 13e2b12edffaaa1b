"""LightGBM with scikit-learn's interface on scikit-learn's digits (1,797 images of 8 by 8 pixels)."""

from __future__ import annotations

from lightgbm import LGBMClassifier
from sklearn.datasets import load_digits

import hpo_flows.lightgbm
from hpo_flows import TrialContext

X, y = load_digits(return_X_y=True)


def train(trial: TrialContext) -> dict[str, float]:
    """Train up to ``trial.fidelity`` rounds."""
    rows, held_out = trial.split(y, stratify=y)

    boost = hpo_flows.lightgbm.callback(trial)
    model = LGBMClassifier(**trial.config, **boost.seeds, subsample_freq=1, n_estimators=boost.rounds, verbose=-1)
    model.fit(
        X[rows],
        y[rows],
        eval_X=X[held_out],
        eval_y=y[held_out],
        eval_metric=["multi_error", "multi_logloss"],
        init_model=boost.model,
        callbacks=[boost],
    )
    trial.log_dataset("digits", X, y)
    trial.log_model(model, X[held_out][:5])
    return boost.metrics
