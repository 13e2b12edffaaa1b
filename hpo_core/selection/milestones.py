"""Decides after how many steps a running trial is judged. Kept small because every worker process imports it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Milestones:
    """Numbers of steps: ``start, start * eta, start * eta**2, ...`` rounded, or ``start, start + every, ...``.

    Args:
        start: The first milestone.
        eta: The factor between two milestones.
        every: The number of steps between two milestones, instead of the factor.

    >>> [Milestones(start=1, eta=3).last(count) for count in (0, 1, 2, 3, 26, 27)]
    [0, 1, 1, 3, 9, 27]
    >>> Milestones(start=4, every=5).last(13)
    9
    """

    start: int = 1
    eta: float = 3
    every: int | None = None

    def last(self, count: int) -> int:
        """The last milestone reached after ``count`` steps; 0 if none."""
        if count < self.start:
            return 0
        if self.every is not None:
            return count - (count - self.start) % self.every
        # Only the unrounded value is multiplied, so that rounding errors do not accumulate.
        reached, exact = self.start, float(self.start)
        while (exact := exact * self.eta) < count + 0.5:
            reached = int(exact + 0.5)
        return reached
