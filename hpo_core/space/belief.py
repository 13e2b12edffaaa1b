"""Holds what a user believes about good values before anything is trained, as a density over the unit cube.

Strategies use it in two ways: some of their points are drawn from it, and a model's acquisition is multiplied by it,
with a weight that fades as trials are made (pi-BO; Hvarfner et al. 2022, arXiv:2204.11051). A share of every density is
uniform, so that a belief that is wrong costs a few trials and never hides a region.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import scipy

from hpo_core.base.arrays import Array
from hpo_core.space.configuration import Scalar
from hpo_core.space.parameters import Boolean, Choice, Ordinal

Confidence = Literal["low", "medium", "high"]

WIDTH: dict[Confidence, float] = {"low": 0.25, "medium": 0.1, "high": 0.04}
"""The standard deviation around a believed value, as a share of its range (in logarithms, where that is log-scaled)."""

SURE: dict[Confidence, float] = {"low": 0.25, "medium": 0.5, "high": 0.75}
"""How often the belief decides on an option; otherwise any is as likely, so the believed one is likelier than any other
however few there are."""

UNIFORM = 0.1
"""The share of a density that is uniform."""


@dataclass(frozen=True)
class Belief:
    """A value that is likely to be good.

    Args:
        around: The value.
        confidence: How sure the user is.
    """

    around: Scalar
    confidence: Confidence

    def __post_init__(self) -> None:
        if self.confidence not in get_args(Confidence):
            raise ValueError(f"the confidence {self.confidence!r} is not one of {', '.join(get_args(Confidence))}")


class BeliefDensity:
    """The beliefs about a space, independent of each other, as a density over its cube.

    Args:
        parameters: The ``d`` parameters of the space that are tuned, in its order.
        beliefs: By parameter; the others are uniform.

    Attributes:
        centre: The point where the user believes the best to be, shape ``(d,)``; 0.5 where nothing is believed.

    Raises:
        ValueError: A belief names no tunable parameter of the space, or a value that it cannot have.
    """

    def __init__(self, parameters: Mapping[str, Any], beliefs: Mapping[str, Belief]) -> None:
        self.centre = np.full(len(parameters), 0.5)
        self._columns: list[tuple[int, Array]] = []  # categories: the probabilities of the options
        self._normal: list[tuple[int, float, float]] = []  # others: centre and standard deviation
        position = {name: j for j, name in enumerate(parameters)}
        for name, belief in beliefs.items():
            if name not in position:
                raise ValueError(f"{name}: not a tuned parameter; the space has {list(position)}")
            parameter = parameters[name]
            try:
                centre = float(parameter.encode(belief.around))
            except ValueError as error:
                raise ValueError(f"{name}.around: {error}") from None
            self.centre[position[name]] = centre
            if isinstance(parameter, Boolean | Choice) and not isinstance(parameter, Ordinal):
                options, believed = int(parameter.size), (1 - UNIFORM) * SURE[belief.confidence]
                shares = np.full(options, (1 - believed) / options)
                shares[min(int(centre * options), options - 1)] += believed
                self._columns.append((position[name], shares))
            else:
                self._normal.append((position[name], centre, WIDTH[belief.confidence]))

    def __bool__(self) -> bool:
        return bool(self._columns or self._normal)

    def warped(self, points: Array) -> Array:
        """Uniform points of the cube, shape ``(n, d)``, as draws from the beliefs (without their uniform share)."""
        X = points.copy()
        for j, shares in self._columns:
            ends = np.cumsum(shares)
            options = np.minimum(np.searchsorted(ends, X[:, j], side="right"), len(shares) - 1)
            X[:, j] = (options + 0.5) / len(shares)
        for j, centre, width in self._normal:
            low, high = scipy.special.ndtr(np.array([-centre, 1 - centre]) / width)
            X[:, j] = np.clip(centre + width * scipy.special.ndtri(low + X[:, j] * (high - low)), 0.0, 1.0)
        return X

    def log_density(self, X: Array) -> Array:
        """The logarithm of the density at rows of the cube, shape ``(n,)``; NaN coordinates are inactive."""
        total = np.zeros(len(X))
        for j, shares in self._columns:
            on = ~np.isnan(X[:, j])
            options = np.minimum((X[on, j] * len(shares)).astype(int), len(shares) - 1)
            total[on] += np.log(shares[options] * len(shares))
        for j, centre, width in self._normal:
            on = ~np.isnan(X[:, j])
            low, high = scipy.special.ndtr(np.array([-centre, 1 - centre]) / width)
            z = (X[on, j] - centre) / width
            density = np.exp(-0.5 * z * z) / (np.sqrt(2 * np.pi) * width * (high - low))
            total[on] += np.log((1 - UNIFORM) * density + UNIFORM)
        return total
