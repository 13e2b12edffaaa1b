"""Computes acquisition functions: how promising a candidate is, given the surrogate's prediction.

All functions assume minimisation. ``mean`` and ``std`` have shape ``(q,)``, on the scale of the surrogate's losses,
with ``std > 0``; ``best`` is the incumbent's loss on that scale. A larger acquisition is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import scipy

from hpo_core.base.arrays import Array
from hpo_core.numerics.pareto import Boxes


class Scale(Protocol):
    """An increasing transform of losses, such as :class:`hpo_core.numerics.transforms.Standardised`."""

    def forward(self, y: Array) -> Array: ...

    def inverse(self, z: Array) -> Array: ...


_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


def _log_h(z: Array) -> Array:
    """``log(phi(z) + z Phi(z))`` (Ament et al. 2023, arXiv:2310.20708, eq. 9).

    Far below 0 the two terms cancel to the last digit. There the logarithm uses their quotient, computed with the
    scaled complementary error function; below -1e4 it uses the leading term of the expansion, ``1 / z^2``.
    """
    result = np.empty_like(z)
    near, far = z > -1.0, z < -1e4
    middle = ~near & ~far
    x = z[near]
    result[near] = np.log(np.exp(-0.5 * x * x - _LOG_SQRT_2PI) + x * np.exp(scipy.special.log_ndtr(x)))
    x = z[middle]
    ratio = (
        math.sqrt(math.pi / 2) * scipy.special.erfcx(-x / math.sqrt(2.0)) * np.abs(x)
    )  # |z| Phi(z) / phi(z), below 1
    result[middle] = -0.5 * x * x - _LOG_SQRT_2PI + scipy.special.log1p(-ratio)
    x = z[far]
    result[far] = -0.5 * x * x - _LOG_SQRT_2PI - 2.0 * np.log(-x)
    return result


def log_expected_improvement(mean: Array, std: Array, best: float) -> Array:
    """Logarithm of the expected amount by which each candidate beats the incumbent.

    The improvement is ``max(best - y, 0)`` with ``y ~ N(mean, std^2)``. The logarithm still ranks candidates far from
    the incumbent, where the expectation itself underflows to 0 (Ament et al. 2023, arXiv:2310.20708, eq. 9).

    >>> log_expected_improvement(np.array([0.0, 1.0]), np.array([1.0, 2.0]), 0.0).round(4)
    array([-0.9189, -0.9274])
    """
    return _log_h((best - mean) / std) + np.log(std)


def log_expected_hypervolume_improvement(mean: Array, std: Array, free: Boxes, scales: Sequence[Scale]) -> Array:
    """Logarithm of the expected volume that each candidate adds to what a Pareto front dominates.

    A candidate with the losses ``y`` adds the product of ``max(u - max(y, l), 0)`` over the objectives, for each box
    ``[l, u]`` that the front leaves free. Losses are independent, so its expectation is a product of differences of
    expected improvements (Yang et al. 2019, doi:10.1007/s10898-019-00798-7, eq. 15); all of it is in logarithms, as
    Ament et al. (2023), section 3.2, recommend.

    The surrogates predict transformed losses, but a volume counts in the losses' own units: a transform that spreads
    out what is near the best of one objective would make that corner most of the volume. Between two knots the inverse
    transform is taken to be linear, and the expectation is exact; knots are the sides of the boxes and :data:`KNOTS`.

    Args:
        mean: Of the transformed losses, shape ``(q, m)``.
        std: Shape ``(q, m)``, above 0.
        free: The free boxes, in the losses' own units; see :func:`hpo_core.numerics.pareto.free_boxes`.
        scales: The transform of each objective.

    Returns:
        Shape ``(q,)``; larger is better.
    """
    lower, upper = free
    total = np.zeros((len(mean), len(lower)))
    for j, scale in enumerate(scales):
        # Boxes share their sides with each other, so that there are few different ones.
        sides, places = np.unique(np.concatenate([lower[:, j], upper[:, j]]), return_inverse=True)
        gains = np.full((len(mean), len(sides)), -math.inf)
        finite = np.isfinite(sides)
        gains[:, finite] = _log_gains(mean[:, j, None], std[:, j, None], sides[finite], scale)
        low, high = gains[:, places[: len(lower)]], gains[:, places[len(lower) :]]
        # What gains nothing up to the upper side, to the precision of floats, has no difference to the lower one.
        below = np.subtract(low, high, out=np.full_like(low, -math.inf), where=np.isfinite(high))
        total += high + _log1mexp(below)
    result: Array = scipy.special.logsumexp(total, axis=1)
    return result


KNOTS = 24
"""How many values, besides those that are asked for, lie on the line that stands for the inverse of a transform."""


def _log_gains(mean: Array, std: Array, sides: Array, scale: Scale) -> Array:
    """The logarithms of the expected amounts by which candidates are below some losses, shape ``(q, len(sides))``.

    Args:
        mean, std: Shape ``(q, 1)``.
        sides: The losses, in order.
        scale: What maps them to what ``mean`` and ``std`` are of.
    """
    wanted = scale.forward(sides)
    knots = np.union1d(wanted, np.linspace(wanted[0] - 3.0, wanted[-1], KNOTS))
    with np.errstate(divide="ignore"):  # where the transform ends, an inverse has no slope
        slopes = np.log(np.diff(scale.inverse(knots)) / np.diff(knots))
    below = _log_h((knots - mean) / std) + np.log(std)
    parts = slopes + below[:, 1:] + _log1mexp(below[:, :-1] - below[:, 1:])
    sums = np.logaddexp.accumulate(np.column_stack([below[:, :1] + slopes[0], parts]), axis=1)
    gains: Array = sums[:, np.searchsorted(knots, wanted)]
    return gains


def _log1mexp(x: Array) -> Array:
    """``log(1 - exp(x))`` for ``x <= 0``; rounding can make the difference of two all but equal gains 0, or more."""
    with np.errstate(invalid="ignore"):
        result: Array = np.log1p(-np.exp(np.minimum(np.where(np.isnan(x), -1e-15, x), -1e-15)))
    return result


def log_probability_of_improvement(mean: Array, std: Array, best: float) -> Array:
    """Logarithm of the probability that each candidate beats the incumbent (Kushner 1964).

    >>> log_probability_of_improvement(np.array([0.0]), np.array([1.0]), 0.0).round(4)
    array([-0.6931])
    """
    result: Array = scipy.special.log_ndtr((best - mean) / std)
    return result


def lower_confidence_bound(mean: Array, std: Array, kappa: float) -> Array:
    """``kappa`` standard deviations below the mean, negated (Srinivas et al. 2010, arXiv:0912.3995, eq. 6).

    >>> lower_confidence_bound(np.array([1.0]), np.array([0.5]), 2.0)
    array([0.])
    """
    return kappa * std - mean
