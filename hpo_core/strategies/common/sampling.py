"""Turns points of the unit cube into feasible, new configurations; shared by all strategies."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from itertools import islice

import numpy as np
import scipy

from hpo_core.base.arrays import Array
from hpo_core.base.errors import InputError
from hpo_core.base.seeding import trial_rng
from hpo_core.history.front import by_standing
from hpo_core.history.history import History, encoded
from hpo_core.history.taken import Taken
from hpo_core.history.trial import Proposal
from hpo_core.space.configuration import Scalar, identity
from hpo_core.space.search_space import SearchSpace

ENUMERABLE = 100_000
"""The largest space that is enumerated once new configurations are hard to hit. A larger space is enumerated only if
conditions and constraints leave few configurations."""

ATTEMPTS = 1_000
"""How many points are tried before the space is enumerated."""

ATTEMPTS_ENDLESS = 200_000
"""How many points are tried in a larger space before the constraints are reported as too tight."""


def sobol(dimensions: int, seed: int, start: int, count: int) -> Array:
    """Points ``start, ..., start + count - 1`` of the scrambled Sobol sequence, shape ``(count, dimensions)``.

    Owen (1998), doi:10.1006/jcom.1998.0487, using :class:`scipy.stats.qmc.Sobol`. The sequence is a function of the
    seed, so a later call continues where an earlier one ended.
    """
    if dimensions == 0:
        return np.empty((count, 0))
    engine = scipy.stats.qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng(np.random.SeedSequence(seed)))
    if start:
        engine.fast_forward(start)
    points: Array = engine.random(count)
    return points


def sobol_from(dimensions: int, seed: int, start: int) -> Iterator[Array]:
    """The points of the scrambled Sobol sequence from ``start`` on, each of shape ``(dimensions,)``."""
    chunk = 8  # usually the first point will do; larger chunks follow only where many are rejected
    while True:
        yield from sobol(dimensions, seed, start, chunk)
        start, chunk = start + chunk, min(2 * chunk, 1024)


def uniform_from(dimensions: int, seed: int, number: int) -> Iterator[Array]:
    """Independent uniform points from one trial's random stream, each of shape ``(dimensions,)``."""
    rng = trial_rng(seed, number)
    while True:
        yield rng.random(dimensions)


FADING = 10.0
"""A belief weighs ``FADING / n`` in a model's acquisition once ``n`` trials were made (Hvarfner et al. 2022, eq. 6).

It is divided by the number of parameters that it is about: a belief about ten, all of them wrong, would otherwise
outweigh any improvement for the first fifty trials."""


COMPARED = 2
"""After the first trial, which is where the user believes the best to be, as many come from anywhere: without something
to compare it with, a wrong belief would be followed a few times before the trials could speak against it."""

EVIDENCE = 100
"""As many of the first trials are asked whether they bear a belief out; later it hardly weighs anything."""


def trust(space: SearchSpace, history: History) -> float:
    """How far the trials bear out the user's beliefs: 1 until they contradict them, near 0 once that is not chance.

    Twice the probability that as bad an agreement of the beliefs' density with the trials' standing comes about where
    neither has to do with the other (Kendall's tau, one-sided), at most 1. So a belief that says nothing right or wrong
    keeps most of its weight, and one around the worst configurations loses it in four trials or five.
    """
    ended = by_standing(trial for trial in history.complete if trial.number < EVIDENCE)
    if len(ended) < 3:  # two agree or disagree by chance
        return 1.0
    density = space.belief.log_density(encoded(space, ended))
    found = scipy.stats.kendalltau(density, -np.arange(len(ended)), alternative="less").pvalue
    return min(1.0, 2 * float(found)) if np.isfinite(found) else 1.0  # all densities are equal


