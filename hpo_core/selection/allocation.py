"""Decides which of some noisy configurations is worth training again: the one whose further loss may change the choice.

Each configuration has the mean loss of a number of trainings, whose noise has one standard deviation for all. The true
losses of those that compete, the better half, are taken as normal, so what is expected of one is shrunk towards the
others (James and Stein 1961), the more the fewer its trainings: the lowest of many single losses is mostly luck. The
leader is expected to be the best. Its challenger is the one that most probably beats it. Of the two, the one with fewer
trainings is trained, as in top-two sampling without its randomness (Russo 2020, "Simple Bayesian algorithms for
best-arm identification", doi:10.1287/opre.2019.1911).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hpo_core.base.arrays import Array
from hpo_core.base.moments import LARGEST


def expected(means: Sequence[float], counts: Sequence[int], deviation: float) -> tuple[Array, Array]:
    """What to expect of each configuration's true loss: mean and standard deviation, each of shape ``(n,)``.

    Args:
        means: The mean loss of each configuration, minimised; n >= 1.
        counts: How many losses each is the mean of, >= 1.
        deviation: The standard deviation of a single loss; NaN if unknown, and then half of what is seen is noise.

    >>> mean, std = expected([0.0, 0.1, 1.0, 1.1], [1, 9, 1, 1], 0.1)
    >>> mean.round(3), std.round(3)
    (array([0.04 , 0.085, 0.24 , 0.26 ]), array([0.045, 0.028, 0.045, 0.045]))
    """
    m, c = np.clip(np.asarray(means, dtype=float), -LARGEST, LARGEST), np.asarray(counts, dtype=float)
    # On a scale where squares neither overflow nor vanish.
    origin, known = float(m.min()), 0.0 if math.isnan(deviation) else deviation
    scale = max(float(m.max()) - origin, known)
    scale = scale if scale > 1e-150 else 1.0
    m = (m - origin) / scale
    rivals = np.sort(m)[: max(len(m) // 2, min(len(m), 2))]
    centre, spread = float(rivals.mean()), float(rivals.var()) + 1e-12
    noise = 0.5 * spread if math.isnan(deviation) else (known / scale) ** 2 + 1e-12
    variance = 1.0 / (c / noise + 1.0 / spread)
    return origin + scale * variance * (c * m / noise + centre / spread), scale * np.sqrt(variance)


def allocate(means: Sequence[float], counts: Sequence[int], deviation: float) -> int:
    """The position of the configuration to train again; see :func:`expected` for the arguments.

    Trainings that run may count already, so that the next free slot is given to another configuration.

    >>> allocate([0.50, 0.52, 0.90], [4, 1, 1], 0.05)
    1
    """
    mean, std = expected(means, counts, deviation)
    leader = int(np.argmin(mean))
    # In deviations of the difference. Ties go to the earliest.
    behind = (mean - mean[leader]) / np.hypot(std, std[leader])
    behind[leader] = math.inf
    challenger = int(np.argmin(behind))
    return leader if len(mean) == 1 or counts[leader] <= counts[challenger] else challenger
