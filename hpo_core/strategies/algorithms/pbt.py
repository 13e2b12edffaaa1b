"""Proposes by population based training: the worst go on from a copy of the best, with other hyperparameters.

Jaderberg et al. (2017), arXiv:1711.09846: truncation selection, asynchronous.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from hpo_core.base.arrays import Array
from hpo_core.base.seeding import trial_rng
from hpo_core.base.settings import STRICT, Count, Positive
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal, Trial, TrialState
from hpo_core.space.configuration import Scalar, displayed, identity, scalar_key
from hpo_core.space.parameters import Choice, Float
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.common.batch import one_by_one
from hpo_core.strategies.common.promoting import Promoting

Half = Annotated[float, Field(gt=0, le=0.5)]
"""A number above 0 and up to a half."""

ATTEMPTS = 50
"""How many perturbations are tried until one is feasible and new."""


@dataclass(frozen=True, config=STRICT)
class Pbt(Promoting):
    """Trains a population side by side, in generations; each trial of a generation goes on from one of the last.

    Args:
        sampler: The strategy that chooses the configurations of the first generation.
        fidelity: The study's fidelity.
        population: How many trials a generation has.
        generations: Into how many equal parts a full training is divided.
        replaced: The share of a generation that is given up, one trial at least: in its place trials go on from the
            best, as large a share.
        spread: How far a parameter moves when it is perturbed: the standard deviation, as a share of its range. A
            choice is drawn anew with this probability.
        explore: The parameters that are perturbed. By default those of type float, since a network of another size
            cannot go on from a checkpoint.

    A trial that is not among the worst of its generation so far goes on with its own configuration. In the place of
    each other one, a trial goes on from the checkpoint of one of the best, with that one's configuration, perturbed.
    Nothing waits for the end of a generation, and nothing is remembered: what is due follows from the trials so far.
    """

    name: ClassVar[str] = "pbt"
    reconfigures: ClassVar[bool] = True
    population: Count = 10
    generations: Count = 10
    replaced: Half = 0.2
    spread: Positive = 0.1
    explore: list[str] | None = None

    def check(self, space: SearchSpace) -> None:
        """Refuse a space in which nothing is perturbed.

        Raises:
            ValueError: It is one; the message begins with the setting to change.
        """
        for name in self.explore or ():
            if name not in space.free:
                raise ValueError(f"explore: {name!r} is not a parameter that can change; name one of {[*space.free]}")
        if not self._explored(space):
            raise ValueError("explore: the space has no parameter of type float; name those that a training may change")
        super().check(space)

    def check_several(self) -> None:
        """Refuse several metrics.

        Raises:
            ValueError: Always.
        """
        raise ValueError("name: 'pbt' ranks a generation by one metric; choose hyperband or asha")

    @property
    def levels(self) -> tuple[float, ...]:
        """The fidelities at which generations end, ascending.

        >>> from hpo_core.history.fidelity import Fidelity
        >>> from hpo_core.strategies.algorithms.random import Random
        >>> Pbt(Random(), Fidelity("epochs", 1, 9), generations=4).levels
        (2.0, 5.0, 7.0, 9.0)
        """
        scale = self.fidelity
        parts = [scale.max * (i + 1) / self.generations for i in range(self.generations)]
        ends = [float(math.floor(part + 0.5)) if scale.whole else float(part) for part in parts]
        return tuple(dict.fromkeys(end for end in ends if end >= scale.min))

    @property
    def entry(self) -> float:
        return self.levels[0]

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]:
        return one_by_one(history, n, lambda seen: self._new(space, seen, seed) or self._next(space, seen, seed))

    def promotable(self, history: History) -> frozenset[int]:
        """The numbers of the trials that later ones may still continue: those without a successor, and the best."""
        kept: set[int] = set()
        every = self._by_generation(history)
        for generation, following in pairwise(every):
            # A trial that runs may fail, and a generation may have more trials: those of `first`, and enqueued ones.
            wanted = max(self.population, len(_alive(generation)))
            if sum(trial.loss is not None for trial in following) < wanted:
                ranked, after = _ranked(generation), {trial.identity for trial in following}
                best = ranked[: 2 * self._count(ranked)]
                kept |= {trial.number for trial in (*best, *(t for t in ranked if t.identity not in after))}
        return frozenset(kept)

    def _by_generation(self, history: History) -> list[list[Trial]]:
        levels = self.levels
        found: list[list[Trial]] = [[] for _ in levels]
        for trial in history:
            near = (i for i, level in enumerate(levels) if trial.requested_fidelity is not None
                    and math.isclose(level, trial.requested_fidelity, rel_tol=1e-6))  # fmt: skip
            if (i := next(near, None)) is not None:
                found[i].append(trial)
        return found

    def _new(self, space: SearchSpace, history: History, seed: int) -> Proposal | None:
        """A trial of the first generation, while that is not complete."""
        if len(_alive(self._by_generation(history)[0])) >= self.population:
            return None
        if not (sampled := self.sampler.propose(space, history, 1, seed=seed)):
            return None
        return Proposal(sampled[0].config, self.entry, None, {**sampled[0].notes, "generation": 0})

    def _next(self, space: SearchSpace, history: History, seed: int) -> Proposal | None:
        """A trial of the earliest generation that lacks one."""
        every = self._by_generation(history)
        for i, (generation, following) in enumerate(pairwise(every)):
            ranked = _ranked(generation)
            if len(ranked) <= len(_alive(following)):
                continue
            tried, level = {trial.identity for trial in following}, self.levels[i + 1]
            survivors = ranked[: len(ranked) - self._given_up(ranked)]
            waiting = [trial for trial in survivors if trial.identity not in tried]
            if waiting:
                return self._continued(waiting[0], i + 1, level, ranked)
            best = ranked[: self._count(ranked)]
            if (found := self._perturbed(space, best, i + 1, level, tried, history.next_number, seed)) is not None:
                return found
            if left := [trial for trial in ranked if trial.identity not in tried]:
                return self._continued(left[0], i + 1, level, ranked)
        return None

    def _given_up(self, ranked: Sequence[Trial]) -> int:
        """How many of a generation so far are given up: their share, and one at least of a whole generation."""
        share = int(self.replaced * len(ranked) + 1e-9)  # 0.29 * 100 is 28.999999999999996
        return max(share, 1) if len(ranked) >= max(self.population, 2) else share

    def _count(self, ranked: Sequence[Trial]) -> int:
        """How many of a generation count as its best."""
        return math.ceil(self.replaced * len(ranked))

    def _continued(self, trial: Trial, generation: int, level: float, ranked: Sequence[Trial]) -> Proposal:
        place = 1 + [each.number for each in ranked].index(trial.number)
        why = f"trial {trial.number} goes on, the {place}. of {len(ranked)} of its generation so far"
        return Proposal(trial.config, level, trial.number, {"generation": generation, "picked": "continue", "why": why})

    def _perturbed(
        self,
        space: SearchSpace,
        best: Sequence[Trial],
        generation: int,
        level: float,
        tried: set[str],
        number: int,
        seed: int,
    ) -> Proposal | None:
        """A trial that goes on from one of the best with other hyperparameters; None if none is feasible and new."""
        rng = trial_rng(seed, number)
        donor = best[int(rng.integers(len(best)))]
        for near in self._neighbours(space, donor, rng):
            try:
                config = space.validated(near)
            except ValueError:  # a constraint is broken, or a condition on the value of a float no longer holds
                continue
            if (tag := identity(config)) not in tried and tag != donor.identity:
                why = f"goes on from trial {donor.number}, one of the best, with {_changes(donor, config)}"
                notes: dict[str, Scalar] = {"generation": generation, "picked": "exploit", "why": why}
                return Proposal(config, level, donor.number, notes)
        return None

    def _neighbours(self, space: SearchSpace, donor: Trial, rng: np.random.Generator) -> Iterator[dict[str, Scalar]]:
        """Configurations around a trial's."""
        start: Array = space.encode(donor.config)
        explored = self._explored(space)
        for _ in range(ATTEMPTS):
            moved = np.where(np.isnan(start), rng.random(len(start)), start)
            for j, name in enumerate(space.free):
                if name not in explored:
                    continue
                if isinstance(space.parameters[name], Choice):
                    moved[j] = rng.random() if rng.random() < self.spread else moved[j]
                else:
                    moved[j] = _reflected(moved[j] + self.spread * rng.standard_normal())
            new = {name: value for name, value in space.decode(moved).items() if name in explored}
            yield {name: new.get(name, value) for name, value in {**donor.config, **new}.items()}

    def _explored(self, space: SearchSpace) -> set[str]:
        """The parameters that are perturbed."""
        if self.explore is not None:
            return set(self.explore)
        return {name for name in space.free if isinstance(space.parameters[name], Float)}


def _alive(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.state is not TrialState.FAILED]


def _ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The complete trials of a generation, best first, those that were stopped early last."""
    ended = [trial for trial in trials if trial.loss is not None]
    return sorted(ended, key=lambda trial: (trial.stopped_early, trial.standing))


def _reflected(u: float) -> float:
    """A coordinate, reflected at 0 and 1.

    >>> _reflected(1.25), _reflected(-0.25), _reflected(2.5)
    (0.75, 0.25, 0.5)
    """
    u = abs(u) % 2.0
    return 2.0 - u if u > 1.0 else u


def _changes(donor: Trial, config: dict[str, Scalar]) -> str:
    changed = [name for name in config if scalar_key(config[name]) != scalar_key(donor.config.get(name))]
    each = (f"{name} {displayed(donor.config.get(name))} -> {displayed(config[name])}" for name in changed[:4])
    return ", ".join(each) + (f" and {len(changed) - 4} more" if len(changed) > 4 else "")
