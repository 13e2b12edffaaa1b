"""How every strategy turns points of the cube into a configuration that is feasible and new."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from itertools import islice

import numpy as np
from scipy.stats import qmc

from hpo_core.configuration import Scalar, identity
from hpo_core.errors import InputError
from hpo_core.history import History
from hpo_core.seeding import trial_rng
from hpo_core.space import Array, SearchSpace
from hpo_core.trial import Proposal

ENUMERABLE = 100_000
"""The largest finite space of which the rest is written out once new configurations are hard to hit."""

ATTEMPTS = 1_000
"""How many points are tried before that."""

ATTEMPTS_ENDLESS = 200_000
"""How many points are tried in a larger space before the constraints are said to leave too little."""


def sobol(dimensions: int, seed: int, start: int, count: int) -> Array:
    """Points ``start, ..., start + count - 1`` of the scrambled Sobol sequence, shape ``(count, dimensions)``.

    Owen (1998), doi:10.1006/jcom.1998.0487, by way of :class:`scipy.stats.qmc.Sobol`. The sequence is a function of
    the seed, so a later call goes on where an earlier one ended.
    """
    if dimensions == 0:
        return np.empty((count, 0))
    engine = qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(np.random.SeedSequence(seed)))
    if start:
        engine.fast_forward(start)
    points: Array = engine.random(count)
    return points


def sobol_from(dimensions: int, seed: int, start: int) -> Iterator[Array]:
    """The points of the scrambled Sobol sequence from ``start`` on, each of shape ``(dimensions,)``."""
    chunk = 8
    while True:
        yield from sobol(dimensions, seed, start, chunk)
        start, chunk = start + chunk, min(2 * chunk, 1024)


def uniform_from(dimensions: int, seed: int, number: int) -> Iterator[Array]:
    """Independent uniform points from the stream of one trial, each of shape ``(dimensions,)``."""
    rng = trial_rng(seed, number)
    while True:
        yield rng.random(dimensions)


def first_new(
    space: SearchSpace, points: Iterator[Array], taken: Container[str], rng: np.random.Generator
) -> dict[str, Scalar] | None:
    """The first of the points whose configuration is feasible and not taken; None once the space is exhausted.

    Args:
        space: The search space.
        points: Endless points of the unit cube, each of shape ``(d,)``.
        taken: Identities of the configurations that may not come again.
        rng: Chooses among what is left, once a finite space is so nearly used up that it has to be written out.

    Raises:
        InputError: The constraints leave next to nothing of a space too large to be written out.
    """
    finite = space.size <= ENUMERABLE
    for u in islice(points, ATTEMPTS if finite else ATTEMPTS_ENDLESS):
        config = space.decode(u)
        if space.feasible(config) and identity(config) not in taken:
            return config
    if not finite:
        raise InputError(
            "constraints",
            f"none of {ATTEMPTS_ENDLESS} points gave a new configuration that satisfies {list(space.constraints)}",
            "loosen them, or write them as ranges of the parameters",
        )
    left = [config for config in space.enumerate() if space.feasible(config) and identity(config) not in taken]
    return left[int(rng.integers(len(left)))] if left else None


def fill(
    space: SearchSpace, history: History, n: int, *, seed: int, points: Callable[[int], Iterator[Array]]
) -> list[Proposal]:
    """A proposal for each of the next ``n`` trials, from the points that belong to its number."""
    taken = set(history.identities)
    proposals: list[Proposal] = []
    for number in range(history.next_number, history.next_number + n):
        config = first_new(space, points(number), taken, trial_rng(seed, number, stream=2))
        if config is None:
            break
        proposals.append(Proposal(config))
        taken.add(proposals[-1].identity)
    return proposals


def fill_ranked(
    space: SearchSpace,
    history: History,
    n: int,
    *,
    seed: int,
    start: int,
    model: Callable[[History, int], Iterator[Proposal]],
    first: Sequence[Proposal] = (),
) -> list[Proposal]:
    """A proposal for each of the next ``n`` trials: the first of a model's that is feasible and new.

    Args:
        space: The search space.
        history: All trials so far.
        n: How many proposals are wanted.
        seed: The study's seed.
        start: How many points of a Sobol sequence come before the model is asked; it goes on while fewer than two
            trials are complete, as there is nothing to compare.
        model: Given the history, with what was just proposed in it as pending, and the number of the trial: proposals,
            best first. Where none of them will do, a uniform point takes their place.
        first: What the past of the study suggests; it takes the place of the sequence's first points.
    """
    taken = set(history.identities)
    proposals: list[Proposal] = []
    for number in range(history.next_number, history.next_number + n):
        seen = history.with_pending(proposals) if proposals else history
        starting = len(seen) < start or len(seen.complete) < 2
        ranked = iter(first) if starting or not space.dimensions else model(seen, number)
        proposal = next((p for p in ranked if p.identity not in taken and space.feasible(p.config)), None)
        if proposal is None:
            points = sobol_from if starting else uniform_from
            config = first_new(space, points(space.dimensions, seed, number), taken, trial_rng(seed, number, stream=2))
            if config is None:
                break
            proposal = Proposal(config)
        proposals.append(proposal)
        taken.add(proposal.identity)
    return proposals
