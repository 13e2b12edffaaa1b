"""The Gaussian process against closed forms, finite differences and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from hpo_core.base.arrays import Array
from hpo_core.numerics import gaussian_process
from hpo_core.numerics.gaussian_process import (
    JITTER,
    GaussianProcess,
    Hyperparameters,
    Spread,
    fit,
    matern52,
    negative_log_posterior,
    squared_distances,
)

OWNER = np.array([0, 1, 1, 2])


def problem(n: int = 12, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.random((n, 4)), rng.standard_normal(n)


def test_one_thread_computes_and_the_others_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = problem()
    libraries, seen, solve = ThreadpoolController(), list[set[int]](), gaussian_process._cholesky

    def threads() -> set[int]:
        return {each["num_threads"] for each in libraries.select(user_api="blas").info()}

    def watched(K: Array) -> Array:
        seen.append(threads())
        return solve(K)

    monkeypatch.setattr(gaussian_process, "_cholesky", watched)
    with libraries.limit(limits=2, user_api="blas"):
        process = GaussianProcess.condition(X, OWNER, y, fit(X, OWNER, y, steps=2))
        process.sample(X, np.random.default_rng(0))
        process.predict(X)
        assert threads() == {2}
    assert len(seen) > 3 and all(each == {1} for each in seen)


def trend(x: Array) -> list[float]:
    """The effects of the first and last parameter, which are numeric, and of the one between, a category."""
    slopes = [2 * x[0] - 1, 2 * x[3] - 1]
    return [*slopes, *(s * s for s in slopes), x[1], x[2]]


def covariance(A: Array, B: Array, h: Hyperparameters) -> Array:
    """The kernel of the module's docstring, one pair at a time."""
    lengths = h.lengths[OWNER]
    K = np.empty((len(A), len(B)))
    for i, a in enumerate(A):
        for j, b in enumerate(B):
            r = math.sqrt(sum(((a - b) / lengths) ** 2))
            K[i, j] = h.signal * (1 + math.sqrt(5) * r + 5 / 3 * r * r) * math.exp(-math.sqrt(5) * r)
            K[i, j] += h.trend * sum(x * y for x, y in zip(trend(a), trend(b), strict=True))
    return K


H = Hyperparameters(np.array([0.4, 1.3, 2.5]), 1.7, 0.05, 0.2)


def test_distances_are_those_of_all_pairs() -> None:
    A, B = problem(5)[0], problem(7, seed=1)[0]
    assert np.allclose(squared_distances(A, B), ((A[:, None] - B) ** 2).sum(axis=2))


def test_the_kernel_is_one_at_zero_and_falls() -> None:
    values = matern52(np.linspace(0.0, 9.0, 50))
    assert values[0] == 1.0
    assert (np.diff(values) < 0).all()


def test_hyperparameters_survive_their_logarithms() -> None:
    again = Hyperparameters.of(H.theta)
    assert np.allclose(again.lengths, H.lengths)
    assert (again.signal, again.noise, again.trend) == pytest.approx((H.signal, H.noise, H.trend))


def test_the_gradient_is_that_of_finite_differences() -> None:
    X, y = problem()
    rng = np.random.default_rng(2)
    repeated = Spread(np.append([3.0, 2.0], np.ones(10)), squares=0.4, degrees=3)
    for spread in (Spread(), repeated) * 3:
        theta = H.theta + rng.normal(0.0, 0.7, 6)
        _, gradient = negative_log_posterior(theta, X, OWNER, y, 2.0, spread)
        for i in range(6):
            step = np.zeros(6)
            step[i] = 1e-5
            up, down = (negative_log_posterior(theta + s, X, OWNER, y, 2.0, spread)[0] for s in (step, -step))
            assert gradient[i] == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-5)


def test_the_likelihood_is_that_of_the_normal_density() -> None:
    # The priors depend on theta alone, so they cancel between two data sets.
    X, y = problem()
    K = covariance(X, X, H) + (H.noise + JITTER) * np.eye(len(y))

    def density(v: Array) -> float:
        return 0.5 * float(v @ np.linalg.solve(K, v))

    got = [negative_log_posterior(H.theta, X, OWNER, v, 2.0)[0] for v in (y, 2 * y)]
    assert got[1] - got[0] == pytest.approx(density(2 * y) - density(y))


def test_prediction_is_the_closed_form() -> None:
    X, y = problem()
    Q = problem(6, seed=3)[0]
    mean, std = GaussianProcess.condition(X, OWNER, y, H).predict(Q)
    K, k = covariance(X, X, H) + (H.noise + JITTER) * np.eye(len(y)), covariance(X, Q, H)
    assert np.allclose(mean, k.T @ np.linalg.solve(K, y))
    assert np.allclose(std**2, np.diag(covariance(Q, Q, H)) - np.einsum("ij,ij->j", k, np.linalg.solve(K, k)))


def test_without_noise_it_passes_through_the_observations() -> None:
    X, y = problem()
    mean, std = GaussianProcess.condition(X, OWNER, y, Hyperparameters(H.lengths, 1.0, 1e-7, 0.1)).predict(X)
    assert np.allclose(mean, y, atol=1e-3)
    assert (std < 1e-2).all() and (std > 0).all()


