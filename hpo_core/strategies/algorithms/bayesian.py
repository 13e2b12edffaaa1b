"""Proposes by Bayesian optimization: the configuration of highest acquisition under a Gaussian process."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain, islice
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from hpo_core.base.arrays import Array
from hpo_core.base.moments import LARGEST
from hpo_core.base.seeding import trial_rng
from hpo_core.base.settings import STRICT, Count, Positive
from hpo_core.history.front import REFERENCE_TRIALS, by_standing
from hpo_core.history.history import History
from hpo_core.history.prior import comparable
from hpo_core.history.spending import Promise
from hpo_core.history.trial import Proposal, Trial, TrialState
from hpo_core.numerics import acquisition, pareto
from hpo_core.numerics.gaussian_process import GaussianProcess, Spread, fit
from hpo_core.numerics.transforms import LogDistance, Standardised, YeoJohnson
from hpo_core.space.configuration import Scalar
from hpo_core.space.cube import Cube
from hpo_core.space.search_space import SearchSpace
from hpo_core.strategies.base import Strategy
from hpo_core.strategies.common.costs import POOL, Costs, best_promise, starts_cheap
from hpo_core.strategies.common.density_ratio import DensityRatio
from hpo_core.strategies.common.feasibility import Feasibility
from hpo_core.strategies.common.sampling import belief_weight, fill_ranked
from hpo_core.strategies.common.transfer import suggested

ELITE = 5
"""The number of best configurations to draw candidates around, and of best candidates to refine."""

FITTED = 200
"""The maximum number of trials in the fit of the hyperparameters; each step costs the cube of that number."""


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
        transform: The transform of the losses; ``alternate`` uses ``yeo_johnson`` and ``log`` in turn, by trial number.
        start: The number of scrambled Sobol points that come first.
        candidates: How many points of the cube are scored each time, besides those near the best.
        max_points: The maximum number of trials modelled: half of them the best, half a random choice of the rest.
        skill: Once repeats show that losses are noisy, every second proposal is that of ``tpe`` while the process
            explains less than this share of the variance of each loss from the other ones; 0 turns this off.

    With several objectives there is a process for each, and the acquisition is the logarithm of the expected
    improvement of the hypervolume (Yang et al. 2019; Daulton et al. 2020, arXiv:2006.05078) of the front of expected
    outcomes. It counts from a tenth of the front's extent beyond its worst values, or, while the front is narrow, from
    the worst of the first outcomes.

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
        means, _ = fitted.surrogates[0].process.predict(fitted.embed(fitted.X))
        pairs = zip(fitted.trials, means.tolist(), strict=True)
        return {trial.number: mean for trial, mean in pairs if trial.state is TrialState.COMPLETE and trial.number >= 0}

    def _fit(self, cube: Cube, history: History, number: int, rng: np.random.Generator) -> _Fitted | None:
        """The process given the history; None if fewer than two trials are complete."""
        trials, losses = self._observations(history, rng)
        X, valid = cube.encode([trial.config for trial in trials])
        X, losses = X[valid], losses[valid]
        finished = np.isfinite(losses[:, 0])
        if finished.sum() < 2:
            return None
        transforms = [self._transform(column, number) for column in losses[finished].T]
        targets = [_targets(transform, column) for transform, column in zip(transforms, losses.T, strict=True)]
        embed = _Embedding(cube, trials, valid)
        F = embed(X, observed=True)
        kept = [trial for trial, ok in zip(trials, valid, strict=True) if ok]
        some = _subset(targets[0] if len(targets) == 1 else _places(kept), FITTED, rng)
        active = float((~np.isnan(X)).sum(axis=1).mean())
        surrogates: list[_Surrogate] = []
        for transform, z in zip(transforms, targets, strict=True):
            spread = _spread(kept, transform) if len(targets) == 1 else Spread(np.ones(len(kept)))
            hyperparameters = fit(F[some], embed.owner, z[some], active=active, spread=spread.at(some))
            process = GaussianProcess.condition(F, embed.owner, z, hyperparameters, spread.counts)
            surrogates.append(_Surrogate(z, transform, process, spread))
        feasibility = Feasibility.fitted(kept, F, embed.owner, active, some)
        costs = Costs.fitted(kept, F, embed.owner, active, some)
        return _Fitted(kept, X, embed, surrogates, feasibility, costs)

    def _ranked(self, cube: Cube, history: History, number: int, rng: np.random.Generator) -> Iterator[Proposal]:
        if (fitted := self._fit(cube, history, number, rng)) is None:
            return
        first = fitted.surrogates[0]
        if first.spread.variance > NOISY and number % 2 and (skill := max(first.process.skill, 0.0)) < self.skill:
            yield from self._yielded(cube, history, skill, rng)  # what follows is asked for if none of these is new
        pending, valid = cube.encode([trial.config for trial in history.running])
        believing = _Believing.of(fitted, fitted.embed(pending[valid]))
        if self.acquisition == "thompson":
            rows, scores = self._drawn(cube, believing, rng)
        else:
            score = self._scoring(cube.space, history, believing)
            rows, scores = _search(cube, score, fitted.X[fitted.elite], self.candidates, rng)
        for block in _blocks(rows, scores, np.vstack([fitted.X, pending])):
            for i, notes in zip(block, believing.notes(rows[block]), strict=True):
                score_of = {"acquisition": float(scores[i])} if np.isfinite(scores[i]) else {}
                yield Proposal(cube.config(rows[i]), notes=notes | score_of)

    def _scoring(self, space: SearchSpace, history: History, believing: _Believing) -> Callable[[Array], Array]:
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

    def _gain(self, believing: _Believing, F: Array) -> Array:
        """The acquisition alone, of candidates with these features."""
        if believing.free is not None:
            means, stds = believing.predictions(F)
            scales = [surrogate.transform for surrogate in believing.fitted.surrogates]
            return acquisition.log_expected_hypervolume_improvement(means, self.widen * stds, believing.free, scales)
        mean, std = believing.processes[0].predict(F)
        if self.acquisition == "ucb":
            return acquisition.lower_confidence_bound(mean, std, self.kappa)
        if self.acquisition == "pi":
            return acquisition.log_probability_of_improvement(mean, self.widen * std, believing.best)
        return acquisition.log_expected_improvement(mean, self.widen * std, believing.best)

    def _drawn(self, cube: Cube, believing: _Believing, rng: np.random.Generator) -> tuple[Array, Array]:
        """Candidates and one joint draw of the process at them.

        The draw cannot be extended to further points, so there is no local search.
        """
        fitted = believing.fitted
        anywhere = rng.random((self.candidates, fitted.X.shape[1]))
        near = _near(cube, fitted.X[fitted.elite], self.candidates // ELITE + 1, rng)
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

    def _observations(self, history: History, rng: np.random.Generator) -> tuple[list[Trial], Array]:
        """The trials to model, in order of number, and their losses, shape ``(n, m)``; infinite for failed trials."""
        ended = [*history.complete, *history.failed, *comparable(history.prior)]
        ended.sort(key=lambda trial: trial.number)
        m = max((len(trial.outcome) for trial in ended if trial.loss is not None), default=1)
        failed = (np.inf,) * m
        losses = np.array([failed if trial.loss is None else trial.outcome for trial in ended], dtype=float)
        losses = losses.reshape(len(ended), m)
        # Clamped: differences of losses near the largest float would overflow.
        losses = np.where(np.isinf(losses), losses, np.clip(losses, -LARGEST, LARGEST))
        some = _subset(losses[:, 0] if m == 1 else _places(ended), self.max_points, rng)
        return [ended[i] for i in some], losses[some]

    def _transform(self, losses: Array, number: int) -> Standardised:
        use_log = self.transform == "log" or (self.transform == "alternate" and number % 2 == 1)
        return LogDistance.fit(losses) if use_log else YeoJohnson.fit(losses)


def _subset(losses: Array, most: int, rng: np.random.Generator) -> Any:
    """Sorted positions of at most ``most`` losses: half of them the lowest, half a random choice of the rest."""
    if len(losses) <= most:
        return np.arange(len(losses))
    order, half = np.argsort(losses, kind="stable"), most // 2
    return np.sort(np.concatenate([order[:half], rng.choice(order[half:], most - half, replace=False)]))


def _places(trials: Sequence[Trial]) -> Array:
    """The place of each trial, the best first, shape ``(n,)``; infinite for those that are not complete."""
    best = by_standing(trial for trial in trials if trial.state is TrialState.COMPLETE)
    places = {id(trial): float(place) for place, trial in enumerate(best)}  # past observations share a number
    return np.array([places.get(id(trial), math.inf) for trial in trials])


def _targets(transform: Standardised, losses: Array) -> Array:
    """The transformed losses; a failed trial has the worst of the others."""
    finished = np.isfinite(losses)
    z = np.full(len(losses), transform.forward(losses[finished]).max())
    z[finished] = transform.forward(losses[finished])
    return z


def _free(surrogates: Sequence[_Surrogate], seen: Array, running: Array) -> pareto.Boxes:
    """What the front of the expected outcomes leaves free, in the losses' own units.

    Expected outcomes instead of observed ones: a lucky trial would otherwise hide what is better than it. The region
    ends a tenth of the front's extent beyond its worst values; see :func:`_far_enough`.
    """

    def expected(F: Array) -> Array:
        means = [each.transform.inverse(each.process.predict(F)[0]) for each in surrogates]
        return np.column_stack(means)

    losses = expected(seen)
    reference = _far_enough(pareto.reference_point(losses), losses)
    if len(running):
        losses = np.vstack([losses, expected(running)])
    return pareto.free_boxes(losses, reference)


def _far_enough(reference: Array, losses: Array) -> Array:
    """A reference that leaves room beyond a front of a few neighbours.

    Such a front has no extent to speak of, so that nothing beyond it would ever count, and the search would stay at
    one end. As long as it covers less than half of the way from the best to the worst of the first outcomes, the region
    ends at the worst of these. Later outcomes do not count, for they gather where the search is.
    """
    worst, best = losses[:REFERENCE_TRIALS].max(axis=0), losses.min(axis=0)
    narrow = np.ptp(losses[pareto.nondominated(losses)], axis=0) < (worst - best) / 2
    return np.where(narrow, np.maximum(reference, worst), reference)


def _spread(trials: Sequence[Trial], transform: Standardised) -> Spread:
    """What the trials that are means of several losses, or of some of their folds, tell of the noise."""
    counts = np.array([trial.weight for trial in trials])
    groups = [transform.forward(np.clip(trial.observed, -LARGEST, LARGEST)) for trial in trials if trial.observed]
    squares = math.fsum(float(((z - z.mean()) ** 2).sum()) for z in groups)
    return Spread(counts, squares, sum(len(z) - 1 for z in groups))


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


@dataclasses.dataclass(frozen=True)
class _Surrogate:
    """The process of one objective, and the transformed losses ``z`` of ``n`` trials that it was fitted to."""

    z: Array
    transform: Standardised
    process: GaussianProcess
    spread: Spread


@dataclasses.dataclass(frozen=True)
class _Fitted:
    """The processes, one for each objective, and what they were fitted to: ``n`` trials and their rows of the cube."""

    trials: Sequence[Trial]
    X: Array
    embed: _Embedding
    surrogates: Sequence[_Surrogate]
    feasibility: Feasibility
    costs: Costs

    @cached_property
    def feasible(self) -> Any:
        """Which trials are complete and keep the limits, shape ``(n,)``."""
        return np.array([trial.feasible and trial.state is TrialState.COMPLETE for trial in self.trials])

    @property
    def elite(self) -> Any:
        """The positions of the best trials."""
        if len(self.surrogates) > 1:
            return np.argsort(_places(self.trials), kind="stable")[:ELITE]
        beyond = np.array([math.inf if trial.loss is None else trial.violation for trial in self.trials])
        return np.lexsort((self.surrogates[0].z, beyond))[:ELITE]


@dataclasses.dataclass(frozen=True)
class _Believing:
    """What is expected if the running trials come out as predicted.

    Args:
        fitted: The processes without the running trials.
        processes: Those with them, one for each objective.
        feasibility: The same of the limits.
        best: The lowest expected outcome of the first objective.
        free: With several objectives, what their front leaves free.
    """

    fitted: _Fitted
    processes: Sequence[GaussianProcess]
    feasibility: Feasibility
    best: float
    free: pareto.Boxes | None

    @classmethod
    def of(cls, fitted: _Fitted, running: Array) -> _Believing:
        """Believe in the running trials, whose features are given."""
        processes = [surrogate.process.believing(running) for surrogate in fitted.surrogates]
        seen = fitted.embed(fitted.X[fitted.feasible] if fitted.feasible.any() else fitted.X)
        best = float(processes[0].predict(seen)[0].min())
        free = _free(fitted.surrogates, seen, running) if len(processes) > 1 else None
        return cls(fitted, processes, fitted.feasibility.believing(running), best, free)

    def predictions(self, F: Array) -> tuple[Array, Array]:
        """The means and standard deviations of each process, of shape ``(q, m)``."""
        means, stds = zip(*(process.predict(F) for process in self.processes), strict=True)
        return np.column_stack(means), np.column_stack(stds)

    def notes(self, rows: Array) -> list[dict[str, Scalar]]:
        """What is expected of candidates and what they cost, as notes of their proposals."""
        F = self.fitted.embed(rows)
        means, stds = self.predictions(F)
        found = self.fitted.costs.notes(F)
        for notes, mean, std in zip(found, means.tolist(), stds.tolist(), strict=True):
            for j, surrogate in enumerate(self.fitted.surrogates):
                notes |= _expectation(surrogate.transform, mean[j], std[j], f"_{j + 1}" if j else "")
        return found


class _Embedding:
    """Maps rows of the cube to features of the process, plus the fidelity if trials differ in it."""

    def __init__(self, cube: Cube, trials: Sequence[Trial], valid: Any) -> None:
        self.cube = cube
        self.owner = cube.features(np.empty((0, len(cube.columns))))[1]
        self.fidelities = _log_fidelities([trial.fidelity for trial, ok in zip(trials, valid, strict=True) if ok])
        if self.fidelities is not None:
            self.owner = np.append(self.owner, len(cube.columns))

    def __call__(self, X: Array, *, observed: bool = False) -> Array:
        """Features of the rows, at their own fidelities if they are the ``observed`` ones, else at the highest."""
        F, _ = self.cube.features(X)
        if self.fidelities is None:
            return F
        return np.hstack([F, (self.fidelities if observed else np.ones(len(X)))[:, None]])


def _log_fidelities(given: Sequence[float | None]) -> Array | None:
    """The fidelities on a log scale from 0 to 1, shape ``(n,)``; None if they are all equal."""
    top = max((fidelity for fidelity in given if fidelity is not None), default=0.0)
    # A trial without a fidelity was trained to the end.
    values = np.array([top if fidelity is None else fidelity for fidelity in given], dtype=float)
    if values.min() <= 0 or values.min() == values.max():
        return None
    low = float(np.log(values.min()))
    scaled: Array = (np.log(values) - low) / (np.log(top) - low)
    return scaled


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


def _expectation(transform: Standardised, mean: float, std: float, ending: str) -> dict[str, Scalar]:
    """The surrogate's prediction for a proposal, on the scale of the losses, as notes whose names end so."""
    with np.errstate(over="ignore"):
        low, middle, high = transform.inverse(np.array([mean - std, mean, mean + std])).tolist()
    notes = {f"predicted_mean{ending}": middle, f"predicted_std{ending}": (high - low) / 2}
    # Near the largest float the inverse transform may overflow; a tag must be a finite number.
    return {name: value for name, value in notes.items() if np.isfinite(value)}
