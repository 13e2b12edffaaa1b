"""Computes hypergradients without a training loop: ridge, kernel ridge and logistic regression, in numpy and scipy.

Each function fits a model and returns a loss that measures how well it generalises, with the derivative of that loss by
the hyperparameters, for about the cost of the fit. Notation: ``n`` examples, ``d`` features, ``C`` classes; ``X`` has
shape ``(n, d)``. All values and derivatives are on the raw scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg
from scipy.special import log_softmax

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """A fitted model and the derivative of its loss.

    Attributes:
        loss: The validation or leave-one-out loss.
        gradient: Its derivative by each hyperparameter, of the hyperparameter's shape.
        coefficients: The model: ``(d,)``, ``(n,)`` for kernel ridge (its dual), or ``(d, C)``.
    """

    loss: float
    gradient: dict[str, Array]
    coefficients: Array


def ridge(X: Array, y: Array, l2: Array | float, X_val: Array, y_val: Array) -> Fit:
    """Ridge regression ``min |X w - y|^2 + sum_j l2_j w_j^2``, judged by the mean squared error of a validation set.

    With ``A = X'X + diag(l2)``: ``dw/dl2_j = -A^-1 e_j w_j``, so ``dV/dl2_j = -(A^-1 dV/dw)_j w_j``.

    Args:
        X, y: Training set, shapes ``(n, d)`` and ``(n,)``.
        l2: Penalties, > 0: one for all features, or shape ``(d,)``.
        X_val, y_val: Validation set.

    >>> X, y = np.eye(2), np.array([2.0, 4.0])
    >>> fit = ridge(X, y, 1.0, X, y)
    >>> fit.coefficients, round(fit.loss, 9), round(float(fit.gradient["l2"]), 9)
    (array([1., 2.]), 2.5, 2.5)
    """
    penalties = np.broadcast_to(np.asarray(l2, dtype=float), X.shape[1:])
    factor = linalg.cho_factor(X.T @ X + np.diag(penalties))
    w = linalg.cho_solve(factor, X.T @ y)
    errors = X_val @ w - y_val
    by_weights = 2.0 * X_val.T @ errors / len(errors)
    slopes = -linalg.cho_solve(factor, by_weights) * w
    return Fit(float(errors @ errors) / len(errors), {"l2": _summed(slopes, l2)}, w)


def ridge_leave_one_out(X: Array, y: Array, l2: Array | float) -> Fit:
    """Ridge regression as in :func:`ridge`, judged by the mean squared error of leaving each example out in turn.

    No refitting: with ``H = X A^-1 X'`` the error of example ``i`` is ``e_i = (y - H y)_i / (1 - H_ii)`` (Allen 1974,
    doi:10.1080/00401706.1974.10489157). ``dH/dl2_j = -u_j u_j'`` with ``u_j = X A^-1 e_j`` gives the derivative.

    Args:
        X, y: All examples, shapes ``(n, d)`` and ``(n,)``.
        l2: Penalties, > 0: one for all features, or shape ``(d,)``.
    """
    penalties = np.broadcast_to(np.asarray(l2, dtype=float), X.shape[1:])
    factor = linalg.cho_factor(X.T @ X + np.diag(penalties))
    w = linalg.cho_solve(factor, X.T @ y)
    U = linalg.cho_solve(factor, X.T).T  # column j is u_j
    free = 1.0 - np.einsum("ij,ij->i", U, X)
    errors = (y - X @ w) / free
    # d e_i / d l2_j = (U_ij w_j) / free_i - e_i U_ij^2 / free_i, as (u_j'y) = w_j.
    by_penalty = (U * w - errors[:, None] * U**2) / free[:, None]
    slopes = 2.0 * errors @ by_penalty / len(y)
    return Fit(float(errors @ errors) / len(y), {"l2": _summed(slopes, l2)}, w)


def kernel_ridge_leave_one_out(X: Array, y: Array, l2: float, lengths: Array | float) -> Fit:
    """Kernel ridge regression with a Gaussian kernel, judged by the mean squared leave-one-out error.

    ``K_ij = exp(-sum_k (x_ik - x_jk)^2 / (2 lengths_k^2))``. With ``C = (K + l2 I)^-1`` and ``a = C y`` the error of
    example ``i`` is ``e_i = a_i / C_ii`` (Rasmussen and Williams 2006, eq. 5.12), and ``dC = -C dK C``.

    Args:
        X, y: All examples, shapes ``(n, d)`` and ``(n,)``.
        l2: Ridge, > 0.
        lengths: Length-scales, > 0: one for all features, or shape ``(d,)``.
    """
    scales = np.broadcast_to(np.asarray(lengths, dtype=float), X.shape[1:])
    squares = (X[:, None, :] - X[None, :, :]) ** 2
    K = np.exp(-0.5 * squares @ scales**-2.0)
    C = linalg.cho_solve(linalg.cho_factor(K + l2 * np.eye(len(y))), np.eye(len(y)))
    a, c = C @ y, np.diag(C)
    errors = a / c
    # dV = sum_i p_i da_i - r_i dC_ii, and both da and dC are -C dK C times something known.
    p = 2.0 * errors / (len(y) * c)
    r = p * errors
    by_kernel = -np.outer(C @ p, a) + (C * r) @ C
    by_lengths = np.einsum("ij,ijk->k", by_kernel * K, squares) * scales**-3.0
    gradient = {"l2": np.asarray(np.trace(by_kernel)), "lengths": _summed(by_lengths, lengths)}
    return Fit(float(errors @ errors) / len(y), gradient, a)


def logistic_regression(
    X: Array,
    y: Array,
    l2: Array | float,
    X_val: Array,
    y_val: Array,
    *,
    example_weights: Array | None = None,
    start: Array | None = None,
) -> Fit:
    """Softmax regression, judged by the mean cross entropy of a validation set, differentiated implicitly.

    The fit minimises ``L = sum_i s_i CE_i + sum_jc l2_j w_jc^2 / 2`` (scikit-learn's with ``C = 1 / l2``, and no
    intercept: append a column of ones with a small penalty). At the minimum ``dV/dh = -q d2L/dwdh``, where ``H q =
    dV/dw`` is solved by conjugate gradients with products of the Hessian.

    Args:
        X, y: Training set, shape ``(n, d)``, and classes 0, 1, ..., shape ``(n,)``.
        l2: Penalties, > 0: one for all features, or shape ``(d,)``.
        X_val, y_val: Validation set, of the same classes.
        example_weights: The ``s_i``, >= 0, shape ``(n,)``; all 1 if absent, and then no derivative by them is returned.
        start: Where the fit starts, shape ``(d, C)``.

    Raises:
        ArithmeticError: The fit does not converge.
    """
    classes = int(max(y.max(), y_val.max())) + 1
    targets, shape = np.eye(classes)[y], (X.shape[1], classes)
    penalties = np.broadcast_to(np.asarray(l2, dtype=float), X.shape[1:])[:, None]
    weights = np.ones(len(y)) if example_weights is None else example_weights

    def objective(flat: Array) -> tuple[float, Array]:
        W = flat.reshape(shape)
        log_p = log_softmax(X @ W, axis=1)
        loss = -weights @ (targets * log_p).sum(axis=1) + 0.5 * (penalties * W**2).sum()
        return float(loss), (X.T @ (weights[:, None] * (np.exp(log_p) - targets)) + penalties * W).ravel()

    def product(flat: Array, direction: Array) -> Array:
        P, D = np.exp(log_softmax(X @ flat.reshape(shape), axis=1)), direction.reshape(shape)
        Z = X @ D
        curved = P * (Z - (P * Z).sum(axis=1, keepdims=True))
        flat_product: Array = (X.T @ (weights[:, None] * curved) + penalties * D).ravel()
        return flat_product

    W = _minimum(objective, product, np.zeros(shape).ravel() if start is None else start.ravel())
    log_p = log_softmax(X_val @ W.reshape(shape), axis=1)
    by_weights = X_val.T @ (np.exp(log_p) - np.eye(classes)[y_val]) / len(y_val)
    operator = LinearOperator((W.size, W.size), matvec=lambda v: product(W, v), dtype=float)
    q, _ = cg(operator, by_weights.ravel(), rtol=1e-10, maxiter=10 * W.size)
    q = q.reshape(shape)
    gradient = {"l2": _summed(-(q * W.reshape(shape)).sum(axis=1), l2)}
    if example_weights is not None:
        residual = np.exp(log_softmax(X @ W.reshape(shape), axis=1)) - targets
        gradient["example_weights"] = -((X @ q) * residual).sum(axis=1)
    return Fit(float(-log_p[np.arange(len(y_val)), y_val].mean()), gradient, W.reshape(shape))


def _minimum(
    objective: Callable[[Array], tuple[float, Array]], product: Callable[[Array, Array], Array], start: Array
) -> Array:
    """The minimum of a convex function, exact enough to treat its derivative as zero."""
    size = math.sqrt(start.size) * max(1.0, float(np.abs(objective(np.zeros_like(start))[1]).max()))
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 1_000})
    x: Array = found.x
    for _ in range(20):  # Newton steps at the end: L-BFGS stops at the rounding error of the loss
        slope = objective(x)[1]
        if float(np.linalg.norm(slope)) <= 1e-11 * size:
            return x
        operator = LinearOperator((x.size, x.size), matvec=lambda v, x=x: product(x, v), dtype=float)
        step, _ = cg(operator, slope, rtol=1e-8, maxiter=10 * x.size)
        x = x - step
    if not float(np.linalg.norm(objective(x)[1])) <= 1e-7 * size:  # "not <=" also catches NaN
        raise ArithmeticError("the regression does not converge; raise l2, or scale the features")
    return x


def _summed(slopes: Array, like: Array | float) -> Array:
    """The derivative by one shared value is the sum of the derivatives by each entry."""
    return np.asarray(slopes if np.ndim(like) else slopes.sum())
