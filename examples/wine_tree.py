"""A decision tree on scikit-learn's wines (178 of 3 kinds, 13 measurements each)."""

from __future__ import annotations

from sklearn.datasets import load_wine
from sklearn.tree import DecisionTreeClassifier

from hpo_flows.sklearn import sklearn_objective

train = sklearn_objective(
    lambda config: DecisionTreeClassifier(**config), *load_wine(return_X_y=True, as_frame=True), name="wine"
)
