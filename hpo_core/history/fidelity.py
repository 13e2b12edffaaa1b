"""Computes how far trainings go: the fidelity levels of successive halving, and the brackets of Hyperband.

Notation of Li et al. (2018), jmlr.org/papers/v18/16-558.html: ``R`` is the highest fidelity, ``eta`` the factor between
two rungs, and ``s`` the number of halvings in a bracket.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from numbers import Real

ROUNDING = 1e-9
"""How far rounding may move a quotient of floats from a whole number."""


@dataclass(frozen=True)
class Fidelity:
    """A scale from the least useful training to a full one.

    Args:
        name: What the fidelity counts: epochs, a share of the training set, trees.
        min: The lowest fidelity that is informative about a configuration.
        max: The fidelity of a full training.
        eta: The factor between two levels.

    Raises:
        ValueError: One is not a number, or ``eta`` is below 2, or ``min`` is not above 0, or ``max`` is below it.

    >>> Fidelity("epochs", 1, 81).levels
    (1.0, 3.0, 9.0, 27.0, 81.0)
    >>> Fidelity("epochs", 2, 50).levels, Fidelity("share", 0.1, 1.0, eta=2).levels
    ((2.0, 6.0, 17.0, 50.0), (0.125, 0.25, 0.5, 1.0))
    """

    name: str = "fidelity"
    min: float = 1
    max: float = 27
    eta: float = 3

    def __post_init__(self) -> None:
        for key in ("min", "max", "eta"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, Real):
                raise ValueError(f"{key}: {value!r} is not a number; correct it")
        if not self.eta >= 2:
            raise ValueError(f"eta: {self.eta!r} is below 2; give 2 or more; 3 is usual")
        if not 0 < self.min:
            raise ValueError(f"min: {self.min!r} is not above 0; give the lowest fidelity that is informative")
        if not self.min <= self.max < math.inf:
            raise ValueError(f"min: {self.min!r} is above max, {self.max!r}; swap them")

    @property
    def whole(self) -> bool:
        """Whether the fidelity counts whole steps."""
        return isinstance(self.min, int) and isinstance(self.max, int)

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """``R eta^-k`` down to ``min``, ascending; rounded if the fidelity counts whole steps."""
        found = [float(self.max)]
        while True:
            level = self.max / self.eta ** len(found)
            level = float(math.floor(level + 0.5)) if self.whole else float(level)
            if level < self.min * (1 - ROUNDING) or level == found[-1]:
                return tuple(reversed(found))
            found.append(level)

    def level_of(self, fidelity: float | None) -> int | None:
        """The position of a fidelity among the levels; None if it is not a level."""
        if fidelity is None:
            return None
        near = (i for i, level in enumerate(self.levels) if math.isclose(level, fidelity, rel_tol=1e-6))
        return next(near, None)

    def bracket(self, s: int) -> tuple[int, ...]:
        """The number of trials on each rung of the bracket with ``s`` halvings, at the last ``s + 1`` levels.

        Algorithm 1 of Li et al.: ``n = ceil((s_max + 1) / (s + 1) eta^s)``, and ``floor(n eta^-i)`` on rung ``i``.
        (Their Table 1 rounds the first quotient down.)

        >>> [Fidelity("epochs", 1, 81).bracket(s) for s in (4, 3, 2, 1, 0)]
        [(81, 27, 9, 3, 1), (34, 11, 3, 1), (15, 5, 1), (8, 2), (5,)]
        """
        n = math.ceil(len(self.levels) / (s + 1) * self.eta**s - ROUNDING)
        return tuple(math.floor(n / self.eta**i + ROUNDING) for i in range(s + 1))
