"""The objective of study.yaml: a random forest on scikit-learn's wines. Replace data and model by your own."""

from __future__ import annotations

from typing import Any

from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, log_loss

X, y = load_wine(return_X_y=True)


def train(trial: Any) -> dict[str, float]:
    """Fit a forest with the configuration of a trial, and return its metrics on the rows that are held out.

    Args:
        trial: A hpo_flows.TrialContext. ``trial.config`` has a value for each parameter of study.yaml,
            ``trial.seed`` is the trial's own seed.
    """
    # The split is the same for every trial. 20 % of the rows are kept for `final:` and `champion:`, and not seen here.
    rows, held_out = trial.split(y, stratify=y)
    model = trial.champion  # a model to score instead of training one; None unless study.yaml has `champion:`
    if model is None:
        model = RandomForestClassifier(**trial.config, random_state=trial.seed)
        model.fit(X[rows], y[rows])
    trial.log_model(model, X[held_out][:5])  # kept in MLflow if this is the best trial so far, ready to be served
    return {
        "accuracy": accuracy_score(y[held_out], model.predict(X[held_out])),
        "log_loss": log_loss(y[held_out], model.predict_proba(X[held_out])),
    }
