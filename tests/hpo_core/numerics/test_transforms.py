"""Transforms keep the order of losses, can be undone, and stand anything finite."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hpo_core.numerics.transforms import LogDistance, Standardised, YeoJohnson, _yeo_johnson

FITS = [YeoJohnson.fit, LogDistance.fit]
losses = st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=30).map(np.array)


@pytest.mark.parametrize("fit", FITS)
def test_standardised_and_undone(fit: type[Standardised]) -> None:
    y = np.random.default_rng(0).lognormal(size=50)
    transform = fit(y)
    z = transform.forward(y)
    assert (z.mean(), z.std()) == pytest.approx((0.0, 1.0), abs=1e-9)
    assert transform.inverse(z) == pytest.approx(y, rel=1e-6)


@pytest.mark.parametrize("fit", FITS)
@given(y=losses)
def test_finite_and_in_order(fit: type[Standardised], y: np.ndarray) -> None:
    z = fit(y).forward(y)
    assert np.isfinite(z).all()
    assert (np.diff(z[np.argsort(y, kind="stable")]) >= -1e-9).all()


@pytest.mark.parametrize("power", [-1.5, 0.0, 0.7, 1.0, 2.0, 3.0])
def test_yeo_johnson_is_that_of_scipy(power: float) -> None:
    x = np.random.default_rng(1).normal(size=40)
    assert _yeo_johnson(x, power) == pytest.approx(stats.yeojohnson(x, power))


def test_a_diverged_training_does_not_squeeze_the_others() -> None:
    y = np.append(np.linspace(0.1, 0.9, 20), 1e30)
    for fit in FITS:
        assert np.ptp(fit(y).forward(y)[:20]) > 1.0, fit


def test_log_distance_spreads_out_the_best() -> None:
    y = np.concatenate([np.linspace(0.1, 0.11, 5), np.linspace(0.2, 1.0, 50)])
    z, plain = LogDistance.fit(y).forward(y), (y - y.mean()) / y.std()
    assert np.ptp(z[:5]) > 3 * np.ptp(plain[:5])
