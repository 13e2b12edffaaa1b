"""Proposes by Bayesian optimization: the configuration of highest acquisition under a Gaussian process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from hpo_core.base.arrays import Array
from hpo_core.base.seeding import trial_rng
from hpo_core.base.settings import STRICT, Count, Positive
from hpo_core.history.history import History
from hpo_core.history.spending import Promise
from hpo_core.history.trial import Proposal, TrialState
from hpo_core.numerics import acquisition
from hpo_core.numerics.transforms import LogDistance, Standardised, YeoJohnson
from hpo_core.space.cube import Cube
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.base import Strategy
from hpo_core.strategies.common.costs import POOL, best_promise, starts_cheap
from hpo_core.strategies.common.density_ratio import DensityRatio
from hpo_core.strategies.common.sampling import belief_weight, fill_ranked
from hpo_core.strategies.common.surrogates import Believing, Surrogates
from hpo_core.strategies.common.transfer import suggested

ELITE = 5
"""The number of best configurations to draw candidates around, and of best candidates to refine."""

NOISY = 0.03
"""Noise is taken seriously above this variance, where the losses have 1. With less, a process that predicts badly has
seen too few trials, and measured better alone (``docs/decisions/0004-bayesian.md``)."""

BLOCK = 32
"""How many candidates are predicted at once, until one is new and feasible; usually the first is."""


@dataclass(frozen=True, config=STRICT)
class Bayesian(Strategy):
    """Proposes the candidate with the highest acquisition under a Matern-5/2 Gaussian process.

    Args:
        acquisition: ``log_ei``, ``ucb``, ``pi`` or ``thompson``.
        kappa: How many standard deviations ``ucb`` looks below the mean.
        widen: The factor on standard deviations in ``log_ei`` and ``pi``. The process treats its fitted hyperparameters
            as certain and therefore understates its uncertainty in unexplored regions.
        transform: The transform of the losses; ``alternate`` uses ``yeo_johnson`` and ``log`` in turn, by trial number,
            and with several objectives ``yeo_johnson`` alone.
        start: The number of scrambled Sobol points that come first.
        candidates: How many points of the cube are scored each time, besides those near the best.
        max_points: The maximum number of trials modelled: half of them the best, half a random choice of the rest.
        skill: Once repeats show that losses are noisy, every second proposal is that of ``tpe`` while the process
            explains less than this share of the variance of each loss from the other ones; 0 turns this off.

    With several objectives there is a process for each, and the acquisition is the logarithm of the expected
    improvement of the hypervolume (Yang et al. 2019; Daulton et al. 2020, arXiv:2006.05078) of the front of expected
    outcomes. It counts from the worst of the first outcomes, as the study's metric ``hypervolume`` does, and at least
    from a tenth of the front's extent beyond its worst values.

    In a study with limits, the logarithm of the probability that a candidate keeps them is added to the acquisition
    (Gardner et al. 2014); until one trial keeps them, that probability is all that counts.

    Where trials have costs, an improvement counts for less the more the candidate is expected to cost, and the first
    points are cheap ones that lie far from each other; ``thompson`` weighs no costs.

    What the user believes about good values (``prior``) is added as a logarithm, with a weight that fades (pi-BO).

    A failed trial counts as the worst loss seen, so its neighbourhood is avoided; a running one is assumed to come out
    as predicted. Trials of several fidelities are modelled together, with the fidelity as one more coordinate, and
    candidates are scored at the highest. Trials whose configuration does not belong to the space are ignored. Past
    observations on the study's own scale are modelled like its trials; all past observations suggest the first ones.
    """

    name: ClassVar[str] = "bayesian"
    uses_prior: ClassVar[bool] = True
    acquisition: Literal["log_ei", "ucb", "pi", "thompson"] = "log_ei"
    kappa: Annotated[float, Field(ge=0)] = 2.0
    widen: Positive = 2.0
    transform: Literal["alternate", "yeo_johnson", "log"] = "alternate"
    start: Count = 6
    candidates: Count = 500
    max_points: Annotated[int, Field(ge=10)] = 500
    skill: Annotated[float, Field(ge=0, le=1)] = 0.75

    def check_several(self) -> None:
        if self.acquisition != "log_ei":
            raise ValueError(
                f"acquisition: {self.acquisition!r} compares one metric, and the study has several; choose log_ei"
            )

    def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> list[Proposal]:
        cube, first = Cube(space), suggested(space, history.prior)

        def model(seen: History, number: int) -> Iterator[Proposal]:
            rng = trial_rng(seed, number, stream=3)
            if len(seen) >= self.start:
                return self._ranked(cube, seen, number, rng)
            return chain(first, self._cheap(cube, seen, number, rng))

        # As soon as costs are seen to differ, they choose the first points instead of the Sobol sequence.
        start = min(2, self.start) if starts_cheap(history) else self.start
        return fill_ranked(space, history, n, seed=seed, start=start, model=model, first=first)

    def expected(self, space: SearchSpace, history: History, *, seed: int) -> dict[int, float]:
        """What the process expects of complete trials, trained to the highest fidelity, by number.

        The smoothed losses are less lucky than those that were seen. They are on a scale of their own: only their order
        means something. Empty if there is nothing to model; of very long studies only the better half is there.
        """
        cube = Cube(space)
        if not space.dimensions or (fitted := self._fit(cube, history, 0, trial_rng(seed, 0, stream=5))) is None:
            return {}
        means, _ = fitted.each[0].process.predict(fitted.embed(fitted.X))
        pairs = zip(fitted.trials, means.tolist(), strict=True)
        return {trial.number: mean for trial, mean in pairs if trial.state is TrialState.COMPLETE and trial.number >= 0}

    def _fit(self, cube: Cube, history: History, number: int, rng: np.random.Generator) -> Surrogates | None:
        """The processes given the history; None if fewer than two trials are complete."""
        return Surrogates.fitted(cube, history, lambda losses: self._transforms(losses, number), self.max_points, rng)

    def _ranked(self, cube: Cube, history: History, number: int, rng: np.random.Generator) -> Iterator[Proposal]:
        if (fitted := self._fit(cube, history, number, rng)) is None:
            return
        first = fitted.each[0]
        if first.spread.variance > NOISY and number % 2 and (skill := max(first.process.skill, 0.0)) < self.skill:
            yield from self._yielded(cube, history, skill, rng)  # what follows is asked for if none of these is new
        pending, valid = cube.encode([trial.config for trial in history.running])
        believing = Believing.of(fitted, fitted.embed(pending[valid]))
        if self.acquisition == "thompson":
            rows, scores = self._drawn(cube, believing, rng)
        else:
            score = self._scoring(cube.space, history, believing)
            rows, scores = _search(cube, score, fitted.X[fitted.elite(ELITE)], self.candidates, rng)
        for block in _blocks(rows, scores, np.vstack([fitted.X, pending])):
            for i, notes in zip(block, believing.notes(rows[block]), strict=True):
                score_of = {"acquisition": float(scores[i])} if np.isfinite(scores[i]) else {}
                yield Proposal(cube.config(rows[i]), notes=notes | score_of)

    def _scoring(self, space: SearchSpace, history: History, believing: Believing) -> Callable[[Array], Array]:
        """The acquisition of rows of the cube, with what limits, costs and the user's beliefs add to it."""
        weight, costs = belief_weight(space, history), believing.fitted.costs

        def score(rows: Array) -> Array:
            F = believing.fitted.embed(rows)
            within = believing.feasibility.log_probability(F) + costs.log_weight(F)
            if space.belief:
                within = within + weight * space.belief.log_density(rows)
            # Until something keeps the limits, there is nothing to improve on.
            return within + self._gain(believing, F) if believing.fitted.feasible.any() else within

        return score

    def _gain(self, believing: Believing, F: Array) -> Array:
        """The acquisition alone, of candidates with these features."""
        if believing.free is not None:
            means, stds = believing.predictions(F)
            scales = [surrogate.transform for surrogate in believing.fitted.each]
            return acquisition.log_expected_hypervolume_improvement(means, self.widen * stds, believing.free, scales)
        mean, std = believing.processes[0].predict(F)
        if self.acquisition == "ucb":
            return acquisition.lower_confidence_bound(mean, std, self.kappa)
        if self.acquisition == "pi":
            return acquisition.log_probability_of_improvement(mean, self.widen * std, believing.best)
        return acquisition.log_expected_improvement(mean, self.widen * std, believing.best)

    def _drawn(self, cube: Cube, believing: Believing, rng: np.random.Generator) -> tuple[Array, Array]:
        """Candidates and one joint draw of the process at them.

        The draw cannot be extended to further points, so there is no local search.
        """
        fitted = believing.fitted
        anywhere = rng.random((self.candidates, fitted.X.shape[1]))
        near = _near(cube, fitted.X[fitted.elite(ELITE)], self.candidates // ELITE + 1, rng)
        rows = cube.snap(np.vstack([anywhere, near]))
        F = fitted.embed(rows)
        return rows, -believing.processes[0].sample(F, rng) + believing.feasibility.log_probability(F)

    def _cheap(self, cube: Cube, history: History, number: int, rng: np.random.Generator) -> Iterator[Proposal]:
        """Configurations for a start: the cheap ones that are far from those that were tried come first."""
        fitted, belief = self._fit(cube, history, number, rng), cube.space.belief
        if fitted is None:
            return
        points = rng.random((POOL, fitted.X.shape[1]))
        rows = cube.snap(np.vstack([points, belief.warped(points)]) if belief else points)
        pending, valid = cube.encode([trial.config for trial in history.running])
        F, tried = fitted.embed(rows), fitted.embed(np.vstack([fitted.X, pending[valid]]))
        notes = fitted.costs.notes(F)
        yield from (Proposal(cube.config(rows[i]), notes=notes[i]) for i in fitted.costs.cheap(F, tried))

    def promise(self, space: SearchSpace, history: History, *, seed: int) -> Promise | None:
        """What the best next trial is expected to gain for its cost; None while too little is known to say so.

        Both transforms of the losses are asked, and the more hopeful one counts.
        """
        best = history.incumbent
        if len(history.complete) < 2 * self.start or best is None or best.loss is None or not best.feasible:
            return None
        cube, asked = Cube(space), [(number, trial_rng(seed, number, stream=7)) for number in (0, 1)]
        candidates = (islice(self._ranked(cube, history, number, rng), BLOCK) for number, rng in asked)
        return best_promise(chain.from_iterable(candidates), best.loss, self.widen)

    def _yielded(self, cube: Cube, history: History, skill: float, rng: np.random.Generator) -> Iterator[Proposal]:
        """The proposals of the Parzen estimators, with the reason that it is their turn."""
        why = (
            f"losses are noisy, and a Gaussian process explains {skill:.0%} of them by the others, not {self.skill:.0%}"
        )
        for proposal in DensityRatio().ranked(cube, history, rng):
            yield replace(proposal, notes={"picked": "tpe", "why": why, **proposal.notes})

    def _transforms(self, losses: Array, number: int) -> list[Standardised]:
        """The transform of each objective's losses, which have the shape ``(n, m)`` together."""
        turn = self.transform == "alternate" and losses.shape[1] == 1 and number % 2 == 1
        kind = LogDistance if turn or self.transform == "log" else YeoJohnson
        return [kind.fit(column) for column in losses.T]


def _blocks(rows: Array, scores: Array, taken: Array) -> Iterator[list[int]]:
    """The positions of different rows that are not taken, by falling score, in blocks that are predicted at once."""
    seen, keys, order = set(_keys(taken)), _keys(rows), list[int]()
    for i in np.argsort(-scores, kind="stable").tolist():
        if keys[i] not in seen:
            seen.add(keys[i])
            order.append(i)
    return (order[i : i + BLOCK] for i in range(0, len(order), BLOCK))


def _keys(rows: Array) -> list[bytes]:
    # Coordinates of equal values differ by rounding only, and no two NaN need have equal bytes.
    return [row.tobytes() for row in np.where(np.isnan(rows), -1.0, np.round(rows, 9)) + 0.0]


def _near(cube: Cube, centres: Array, count: int, rng: np.random.Generator, widest: float = 0.3) -> Array:
    """Points around configurations, ``count`` for each: a few coordinates move, by steps of all sizes.

    Categories are redrawn; the step of a discrete value is scaled to at least one cell. Inactive coordinates are drawn
    uniformly, because they matter once the parameter that activates them has moved.
    """
    d = centres.shape[1]
    U = np.repeat(centres, count, axis=0)
    blank = np.isnan(U)
    U[blank] = rng.random(int(blank.sum()))
    moves = rng.random(U.shape) < rng.choice([1.0 / d, 2.0 / d, 0.5, 1.0], len(U))[:, None]
    moves[np.arange(len(U)), rng.integers(d, size=len(U))] = True
    width = np.exp(rng.uniform(np.log(1e-3), np.log(widest), len(U)))[:, None]
    step = np.maximum(width, 1.0 / cube.levels)
    moved = np.clip(U + step * rng.standard_normal(U.shape), 0.0, 1.0)
    moved = np.where(cube.categories > 0, rng.random(U.shape), moved)
    return np.where(moves, moved, U)


def _search(
    cube: Cube, score: Callable[[Array], Array], elite: Array, count: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Snapped candidates and their scores: anywhere, around the elite, then around the best of both."""
    anywhere = rng.random((count, elite.shape[1]))
    if cube.space.belief:
        anywhere = np.vstack([anywhere, cube.space.belief.warped(rng.random((count // 2, elite.shape[1])))])
    rows = cube.snap(np.vstack([anywhere, _near(cube, elite, count // 5 + 1, rng)]))
    scores = score(rows)
    for widest in (0.2, 0.1, 0.05):
        top = np.argsort(-scores, kind="stable")[:ELITE]
        more = cube.snap(_near(cube, rows[top], count // 10 + 1, rng, widest))
        rows, scores = np.vstack([rows, more]), np.concatenate([scores, score(more)])
    return rows, scores
