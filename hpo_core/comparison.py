"""Whether a challenger is better than the champion by more than the luck of its seeds explains.

The challenger is a configuration, trained on ``k`` seeds: ``k`` losses on the held-out data, whose spread is the luck
of the seed. The champion is one model, scored on the same data: one loss ``c``. Both are losses, lower is better.

The null hypothesis is that the champion's loss is one more draw from the challenger's losses: another seed of the same
recipe. Whoever tunes every night meets it often, and a champion that changes for no reason is what the test is there to
prevent. Sokal and Rohlf's t-test of one observation against a sample (Crawford and Howell 1998, The Clinical
Neuropsychologist 12(4), 482-486, eq. 1) is made for it::

    t = (c - mean) / (s sqrt(1 + 1/k)),    k - 1 degrees of freedom,

one-sided. It is Student's two-sample test with one observation on the champion's side, whose own spread one model
cannot show (Welch's test would need it). The interval of the mean alone, ``s / sqrt(k)``, would forget that the
champion's seed was a draw, too, and with five seeds promote equals in one of five comparisons instead of one of twenty.
Losses are taken for normal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ROUNDING = 1e-9
"""A gain of less than this share of the losses is arithmetic: one model scored twice must not beat itself."""


@dataclass(frozen=True)
class Comparison:
    """A challenger beside the champion.

    Args:
        losses: The challenger's, one a seed, in order of the seeds.
        champion: The champion's loss; None if there is no champion.
        confidence: Of the one-sided test, such as 0.95.

    >>> close = Comparison([0.10, 0.12, 0.11, 0.13, 0.09], 0.14, 0.95)
    >>> round(close.gain, 3), round(close.margin, 3), close.better
    (0.03, 0.037, False)
    >>> Comparison(close.losses, 0.15, 0.95).better
    True
    """

    losses: Sequence[float]
    champion: float | None
    confidence: float = 0.95

    @property
    def mean(self) -> float:
        """The challenger's mean loss."""
        return math.fsum(self.losses) / len(self.losses)

    @property
    def deviation(self) -> float:
        """The standard deviation ``s`` of its losses; NaN for a single one, which shows no spread."""
        if len(self.losses) < 2:
            return math.nan
        mean = self.mean
        return math.sqrt(math.fsum((loss - mean) ** 2 for loss in self.losses) / (len(self.losses) - 1))

    @property
    def gain(self) -> float:
        """By how much the challenger's mean is below the champion's loss; NaN without a champion."""
        return math.nan if self.champion is None else self.champion - self.mean

    @property
    def margin(self) -> float:
        """What the gain has to exceed: ``t s sqrt(1 + 1/k)``; infinite for a single seed."""
        count = len(self.losses)
        if count < 2:
            return math.inf
        from scipy.special import stdtrit

        return float(stdtrit(count - 1, self.confidence)) * self.deviation * math.sqrt(1 + 1 / count)

    @property
    def better(self) -> bool:
        """Whether the challenger is to become the champion; without one, it is."""
        if self.champion is None:
            return True
        rounding = ROUNDING * max(abs(self.champion), abs(self.mean))
        return self.gain > max(self.margin, rounding)

    @property
    def typical(self) -> int:
        """Which of the re-trainings is the median one: the lower of the two in the middle, the earlier of equals.

        It is the one to be registered. The best of ``k`` is the luckiest on these very rows, so it would be worth less
        than its score, and the next challenger would have to beat that luck.

        >>> Comparison([0.3, 0.1, 0.2], None).typical
        2
        """
        order = sorted(range(len(self.losses)), key=lambda i: (self.losses[i], i))
        return order[(len(order) - 1) // 2]
