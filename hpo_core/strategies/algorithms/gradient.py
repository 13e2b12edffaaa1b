"""Proposes by gradient descent on hyperparameters: each step is a trial whose parent is the previous step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from hpo_core.base.settings import STRICT, Count, Positive
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal, Trial, TrialState
from hpo_core.space.configuration import Scalar
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.base import Strategy, of_setting
from hpo_core.strategies.common.batch import one_by_one
from hpo_core.strategies.common.descent import Adam, Chain, Descent, Momentum, Rules, chains, is_continuous
from hpo_core.strategies.common.sampling import new_config, sobol_from

Decay = Annotated[float, Field(ge=0, lt=1)]
"""A number of at least 0 and below 1."""

MIDDLE = 0.8
"""Starts lie in this middle share of each continuous range; near its ends there is little slope to follow."""

HALVINGS = 12
"""How many step lengths are tried, each half the last, while they break a constraint or reach nothing new."""


@dataclass(frozen=True, config=STRICT)
class Gradient(Strategy):
    """Follows the hypergradients that trials log, in chains of steps from starts chosen quasi-randomly or by ``outer``.

    Args:
        optimizer: ``adam``, or ``sgd`` with momentum.
        rate: The step size in unconstrained coordinates, where a range is about 8 long.
        momentum: The momentum of ``sgd``, or the ``beta1`` of ``adam``.
        beta2: The ``beta2`` of ``adam``.
        chains: How many chains are kept active. The best one without a running trial takes the next step; if all have
            one, another chain starts.
        patience: How many trials without a gain end a chain; then another one starts.
        gain: The decrease of the loss that counts as a gain, as a share of the loss.
        outer: The strategy that chooses where chains start, and so everything without a gradient: categories, integers,
            floats with a step. It sees a chain as one trial: its start, with the best loss reached from there. None for
            a scrambled Sobol sequence.

    Three rules keep steps safe. No coordinate moves by more than an eighth of its range. A step is accepted only if its
    loss is below the highest of the last three accepted ones; after a rejected or failed step, the next one starts from
    the best point of the chain, without momentum and ``0.4`` times as long. Steps grow by ``1.3`` each time the loss
    falls, up to three times the rate. A trial without a hypergradient is a start that cannot be continued.
    """

    name: ClassVar[str] = "gradient"
    needs_hypergradient: ClassVar[bool] = True
    promotes: ClassVar[bool] = True
    reconfigures: ClassVar[bool] = True
    nested: ClassVar[Mapping[str, str | None]] = {"outer": None}
    optimizer: Literal["adam", "sgd"] = "adam"
    rate: Positive = 0.4
    momentum: Decay = 0.9
    beta2: Decay = 0.99
    chains: Count = 3
    patience: Count = 6
    gain: Decay = 1e-3
    outer: Strategy | None = None

    def check(self, space: SearchSpace) -> None:
        """Refuse a space in which nothing can follow a gradient.

        Raises:
            ValueError: The space has no continuous parameter.
        """
        if not any(map(is_continuous, space.parameters.values())):
            raise ValueError(
                "name: 'gradient' needs a parameter of type float without a step, and the space has none; "
                "choose another strategy, such as tpe"
            )
        if self.outer is not None:
            with of_setting("outer"):
                self.outer.check(space)

    def check_limits(self) -> None:
        if self.outer is not None:
            with of_setting("outer"):
                self.outer.check_limits()

    def check_several(self) -> None:
        raise ValueError(
            "name: 'gradient' follows the slope of one metric, and the study has several; choose auto, say"
        )

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]:
        return one_by_one(history, n, lambda seen: self._next(space, seen, seed))

    def promotable(self, history: History) -> frozenset[int]:
        """The numbers of the trials that later ones may still continue: the tip and the best trial of each chain."""
        return frozenset(
            trial.number
            for chain in chains(history, self._rules)
            if chain.idle < self.patience or chain.busy
            for trial in (chain.tip, chain.best)
        )

    @cached_property
    def _rules(self) -> Rules:
        return Rules(patience=self.patience, gain=self.gain)

    @cached_property
    def _descent(self) -> Descent:
        return Adam(self.momentum, self.beta2) if self.optimizer == "adam" else Momentum(self.momentum)

    def _next(self, space: SearchSpace, history: History, seed: int) -> Proposal | None:
        found = chains(history, self._rules)
        alive = [chain for chain in found if chain.alive(space, self._rules)]
        waiting = sorted(
            (chain for chain in alive if not chain.busy), key=lambda chain: (chain.best.loss, chain.start.number)
        )
        steps = (self._step(space, chain, history.identities) for chain in waiting)
        if len(alive) >= self.chains and (step := next((step for step in steps if step is not None), None)):
            return step
        return self._start(space, history, found, seed) or next((step for step in steps if step is not None), None)

    def _step(self, space: SearchSpace, chain: Chain, taken: frozenset[str]) -> Proposal | None:
        """The next step of a chain; None if it reaches no new configuration, as at a corner of the space."""
        coordinates, point, move = chain.step(space, self._descent, self.rate)
        tip = chain.tip
        for halving in range(HALVINGS):
            moved = coordinates.decode(point + move / 2**halving)
            notes: dict[str, Scalar] = {
                "chain": chain.start.number,
                "step": len(chain.path),
                "length": float(np.abs(move).max()) / 2**halving,
                "backtracks": chain.idle,
            }
            try:
                proposal = Proposal(space.validated({**tip.config, **moved}), tip.fidelity, tip.number, notes)
            except ValueError:  # a constraint is broken, or a condition on the value of a float no longer holds
                continue
            if proposal.identity not in taken:
                return proposal
        return None

    def _start(self, space: SearchSpace, history: History, found: list[Chain], seed: int) -> Proposal | None:
        number = history.next_number
        notes: dict[str, Scalar] = {"chain": number, "step": 0}
        if self.outer is None:
            middle = np.array([MIDDLE if is_continuous(space.parameters[name]) else 1.0 for name in space.free])
            points = (0.5 + middle * (u - 0.5) for u in sobol_from(space.dimensions, seed, number))
            config = new_config(space, history, points, history.identities, seed, number)
            return None if config is None else Proposal(config, notes=notes)
        seen = History(map(_as_one, found), history.next_number)
        while proposals := self.outer.propose(space, seen, 1, seed=seed):
            proposal = proposals[0]
            if proposal.identity not in history.identities:
                return replace(proposal, notes={**notes, **proposal.notes})
            # This is a later step of some chain, which the outer strategy has not seen: add it and ask again.
            known = next(trial for trial in history if trial.identity == proposal.identity)
            if known.number in {trial.number for trial in seen}:
                break
            seen = History((*seen, replace(known, parent=None)), history.next_number)
        return None


def _as_one(chain: Chain) -> Trial:
    """A chain as the outer strategy sees it: its start, with the best loss reached."""
    start = chain.start
    if start.state is not TrialState.COMPLETE:
        return start
    return replace(start, loss=chain.best.loss)
