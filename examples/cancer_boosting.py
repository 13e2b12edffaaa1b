"""Gradient boosting on scikit-learn's breast cancer data (569 cell nuclei, malignant or benign)."""

from __future__ import annotations

from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier

from hpo_flows.sklearn import sklearn_objective

train = sklearn_objective(
    lambda config: GradientBoostingClassifier(**config),
    *load_breast_cancer(return_X_y=True, as_frame=True),
    name="breast cancer",
)