def test_equal_rows_do_not_break_it() -> None:
    X, y = problem()
    twice = GaussianProcess.condition(
        np.vstack([X, X]), OWNER, np.concatenate([y, y + 1]), Hyperparameters(H.lengths, 1.0, 1e-7, 0.1)
    )
    assert np.allclose(twice.predict(X)[0], y + 0.5, atol=0.05)


def test_belief_keeps_the_mean_and_narrows_the_deviation() -> None:
    X, y = problem()
    pending, Q = problem(2, seed=4)[0], problem(20, seed=5)[0]
    process = GaussianProcess.condition(X, OWNER, y, H)
    believing = process.believing(pending)
    assert np.allclose(process.predict(Q)[0], believing.predict(Q)[0], atol=1e-6)
    assert (believing.predict(Q)[1] <= process.predict(Q)[1] + 1e-9).all()
    assert (believing.predict(pending)[1] < process.predict(pending)[1]).all()
    assert process.believing(pending[:0]) is process


def test_draws_have_the_posterior_moments() -> None:
    X, y = problem()
    Q = problem(3, seed=6)[0]
    process = GaussianProcess.condition(X, OWNER, y, H)
    rng = np.random.default_rng(7)
    draws = np.array([process.sample(Q, rng) for _ in range(4000)])
    mean, std = process.predict(Q)
    assert np.allclose(draws.mean(axis=0), mean, atol=0.1)
    assert np.allclose(draws.std(axis=0), std, rtol=0.1, atol=0.01)


def test_the_fit_finds_which_parameter_matters() -> None:
    rng = np.random.default_rng(8)
    X = rng.random((60, 3))
    y = np.sin(6 * X[:, 1])
    found = fit(X, np.arange(3), (y - y.mean()) / y.std())
    assert found.lengths[1] < 0.2 * min(found.lengths[0], found.lengths[2])
    assert found.noise < 0.01


def test_the_trend_reaches_beyond_the_observations() -> None:
    rng = np.random.default_rng(10)
    X = 0.5 * rng.random((12, 4))
    y = X.sum(axis=1)
    scaled = (y - y.mean()) / y.std()
    owner = np.arange(4)
    mean, _ = GaussianProcess.condition(X, owner, scaled, fit(X, owner, scaled)).predict(np.full((1, 4), 0.8))
    assert mean[0] > scaled.max() + 1.0


def test_the_fit_finds_the_noise() -> None:
    rng = np.random.default_rng(9)
    X = rng.random((150, 1))
    y = np.sin(4 * X[:, 0]) + rng.normal(0, 0.5, 150)
    scale = y.std()
    found = fit(X, np.array([0]), (y - y.mean()) / scale)
    assert math.sqrt(found.noise) * scale == pytest.approx(0.5, rel=0.25)


def test_means_of_repeats_say_as_much_as_their_losses() -> None:
    X, y = problem()
    losses = np.concatenate([y, y[:4] + 0.3])  # the first four configurations twice
    rows, means = np.vstack([X, X[:4]]), np.append(y[:4] + 0.15, y[4:])
    counts = np.append(np.full(4, 2.0), np.ones(len(y) - 4))
    known = Spread(counts, squares=4 * 2 * 0.15**2, degrees=4)
    one, other = (
        GaussianProcess.condition(X, OWNER, means, H, counts).predict(rows),
        GaussianProcess.condition(rows, OWNER, losses, H).predict(rows),
    )
    assert np.allclose(one, other)
    # Both likelihoods differ by a constant; the prior over the noise is the same in a difference over the rest.
    longer = Hyperparameters(H.lengths * 1.5, H.signal, H.noise, H.trend).theta
    averaged = [negative_log_posterior(theta, X, OWNER, means, 2.0, known)[0] for theta in (H.theta, longer)]
    single = [negative_log_posterior(theta, rows, OWNER, losses, 2.0)[0] for theta in (H.theta, longer)]
    assert averaged[1] - averaged[0] == pytest.approx(single[1] - single[0], abs=1e-5)


def test_repeats_bring_the_fitted_noise_to_what_they_show() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.random((30, 4)), rng.standard_normal(30)
    few, many = (
        fit(X, OWNER, y, spread=Spread(np.ones(30), squares=0.02 * degrees, degrees=degrees)).noise
        for degrees in (1, 1000)
    )
    assert many == pytest.approx(0.02, rel=0.1) and abs(few - 0.02) > abs(many - 0.02)


def test_skill_is_what_leaving_one_out_explains() -> None:
    X, y = problem()
    errors = []
    for i in range(len(y)):
        others = np.arange(len(y)) != i
        mean, _ = GaussianProcess.condition(X[others], OWNER, y[others], H).predict(X[i : i + 1])
        errors.append(float(y[i] - mean[0]))
    skill = GaussianProcess.condition(X, OWNER, y, H).skill
    assert skill == pytest.approx(1 - sum(e * e for e in errors) / float(((y - y.mean()) ** 2).sum()), abs=1e-5)
