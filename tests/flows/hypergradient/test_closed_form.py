"""Closed-form hypergradients against refitting, finite differences and scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, Ridge

from hpo_core.study.file import load_study
from hpo_flows.hypergradient.closed_form import (
    Array,
    kernel_ridge_leave_one_out,
    logistic_regression,
    ridge,
    ridge_leave_one_out,
)


def regression(seed: int, n: int = 30, d: int = 4) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X, X @ rng.normal(size=d) + 0.5 * rng.normal(size=n)


def central(function: Callable[[Array], float], x: Array) -> Array:
    """Five-point differences of a function of a vector."""
    slopes = np.empty_like(x)
    for i in range(len(x)):
        h = 1e-3 * max(abs(x[i]), 1e-2)

        def at(k: int, i: int = i, h: float = h) -> float:
            moved = x.copy()
            moved[i] += k * h
            return function(moved)

        slopes[i] = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h)
    return slopes


def test_ridge(seed: int) -> None:
    (X, y), (X_val, y_val) = regression(seed), regression(seed + 1)
    l2 = np.array([0.1, 1.0, 10.0, 0.5])
    fit = ridge(X, y, l2, X_val, y_val)
    np.testing.assert_allclose(
        fit.gradient["l2"], central(lambda v: ridge(X, y, v, X_val, y_val).loss, l2), rtol=1e-6, atol=1e-9
    )
    one = ridge(X, y, 2.0, X_val, y_val)
    np.testing.assert_allclose(one.coefficients, Ridge(2.0, fit_intercept=False).fit(X, y).coef_, rtol=1e-9)
    every = ridge(X, y, np.full(4, 2.0), X_val, y_val)
    np.testing.assert_allclose(one.gradient["l2"], every.gradient["l2"].sum(), rtol=1e-9)


def test_leaving_one_out_of_ridge_is_refitting_without_it(seed: int) -> None:
    X, y = regression(seed)
    l2 = np.array([0.1, 1.0, 10.0, 0.5])
    fit = ridge_leave_one_out(X, y, l2)
    keep = ~np.eye(len(y), dtype=bool)
    refitted = [ridge(X[k], y[k], l2, X[~k], y[~k]) for k in keep]
    assert fit.loss == pytest.approx(np.mean([r.loss for r in refitted]), rel=1e-9)
    np.testing.assert_allclose(fit.gradient["l2"], np.mean([r.gradient["l2"] for r in refitted], axis=0), rtol=1e-8)


def test_leaving_one_out_of_kernel_ridge(seed: int) -> None:
    X, y = regression(seed, n=20, d=3)
    lengths = np.array([0.7, 1.5, 3.0])
    fit = kernel_ridge_leave_one_out(X, y, 0.3, lengths)
    model = KernelRidge(alpha=0.3, kernel="rbf", gamma=0.5)
    errors = [
        y[i] - model.fit(np.delete(X / lengths, i, 0), np.delete(y, i)).predict(X[i : i + 1] / lengths)[0]
        for i in range(len(y))
    ]
    assert fit.loss == pytest.approx(np.mean(np.square(errors)), rel=1e-9)
    slopes = central(lambda v: kernel_ridge_leave_one_out(X, y, v[0], v[1:]).loss, np.concatenate([[0.3], lengths]))
    np.testing.assert_allclose(fit.gradient["l2"], slopes[0], rtol=1e-6)
    np.testing.assert_allclose(fit.gradient["lengths"], slopes[1:], rtol=1e-6, atol=1e-9)


def test_logistic_regression(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X, X_val = rng.normal(size=(40, 3)), rng.normal(size=(25, 3))
    y, y_val = rng.permutation(np.arange(40) % 3), rng.permutation(np.arange(25) % 3)
    l2, weights = np.array([0.5, 2.0, 1.0]), rng.uniform(0.5, 1.5, 40)
    fit = logistic_regression(X, y, l2, X_val, y_val, example_weights=weights)
    some = [0, 7, 19]

    def loss(v: Array) -> float:
        moved = weights.copy()
        moved[some] = v[3:]
        return logistic_regression(X, y, v[:3], X_val, y_val, example_weights=moved).loss

    slopes = central(loss, np.concatenate([l2, weights[some]]))
    np.testing.assert_allclose(fit.gradient["l2"], slopes[:3], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(fit.gradient["example_weights"][some], slopes[3:], rtol=1e-5, atol=1e-9)
    plain = logistic_regression(X, y, 2.0, X_val, y_val)
    theirs = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-10, max_iter=1000).fit(X, y)
    np.testing.assert_allclose(plain.coefficients.T, theirs.coef_, atol=1e-5)
    assert set(plain.gradient) == {"l2"}


def test_a_regression_that_does_not_converge_is_told() -> None:
    X, y = np.array([[np.nan], [1.0]]), np.array([0, 1])
    with pytest.raises(ArithmeticError, match="does not converge"):
        logistic_regression(X, y, 1.0, X, y)


def test_the_example_reports_the_derivative_of_its_loss() -> None:
    from examples.kernel_ridge import evaluate

    space = load_study(Path(__file__).parents[3] / "examples" / "kernel_ridge.yaml").search_space
    config: dict[str, Any] = space.decode(np.full(11, 0.5))
    reported: dict[str, float] = {}

    def error(name: str, factor: float) -> float:
        trial: Any = SimpleNamespace(
            config={**config, name: config[name] * factor}, report_hypergradient=reported.update
        )
        return evaluate(trial)["loo_error"]

    for name in ("l2", "length_bmi"):
        numeric = (error(name, 1 + 1e-5) - error(name, 1 - 1e-5)) / (2e-5 * config[name])
        error("l2", 1.0)
        assert set(reported) == set(config)
        assert reported[name] == pytest.approx(numeric, rel=1e-5)
