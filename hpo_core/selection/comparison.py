"""Decides whether a challenger beats the champion by more than the luck of its seeds explains.

The challenger is a configuration, trained with ``k`` seeds: ``k`` losses on the held-out data, whose spread is the luck
of the seed. The champion is one model, scored on the same data: one loss ``c``. Lower losses are better.

The null hypothesis is that the champion's loss is one more draw from the challenger's losses: another seed of the same
recipe. Nightly tuning often meets this case, and the test prevents the champion from changing for no reason. Sokal and
Rohlf's t-test of one observation against a sample (Crawford and Howell 1998, The Clinical Neuropsychologist 12(4),
482-486, eq. 1) fits it::

    t = (c - mean) / (s sqrt(1 + 1/k)),    k - 1 degrees of freedom,

one-sided. It is Student's two-sample test with a single observation for the champion. One model cannot show its own
spread, which Welch's test would need. An interval of the mean alone, ``s / sqrt(k)``, would ignore that the champion's
seed was a draw, too: with five seeds it would promote equals in one comparison out of five instead of one out of
twenty. The test assumes normal losses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hpo_core.base import moments

ROUNDING = 1e-9
"""A smaller gain, as a share of the losses, is rounding error: one model scored twice must not beat itself."""


@dataclass(frozen=True)
class Comparison:
    """Compares a challenger with the champion.

    Args:
        losses: The challenger's losses, one per seed, in order of the seeds.
        champion: The champion's loss; None if there is no champion.
        confidence: The confidence of the one-sided test, such as 0.95.

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
        return moments.mean(self.losses)

    @property
    def deviation(self) -> float:
        """The standard deviation ``s`` of the challenger's losses; NaN for a single loss, which has no spread."""
        return moments.deviation(self.losses)

    @property
    def gain(self) -> float:
        """How far the challenger's mean is below the champion's loss; NaN without a champion."""
        return math.nan if self.champion is None else self.champion - self.mean

    @property
    def margin(self) -> float:
        """The threshold that the gain must exceed: ``t s sqrt(1 + 1/k)``; infinite for a single seed."""
        count = len(self.losses)
        if count < 2:
            return math.inf
        from scipy.special import stdtrit

        return float(stdtrit(count - 1, self.confidence)) * self.deviation * math.sqrt(1 + 1 / count)

    @property
    def better(self) -> bool:
        """Whether the challenger should become the champion; always true without a champion."""
        if self.champion is None:
            return True
        rounding = ROUNDING * max(abs(self.champion), abs(self.mean))
        return self.gain > max(self.margin, rounding)

    @property
    def typical(self) -> int:
        """The index of the median re-training: the lower of the two middle ones, the earlier one in a tie.

        This is the model to register. The best of ``k`` is the luckiest on these particular rows: it would be worth
        less than its score, and the next challenger would have to beat that luck.

        >>> Comparison([0.3, 0.1, 0.2], None).typical
        2
        """
        order = sorted(range(len(self.losses)), key=lambda i: (self.losses[i], i))
        return order[(len(order) - 1) // 2]
