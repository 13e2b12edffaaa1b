"""What a study knows before its first trial: runs of the past, by source, each source on a scale of its own.

Nothing here is a trial of the study: it has no number, is never the incumbent, and no stop rule counts it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import ndtri

from hpo_core.configuration import Config, identity
from hpo_core.space import Array
from hpo_core.transforms import YeoJohnson
from hpo_core.trial import Trial, TrialState

ALIGNMENTS = ("standardise", "rank", "none")

FOREIGN = -1


@dataclass(frozen=True)
class Observation:
    """A configuration that was tried elsewhere.

    Args:
        config: Values of the active parameters.
        loss: What came out, minimised, on the scale of its source; None where it failed.
    """

    config: Config
    loss: float | None


@dataclass(frozen=True)
class Source:
    """Observations that compare with each other: those of one past study, or of one experiment.

    Args:
        name: For people.
        align: How the losses compare with the study's own. ``standardise`` and ``rank``: only their order and shape
            count, since another data set has another scale. ``none``: they are losses of the study's own scale.
        observations: In an order that means nothing.
    """

    name: str
    align: str
    observations: tuple[Observation, ...]

    def __post_init__(self) -> None:
        if self.align not in ALIGNMENTS:
            raise ValueError(f"align: {self.align!r} is none of {', '.join(ALIGNMENTS)}")
        ordered = sorted(self.observations, key=lambda o: (math.inf if o.loss is None else o.loss, identity(o.config)))
        object.__setattr__(self, "observations", tuple(ordered))

    @cached_property
    def fingerprint(self) -> int:
        """64 bits over all that a strategy may depend on."""
        facts = (self.align, [(identity(o.config), o.loss) for o in self.observations])
        return int.from_bytes(hashlib.blake2b(repr(facts).encode(), digest_size=8).digest(), "big")

    @cached_property
    def losses(self) -> Array:
        """The losses, shape ``(n,)``, in the order of ``observations``: ascending, infinite where one failed."""
        return np.array([math.inf if o.loss is None else o.loss for o in self.observations])

    @cached_property
    def aligned(self) -> Array:
        """The losses on a scale that all sources share, shape ``(n,)``; see :func:`align`."""
        return align(self.losses, self.align)


def align(losses: Array, how: str) -> Array:
    """Losses of one source, shape ``(n,)`` with infinities for failures, on the scale that all sources share.

    That is mean 0 and variance 1 after a power transform, or the ranks as quantiles of a normal. A failed run counts
    as the worst that came out.

    >>> align(np.array([1.0, 2.0, 30.0, np.inf]), "rank").round(2)
    array([-0.97,  0.  ,  0.97,  0.97])
    """
    finished = np.isfinite(losses)
    if not finished.any():
        return np.zeros(len(losses))
    if how == "rank":
        order = np.searchsorted(np.sort(losses[finished]), losses[finished], side="left")
        ties = np.searchsorted(np.sort(losses[finished]), losses[finished], side="right")
        values = ndtri((order + ties) / (2.0 * finished.sum()))
    else:
        values = YeoJohnson.fit(losses[finished]).forward(losses[finished])
    result = np.full(len(losses), values.max())
    result[finished] = values
    return result


def comparable(sources: Sequence[Source]) -> list[Trial]:
    """The observations whose losses are on the study's own scale, as a model may take them: like trials.

    They bear the number :data:`FOREIGN`, since they are none.
    """
    return [
        Trial(FOREIGN, o.config, TrialState.FAILED if o.loss is None else TrialState.COMPLETE, o.loss)
        for source in sources
        if source.align == "none"
        for o in source.observations
    ]
