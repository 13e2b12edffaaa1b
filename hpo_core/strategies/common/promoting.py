"""The base of strategies that promote trials from one level of the fidelity to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import ClassVar

from pydantic.dataclasses import dataclass

from hpo_core.base.settings import STRICT
from hpo_core.history.fidelity import Fidelity
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.base import Strategy, of_setting
from hpo_core.strategies.common import prior_band


@dataclass(frozen=True, config=STRICT)
class Promoting(Strategy):
    """A strategy that starts trials at low fidelities and promotes the best.

    Args:
        sampler: The strategy that chooses the configurations of the lowest rungs. If that is ``random`` and the user
            has beliefs about good values, they are chosen as PriorBand does (:mod:`.prior_band`).
        fidelity: The study's fidelity.
    """

    chooses_fidelity: ClassVar[bool] = True
    promotes: ClassVar[bool] = True
    nested: ClassVar[Mapping[str, str | None]] = {"sampler": "random"}
    sampler: Strategy
    fidelity: Fidelity = field(default_factory=Fidelity)

    def sample(self, space: SearchSpace, history: History, level: int, *, seed: int) -> list[Proposal]:
        """A new configuration for a rung at a level, given by its index; none once the space is exhausted."""
        if space.belief and self.sampler.name == "random":
            return prior_band.propose(space, history, self.fidelity, level, seed=seed)
        return self.sampler.propose(space, history, 1, seed=seed)

    @property
    def entry(self) -> float:
        return self.fidelity.levels[0]

    def check(self, space: SearchSpace) -> None:
        with of_setting("sampler"):
            self.sampler.check(space)

    def check_limits(self) -> None:
        with of_setting("sampler"):
            self.sampler.check_limits()

    def check_several(self) -> None:
        with of_setting("sampler"):
            self.sampler.check_several()

    def learns_from_prior(self) -> bool:
        return self.sampler.learns_from_prior()
