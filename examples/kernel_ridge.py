"""Kernel ridge regression of diabetes' progression: a length-scale a feature, all tuned by gradient, in plain numpy."""

from __future__ import annotations

from functools import cache

import numpy as np
from sklearn.datasets import load_diabetes

from hpo_flows.hypergradient.closed_form import kernel_ridge_leave_one_out
from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.reference import gives_hypergradient


@cache
def data() -> tuple[np.ndarray, np.ndarray]:
    """442 patients: ten features and the progression of the disease, all standardised."""
    X, y = load_diabetes(return_X_y=True)
    return (X - X.mean(axis=0)) / X.std(axis=0), (y - y.mean()) / y.std()


@gives_hypergradient
def evaluate(trial: TrialContext) -> dict[str, float]:
    """The leave-one-out error of a configuration, as a share of the variance, and its derivative."""
    X, y = data()
    names = [name for name in trial.config if name.startswith("length_")]
    fit = kernel_ridge_leave_one_out(X, y, trial.config["l2"], np.array([trial.config[name] for name in names]))
    lengths = dict(zip(names, fit.gradient["lengths"], strict=True))
    trial.report_hypergradient({"l2": fit.gradient["l2"], **lengths})
    return {"loo_error": fit.loss}
