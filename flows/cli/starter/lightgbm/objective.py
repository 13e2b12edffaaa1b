"""The objective of study.yaml: LightGBM on scikit-learn's breast cancer data. Replace data and model by your own."""

from __future__ import annotations

from typing import Any

from lightgbm import LGBMClassifier
from sklearn.datasets import load_breast_cancer

from hpo_flows.lightgbm import callback

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
    model = LGBMClassifier(**trial.config, **boost.seeds, subsample_freq=1, n_estimators=boost.rounds, verbose=-1)
    model.fit(X[rows], y[rows], eval_X=X[held_out], eval_y=y[held_out], init_model=boost.model, callbacks=[boost])
    trial.log_model(model, X[held_out][:5])  # kept in MLflow if this is the best trial so far, ready to be served
    return boost.metrics
