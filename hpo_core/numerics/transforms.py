"""Transforms losses to a scale that a Gaussian process can model.

Training losses are skewed: a few diverged ones lie far above, and the good ones cluster near the best. A process
fitted to the raw losses would mostly model the bad tail. Both transforms are increasing, so they keep the order of
trials, and both standardise their result, so one prior suits every study.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from hpo_core.base.arrays import Array


@dataclass(frozen=True)
class Standardised(ABC):
    """``z = (f(y) - location) / scale`` of the losses ``y``, where each subclass defines ``f``."""

    location: float
    scale: float

    def forward(self, y: Array) -> Array:
        """The transformed losses; any shape."""
        return (self._warp(y) - self.location) / self.scale

    def inverse(self, z: Array) -> Array:
        """The losses that :meth:`forward` maps to ``z``."""
        return self._unwarp(z * self.scale + self.location)

    @abstractmethod
    def _warp(self, y: Array) -> Array:
        """``f(y)``."""

    @abstractmethod
    def _unwarp(self, w: Array) -> Array:
        """The inverse of ``f``."""


def _moments(values: Array) -> tuple[float, float]:
    scale = float(values.std())  # equal losses have no spread: 1 instead, so that nothing is divided by 0
    return float(values.mean()), scale if scale > 1e-12 else 1.0


def robust_spread(y: Array) -> tuple[float, float]:
    """The median, and how far the better half lies below it; the spread is 1 if all losses are equal.

    >>> robust_spread(np.array([0.0, 1.0, 2.0, 3.0, 1e9]))
    (2.0, 1.0)
    """
    median = float(np.median(y))
    better = y[y <= median]
    # Many equal losses may leave a spread of 0, so ever wider ones are tried.
    for spread in (median - float(np.median(better)), median - float(y.min()), float(y.max()) - median):
        if spread > 1e-12 * max(1.0, abs(median)):
            return median, spread
    return median, 1.0


@dataclass(frozen=True)
class YeoJohnson(Standardised):
    """The power transform that brings the losses closest to a normal distribution.

    Yeo and Johnson (2000), doi:10.1093/biomet/87.4.954, eq. 2.1, after centring by the median and scaling by the
    spread of the better half; ``power`` maximises the profile likelihood (their eq. 3.1).
    """

    power: float
    centre: float
    spread: float

    @staticmethod
    def fit(y: Array) -> YeoJohnson:
        """The transform for the losses ``y``, shape ``(n,)``, n >= 1."""
        centre, spread = robust_spread(y)
        x = _clipped((y - centre) / spread)
        powers = np.linspace(-2.0, 3.0, 51)
        likelihoods = [_yeo_johnson_likelihood(x, float(power)) for power in powers]
        power = float(powers[int(np.argmax(likelihoods))])
        location, scale = _moments(_yeo_johnson(x, power))
        return YeoJohnson(location, scale, power, centre, spread)

    def _warp(self, y: Array) -> Array:
        return _yeo_johnson(_clipped((y - self.centre) / self.spread), self.power)

    def _unwarp(self, w: Array) -> Array:
        return _yeo_johnson_inverse(w, self.power) * self.spread + self.centre


def _clipped(x: Array) -> Array:
    # How far a training diverged is irrelevant, and powers of the lower bound still fit a float.
    return np.clip(x, -1e6, 20.0)


def _yeo_johnson(x: Array, power: float) -> Array:
    up, down = np.log1p(np.maximum(x, 0.0)), np.log1p(np.maximum(-x, 0.0))
    above = up if abs(power) < 1e-9 else np.expm1(power * up) / power
    below = down if abs(power - 2.0) < 1e-9 else np.expm1((2.0 - power) * down) / (2.0 - power)
    return above - below


def _yeo_johnson_inverse(w: Array, power: float) -> Array:
    # Where the transform is bounded, no loss lies beyond the bound, so clamping returns the largest one that fits.
    def undo(v: Array, p: float) -> Array:
        if abs(p) < 1e-9:
            return np.expm1(np.minimum(v, 50.0))
        return np.expm1(np.log(np.maximum(1.0 + p * v, 1e-9)) / p)

    return np.where(w >= 0.0, undo(np.maximum(w, 0.0), power), -undo(np.maximum(-w, 0.0), 2.0 - power))


def _yeo_johnson_likelihood(x: Array, power: float) -> float:
    variance = float(_yeo_johnson(x, power).var())
    if variance <= 1e-300:
        return -math.inf
    return -0.5 * len(x) * math.log(variance) + (power - 1.0) * float((np.sign(x) * np.log1p(np.abs(x))).sum())


@dataclass(frozen=True)
class LogDistance(Standardised):
    """The log distance to a point just below the incumbent; it spreads out the losses near the best."""

    floor: float
    offset: float
    ceiling: float
    """Larger distances are clipped to it."""

    @staticmethod
    def fit(y: Array, share: float = 0.1) -> LogDistance:
        """The transform for the losses ``y``, shape ``(n,)``, n >= 1.

        Args:
            y: The losses.
            share: The distance assigned to the incumbent itself, as a share of the spread of the better half.
        """
        _, spread = robust_spread(y)
        raw = LogDistance(0.0, 1.0, float(y.min()), share * spread, 1e3 * spread)
        return replace(raw, **dict(zip(("location", "scale"), _moments(raw.forward(y)), strict=True)))

    def _warp(self, y: Array) -> Array:
        # A loss below the floor was not in the fit; it is treated like the incumbent's.
        return np.log(np.clip(y - self.floor, 0.0, self.ceiling) + self.offset)

    def _unwarp(self, w: Array) -> Array:
        # exp() overflows above 709.
        return np.exp(np.minimum(w, 700.0)) - self.offset + self.floor
