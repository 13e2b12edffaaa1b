"""Proposes by grid search: every combination of a few values per parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from functools import cache
from heapq import nlargest
from itertools import islice
from typing import ClassVar

import numpy as np
from pydantic.dataclasses import dataclass

from hpo_core.base.settings import STRICT, Count
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal
from hpo_core.space.configuration import Scalar
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.base import Strategy


@dataclass(frozen=True, config=STRICT)
class Grid(Strategy):
    """Goes through the grid in order, the last declared parameter varying fastest; done at its end.

    Where the user has beliefs about good values, the likeliest configurations come first.

    Args:
        steps: How many values each numeric parameter takes, spread evenly over its scale, ends included. A discrete
            parameter with no more values than that takes all of them, and so does every list of choices.
        steps_by_name: Overrides ``steps`` for single parameters.

    A conditional parameter multiplies the grid only where it is active, so no configuration appears twice.
    Configurations that break a constraint are skipped.
    """

    name: ClassVar[str] = "grid"
    steps: Count = 5
    steps_by_name: Mapping[str, Count] = field(default_factory=dict)

    def check(self, space: SearchSpace) -> None:
        """Refuse steps for a parameter that the space does not have."""
        if unknown := [name for name in self.steps_by_name if name not in space.parameters]:
            raise ValueError(f"steps_by_name: {unknown[0]!r} is not a parameter of the space {list(space.parameters)}")

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]:
        self.check(space)
        steps = {name: self.steps_by_name.get(name, self.steps) for name in space.parameters}
        grid = map(Proposal, space.enumerate(steps, feasible=True))
        new = (proposal for proposal in grid if proposal.identity not in history.identities)
        return nlargest(n, new, key=_likelihood(space)) if space.beliefs else list(islice(new, n))


def _likelihood(space: SearchSpace) -> Callable[[Proposal], float]:
    """The logarithm of the density of the user's beliefs at a configuration of the grid."""

    @cache  # a grid has few values and many combinations
    def of(name: str, value: Scalar) -> float:
        row = np.full((1, space.dimensions), np.nan)
        row[0, space.free.index(name)] = space.parameters[name].encode(value)
        return float(space.belief.log_density(row)[0])

    return lambda proposal: sum(of(name, value) for name, value in proposal.config.items() if name in space.beliefs)