def believed(space: SearchSpace, history: History, points: Iterator[Array], seed: int, number: int) -> Iterator[Array]:
    """The points for a trial: where the user believes the best to be, until that was tried; then those given.

    After :data:`COMPARED` trials, in ever fewer, ``2 / (n + 2)`` of them, the given points are draws from the user's
    beliefs. So a wrong belief costs random search about ``2 log(n / 4)`` of ``n`` trials, and fewer as soon as the
    trials speak against it.
    """
    if not (belief := space.belief):
        yield from points
        return
    yield belief.centre
    share = 2 / (number + 2) * trust(space, history) if number > COMPARED else 0.0
    follows = trial_rng(seed, number, stream=6).random() < share
    for point in points:
        yield belief.warped(point[None])[0] if follows else point


def belief_weight(space: SearchSpace, history: History) -> float:
    """How much the user's beliefs weigh in the acquisition."""
    if not space.belief:
        return 0.0
    return FADING / max(len(history.complete), 1) / len(space.beliefs) * trust(space, history)


def first_new(
    space: SearchSpace, points: Iterator[Array], taken: Container[str], rng: np.random.Generator
) -> dict[str, Scalar] | None:
    """The first configuration among the points that is feasible and not taken; None once the space is exhausted.

    Args:
        space: The search space.
        points: Endless points of the unit cube, each of shape ``(d,)``.
        taken: Identities of the configurations that must not be repeated.
        rng: Chooses among the remaining configurations once a nearly exhausted finite space is enumerated.

    Raises:
        InputError: The constraints leave almost nothing of a space too large to enumerate.
    """

    def new(config: dict[str, Scalar]) -> bool:
        return space.feasible(config) and identity(config) not in taken

    for u in islice(points, ATTEMPTS):
        if new(config := space.decode(u)):
            return config
    if space.size <= ENUMERABLE or space.few:
        left = [config for config in space.enumerate(feasible=True) if new(config)]
        return left[int(rng.integers(len(left)))] if left else None
    for u in islice(points, ATTEMPTS_ENDLESS - ATTEMPTS):
        if new(config := space.decode(u)):
            return config
    raise InputError(
        "constraints",
        f"none of {ATTEMPTS_ENDLESS} points yielded a new configuration that satisfies {list(space.constraints)}",
        "loosen them, or write them as ranges of the parameters",
    )


def new_config(
    space: SearchSpace, history: History, points: Iterator[Array], taken: Container[str], seed: int, number: int
) -> dict[str, Scalar] | None:
    """The first new configuration for a trial among the points, after the user's beliefs; see :func:`first_new`."""
    return first_new(space, believed(space, history, points, seed, number), taken, trial_rng(seed, number, stream=2))


def fill(
    space: SearchSpace, history: History, n: int, *, seed: int, points: Callable[[int], Iterator[Array]]
) -> list[Proposal]:
    """A proposal for each of the next ``n`` trials, from the points for its number."""
    taken = Taken(history)
    proposals: list[Proposal] = []
    for number in range(history.next_number, history.next_number + n):
        config = new_config(space, history, points(number), taken, seed, number)
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
    """A proposal for each of the next ``n`` trials: the model's best one that is feasible and new.

    Args:
        space: The search space.
        history: All trials so far.
        n: The number of proposals wanted.
        seed: The study's seed.
        start: How many Sobol points come before the model. They continue while fewer than two trials are complete,
            because a model then has nothing to compare.
        model: Called with the history, including the proposals just made as pending, and the trial's number. It returns
            proposals, best first. If none is feasible and new, a uniform point is used instead.
        first: Suggestions from the study's past; they replace the first Sobol points.
    """
    taken = Taken(history)
    proposals: list[Proposal] = []
    for number in range(history.next_number, history.next_number + n):
        seen = history.with_pending(proposals) if proposals else history
        starting = len(seen) < start or len(seen.complete) < 2
        ranked = iter(first) if starting or not space.dimensions else model(seen, number)
        proposal = next((p for p in ranked if p.identity not in taken and space.feasible(p.config)), None)
        if proposal is None:
            points = sobol_from if starting else uniform_from
            config = new_config(space, seen, points(space.dimensions, seed, number), taken, seed, number)
            if config is None:
                break
            proposal = Proposal(config)
        proposals.append(proposal)
        taken.add(proposal.identity)
    return proposals
