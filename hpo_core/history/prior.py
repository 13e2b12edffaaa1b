"""Holds what a study knows before its first trial: past observations, grouped by source, each on its own scale.

An observation is not a trial of the study: it has no number, is never the incumbent, and no stop rule counts it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy

from hpo_core.base import moments
from hpo_core.base.arrays import Array
from hpo_core.history.front import by_standing
from hpo_core.history.trial import Trial, TrialState
from hpo_core.numerics.transforms import YeoJohnson
from hpo_core.space.configuration import Config, identity

ALIGNMENTS = ("standardise", "rank", "none")

FOREIGN = -1


@dataclass(frozen=True)
class Observation:
    """A configuration that was evaluated outside the study.

    Args:
        config: Values of the active parameters.
        loss: Its loss, minimised, on the scale of its source; None if it failed. With several objectives, the first
            one's.
        losses: With several objectives, the loss in each; empty with one, and if it failed.
    """

    config: Config
    loss: float | None
    losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class Source:
    """Observations that can be compared with each other: those of one past study or one experiment.

    Args:
        name: For display only.
        align: How the losses relate to the study's own. ``standardise`` and ``rank``: only their shape or order
            counts, since another data set has another scale. ``none``: they are on the study's own scale.
        observations: In any order; they are sorted, best first: by loss, or of several objectives front by front.
    """

    name: str
    align: str
    observations: tuple[Observation, ...]

    def __post_init__(self) -> None:
        if self.align not in ALIGNMENTS:
            raise ValueError(f"align: {self.align!r} is not one of {', '.join(ALIGNMENTS)}")
        # Sorted by content, so that the fingerprint does not depend on the order in which MLflow returned the runs.
        ordered = sorted(
            self.observations, key=lambda o: (math.inf if o.loss is None else o.loss, o.losses, identity(o.config))
        )
        if any(each.losses for each in ordered):
            finished = [each for each in ordered if each.losses]
            fronts = by_standing(_as_trial(each, number) for number, each in enumerate(finished))
            ordered = [*(finished[trial.number] for trial in fronts), *(o for o in ordered if not o.losses)]
        object.__setattr__(self, "observations", tuple(ordered))

    @property
    def objectives(self) -> int:
        """How many losses its observations have."""
        return max((len(each.losses) for each in self.observations), default=0) or 1

    def by(self, i: int) -> Source:
        """This source as if the objective at this position were the only one."""
        if self.objectives == 1:
            return self
        alone = (replace(o, loss=o.losses[i] if o.losses else None, losses=()) for o in self.observations)
        return Source(self.name, self.align, tuple(alone))

    @cached_property
    def fingerprint(self) -> int:
        """64 bits over all that a strategy may depend on."""
        seen = [(identity(o.config), o.loss, *([o.losses] if o.losses else [])) for o in self.observations]
        facts = (self.align, seen)
        return int.from_bytes(hashlib.blake2b(repr(facts).encode(), digest_size=8).digest(), "big")

    @cached_property
    def losses(self) -> Array:
        """The losses, shape ``(n,)``, in the order of ``observations``: ascending, infinite for failures."""
        return np.array([math.inf if o.loss is None else o.loss for o in self.observations])

    @cached_property
    def aligned(self) -> Array:
        """The losses on the common scale of all sources, shape ``(n,)``; see :func:`align`."""
        return align(self.losses, self.align)


def averaged(observations: Sequence[Observation]) -> tuple[Observation, ...]:
    """One observation for each configuration: the mean loss of its trainings, or that it failed if all of them did.

    >>> seen = [Observation({"x": 1}, 2.0), Observation({"x": 2}, None), Observation({"x": 1}, 4.0)]
    >>> [(each.config, each.loss) for each in averaged(seen)]
    [({'x': 1}, 3.0), ({'x': 2}, None)]
    """
    groups: dict[str, list[Observation]] = {}
    for each in observations:
        groups.setdefault(identity(each.config), []).append(each)
    return tuple(_mean(group) for group in groups.values())


def _mean(group: Sequence[Observation]) -> Observation:
    """The mean of the observations of one configuration that did not fail."""
    finished = [each for each in group if each.loss is not None]
    loss = moments.mean([each.loss for each in finished if each.loss is not None]) if finished else None
    losses = tuple(map(moments.mean, zip(*(each.losses for each in finished), strict=True)))
    return Observation(group[0].config, loss, losses)


def align(losses: Array, how: str) -> Array:
    """Map the losses of one source, shape ``(n,)``, infinite for failures, to the common scale of all sources.

    The result has mean 0 and variance 1 after a power transform, or consists of the ranks as normal quantiles. A
    failed run counts as the worst finished one.

    >>> align(np.array([1.0, 2.0, 30.0, np.inf]), "rank").round(2)
    array([-0.97,  0.  ,  0.97,  0.97])
    """
    finished = np.isfinite(losses)
    if not finished.any():
        return np.zeros(len(losses))
    if how == "rank":
        order = np.searchsorted(np.sort(losses[finished]), losses[finished], side="left")
        ties = np.searchsorted(np.sort(losses[finished]), losses[finished], side="right")
        values = scipy.special.ndtri((order + ties) / (2.0 * finished.sum()))
    else:
        values = YeoJohnson.fit(losses[finished]).forward(losses[finished])
    result = np.full(len(losses), values.max())
    result[finished] = values
    return result


def comparable(sources: Sequence[Source]) -> list[Trial]:
    """The observations on the study's own scale, as trials that a surrogate can model.

    They have the number :data:`FOREIGN`, since they are not trials of the study.
    """
    return [_as_trial(each, FOREIGN) for source in sources if source.align == "none" for each in source.observations]


def _as_trial(observation: Observation, number: int) -> Trial:
    state = TrialState.FAILED if observation.loss is None else TrialState.COMPLETE
    return Trial(number, observation.config, state, observation.loss, losses=observation.losses)
