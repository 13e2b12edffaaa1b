"""Computes the mean and standard deviation of a few losses without overflow, however large the losses are.

The square of 1e200 is already beyond the largest float.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

LARGEST = 1e300
"""Larger magnitudes are clipped to it or refused: sums, differences and products near the largest float overflow."""

LARGE = 1e150
"""Up to here squares fit a float, so nothing is scaled and results keep their last bit."""


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean of one or more finite values.

    >>> mean([1.0, 2.0]), mean([1.5e308, 1.5e308])
    (1.5, 1.5e+308)
    """
    scale, scaled = _scaled(values)
    return scale * (math.fsum(scaled) / len(scaled))


def deviation(values: Sequence[float]) -> float:
    """The sample standard deviation, ``s``, of finite values; NaN for a single value, which has no spread.

    >>> round(deviation([1.0, 2.0, 3.0]), 6), f"{deviation([-1e300, 1e300]):.4g}"
    (1.0, '1.414e+300')
    """
    if len(values) < 2:
        return math.nan
    scale, scaled = _scaled(values)
    middle = math.fsum(scaled) / len(scaled)
    return scale * math.sqrt(math.fsum((value - middle) ** 2 for value in scaled) / (len(scaled) - 1))


def median(values: Sequence[float]) -> float:
    """The lower median of one or more finite values.

    >>> median([3.0, 1.0, 2.0]), median([4.0, 1.0, 2.0, 3.0])
    (2.0, 2.0)
    """
    return sorted(values)[(len(values) - 1) // 2]


def _scaled(values: Sequence[float]) -> tuple[float, list[float]]:
    """A power of two, and the values divided by it; dividing by a power of two loses no bits."""
    largest = max(map(abs, values))
    scale = 1.0 if largest <= LARGE else 2.0 ** (math.frexp(largest)[1] - 1)
    return scale, [value / scale for value in values]
