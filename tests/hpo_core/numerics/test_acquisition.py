"""Acquisitions against quadrature, one another and the extremes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from hpo_core.numerics.acquisition import (
    log_expected_hypervolume_improvement,
    log_expected_improvement,
    log_probability_of_improvement,
    lower_confidence_bound,
)
from hpo_core.numerics.pareto import free_boxes, improvement
from hpo_core.numerics.transforms import LogDistance, YeoJohnson


@pytest.mark.parametrize("mean", [-3.0, 0.0, 0.3, 2.0, 5.0])
@pytest.mark.parametrize("std", [0.1, 1.0, 4.0])
def test_expected_improvement_is_its_integral(mean: float, std: float) -> None:
    best = 0.5
    low = min(best, mean) - 12 * std
    integral = quad(
        lambda y: (best - y) * norm.pdf(y, mean, std), low, best, points=[mean] if low < mean < best else None
    )
    got = log_expected_improvement(np.array([mean]), np.array([std]), best)[0]
    if integral[0] > 1e-12:
        assert got == pytest.approx(math.log(integral[0]), rel=1e-6, abs=1e-6)
    else:
        assert got < math.log(1e-11)


def test_expected_improvement_is_smooth_where_its_formulas_meet() -> None:
    for seam in (-1.0, -1e4):
        z = seam * (1 + np.array([-1e-6, 1e-6]))
        values = log_expected_improvement(-z, np.ones(2), 0.0)
        slope = abs(seam) * 2e-6 * (abs(seam) + 2)
        assert abs(values[1] - values[0]) < 2 * slope


def test_expected_improvement_never_ties_far_away() -> None:
    means = np.concatenate([np.linspace(0.0, 100.0, 1000), np.geomspace(101.0, 1e9, 1000)])
    values = log_expected_improvement(means, np.ones(2000), 0.0)
    assert np.isfinite(values).all()
    assert (np.diff(values) < 0).all()


def test_certain_improvement_is_worth_its_amount() -> None:
    assert log_expected_improvement(np.array([-10.0]), np.array([1e-6]), 0.0)[0] == pytest.approx(math.log(10.0))


def test_probability_of_improvement() -> None:
    values = log_probability_of_improvement(np.array([0.0, 1.0, 50.0]), np.ones(3), 0.0)
    assert np.exp(values[:2]) == pytest.approx(norm.cdf([0.0, -1.0]))
    assert np.isfinite(values[2])


def test_confidence_bound_without_kappa_is_the_mean() -> None:
    mean = np.array([0.2, -0.4])
    assert (lower_confidence_bound(mean, np.array([1.0, 9.0]), 0.0) == -mean).all()


@pytest.mark.parametrize("transform", [YeoJohnson, LogDistance])
@pytest.mark.parametrize("objectives", [2, 3])
def test_expected_hypervolume_improvement_is_the_mean_over_draws(transform: Any, objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    losses = np.exp(rng.standard_normal((30, objectives)))
    scales = [transform.fit(column) for column in losses.T]
    free = free_boxes(losses[:6], np.full(objectives, 3.0))
    mean, std = np.full((2, objectives), -1.0), np.full((2, objectives), [[0.3], [1.0]])
    expected = np.exp(log_expected_hypervolume_improvement(mean, std, free, scales))
    for i in range(2):
        z = mean[i] + std[i] * rng.standard_normal((200_000, objectives))
        drawn = np.column_stack([scale.inverse(column) for scale, column in zip(scales, z.T, strict=True)])
        assert expected[i] == pytest.approx(improvement(drawn, free).mean(), rel=0.05)


def test_expected_hypervolume_improvement_ranks_the_hopeless_and_needs_no_front() -> None:
    losses = np.array([[0.0, 3.0], [1.0, 1.0], [3.0, 0.0], [2.0, 2.0]])
    scales = [YeoJohnson.fit(column) for column in losses.T]
    free = free_boxes(losses, np.array([3.5, 3.5]))
    scores = log_expected_hypervolume_improvement(
        np.array([[2.0, 2.0], [20.0, 20.0], [21.0, 20.0]]), np.full((3, 2), 0.1), free, scales
    )
    assert np.isfinite(scores).all() and scores[0] > scores[1] > scores[2]
    alone = log_expected_hypervolume_improvement(
        np.zeros((1, 2)), np.ones((1, 2)), free_boxes(np.empty((0, 2)), np.array([3.5, 3.5])), scales
    )
    assert alone > scores[0]
