"""Regression on scikit-learn's diabetes data (442 patients): ridge on polynomials, by mean squared error."""

from __future__ import annotations

from typing import Any

from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from hpo_flows.sklearn import sklearn_objective


def build(config: dict[str, Any]) -> Pipeline:
    """Polynomials of the measurements, scaled, and a ridge on top."""
    return make_pipeline(PolynomialFeatures(config["degree"]), StandardScaler(), Ridge(alpha=config["alpha"]))


train = sklearn_objective(build, *load_diabetes(return_X_y=True, as_frame=True), name="diabetes")
