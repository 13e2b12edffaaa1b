"""CatBoost on scikit-learn's diabetes data (442 patients); the patient's sex is a category."""

from __future__ import annotations

from catboost import CatBoostRegressor
from sklearn.datasets import load_diabetes

import hpo_flows.catboost
from hpo_flows import TrialContext

X, y = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
X["sex"] = X["sex"].map({1.0: "one", 2.0: "other"})  # the data set does not say which


def train(trial: TrialContext) -> dict[str, float]:
    """Train up to ``trial.fidelity`` rounds."""
    rows, held_out = trial.split(y)

    boost = hpo_flows.catboost.callback(trial)
    model = CatBoostRegressor(**trial.config, **boost.parameters, random_seed=trial.seed, cat_features=["sex"])
    model.fit(X.iloc[rows], y.iloc[rows], eval_set=(X.iloc[held_out], y.iloc[held_out]), callbacks=[boost])
    trial.log_dataset("diabetes", X, y)
    trial.log_model(model, X.iloc[held_out][:5])
    return boost.metrics
