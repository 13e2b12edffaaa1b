"""What strategies share that promote trials from one level of the fidelity to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import ClassVar

from pydantic.dataclasses import dataclass

from hpo_core.base.settings import STRICT
from hpo_core.history.fidelity import Fidelity
from hpo_core.strategies.base import Strategy


@dataclass(frozen=True, config=STRICT)
class Promoting(Strategy):
    """A strategy that starts trials at low fidelities and promotes the best.

    Args:
        sampler: The strategy that chooses the configurations of the lowest rungs.
        fidelity: The study's fidelity.
    """

    chooses_fidelity: ClassVar[bool] = True
    promotes: ClassVar[bool] = True
    nested: ClassVar[Mapping[str, str | None]] = {"sampler": "random"}
    sampler: Strategy
    fidelity: Fidelity = field(default_factory=Fidelity)

    def check_several(self) -> None:
        self.sampler.check_several()

    def learns_from_prior(self) -> bool:
        return self.sampler.learns_from_prior()
