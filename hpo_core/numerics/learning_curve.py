"""Extrapolates a learning curve: parametric shapes, fitted by least squares and weighted by how well they fit.

The model of losses ``y`` over steps ``t`` is ``y = a + b g(t) + noise`` with ``b >= 0`` and a shape ``g`` that falls
towards 0: powers ``t^-c``, exponentials ``exp(-c t)``, powers of ``1 / log``, each for a grid of ``c``, and ``b = 0``.
(Domhan et al. 2015, ijcai.org/Proceedings/15/Papers/487.pdf, average eleven shapes by MCMC.) With ``c`` on a grid, the
rest is linear regression: the fit and its predictive distribution have a closed form for all shapes at once. Later
steps get more weight, in proportion to ``t``. Predictions further ahead are less certain: the standard deviation grows
with ``horizon / t``. ``benchmarks/early_stop.py`` measures the benefit.
"""

from __future__ import annotations

import numpy as np
import scipy

from hpo_core.base.arrays import Array
from hpo_core.base.moments import LARGEST

LEAST = 4
"""The least number of points to extrapolate from: two determine the line and two its noise."""

NOISE = 0.05
"""The least size of the residuals, as a share of the curve's range. Otherwise a few points that happen to lie on a
line would make the extrapolation certain."""

INDEPENDENT = 0.3
"""How many independent observations one point of a curve counts as when shapes are weighted. Neighbouring points are
correlated; counted in full, they would make the best shape certain."""


def _shapes(t: Array, horizon: float) -> Array:
    """The shapes evaluated at steps ``t``, shape ``(shapes, len(t))``; each between 0 and about 1."""
    powers = [t**-c for c in np.geomspace(0.05, 2.0, 12)]
    exponentials = [np.exp(-c * t / horizon) for c in np.geomspace(0.5, 100.0, 12)]
    logs = [np.log(t + 1.0) ** -c for c in np.geomspace(0.5, 4.0, 6)]
    return np.array([*powers, *exponentials, *logs, np.zeros_like(t)])


def chance_of_beating(steps: Array, losses: Array, horizon: float, best: float) -> float:
    """The probability that a curve will be below ``best`` at the horizon.

    Args:
        steps: Numbers of steps, > 0 and ascending, shape ``(n,)``.
        losses: The losses at these steps, shape ``(n,)``, minimised.
        horizon: The number of steps of a full training.
        best: The loss to beat.

    Returns:
        From 0 to 1; 1 if there are fewer than :data:`LEAST` finite points.

    >>> t = np.arange(1.0, 11.0)
    >>> chance_of_beating(t, 0.8 + 0.2 / t, 50, 0.1) < 0.01, chance_of_beating(t, 1 / t, 50, 0.05) > 0.5
    (True, True)
    """
    losses = losses.astype(float)
    finite = np.isfinite(losses)
    t, y = steps[finite].astype(float), np.clip(losses[finite], -LARGEST, LARGEST)
    best = min(max(best, -LARGEST), LARGEST)
    n = len(t)
    if n < LEAST:
        return 1.0
    # A curve far above ``best`` is scaled by that distance as well, and a flat curve never divides by 0.
    scale = max(float(np.ptp(y)), abs(best - float(y.min())) / 10, np.finfo(float).tiny)
    y, goal = (y - y.min()) / scale, (best - float(y.min())) / scale
    G = _shapes(t, horizon)
    at_horizon = _shapes(np.array([horizon], dtype=float), horizon)[:, 0]
    weight = t / t.sum()
    y_mean, g_mean = float(weight @ y), G @ weight
    centred = G - g_mean[:, None]
    spread = centred**2 @ weight
    flat = spread < 1e-12  # a constant shape has no slope to fit; the divisions below use 1 instead
    slope = np.maximum(np.where(flat, 0.0, (centred * weight) @ (y - y_mean) / np.where(flat, 1.0, spread)), 0.0)
    variance = ((y - y_mean - slope[:, None] * centred) ** 2) @ weight + NOISE**2
    away = at_horizon - g_mean
    leverage = np.where(slope > 0.0, away**2 / np.where(flat, 1.0, spread), 0.0)
    mean = y_mean + slope * away
    std = np.sqrt(variance * (n + 1.0 + leverage) / (n - 2)) * (horizon / t[-1])
    log_evidence = -0.5 * INDEPENDENT * n * np.log(variance)
    evidence = np.exp(log_evidence - log_evidence.max())  # the maximum is taken out so that exp() cannot overflow
    return float((evidence * scipy.special.stdtr(n - 2, (goal - mean) / std)).sum() / evidence.sum())
