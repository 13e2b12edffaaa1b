"""Models what is expected of configurations: Gaussian processes, fitted to what a study has seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hpo_core.base.arrays import Array
from hpo_core.base.moments import LARGEST
from hpo_core.history.front import REFERENCE_TRIALS, by_standing
from hpo_core.history.history import History
from hpo_core.history.prior import comparable
from hpo_core.history.trial import Trial, TrialState
from hpo_core.numerics import pareto
from hpo_core.numerics.gaussian_process import GaussianProcess, Spread, fit
from hpo_core.numerics.transforms import Standardised
from hpo_core.space.configuration import Scalar
from hpo_core.space.cube import Cube
from hpo_core.strategies.common.costs import Costs
from hpo_core.strategies.common.feasibility import Feasibility

FITTED = 200
"""The maximum number of trials in the fit of the hyperparameters; each step costs the cube of that number."""


@dataclass(frozen=True)
class Surrogate:
    """The process of one objective, and the transformed losses ``z`` of ``n`` trials that it was fitted to."""

    z: Array
    transform: Standardised
    process: GaussianProcess
    spread: Spread


@dataclass(frozen=True)
class Surrogates:
    """The processes, one for each objective, and what they were fitted to: ``n`` trials and their rows of the cube."""

    trials: Sequence[Trial]
    X: Array
    embed: Embedding
    each: Sequence[Surrogate]
    feasibility: Feasibility
    costs: Costs

    @classmethod
    def fitted(
        cls,
        cube: Cube,
        history: History,
        transforms: Callable[[Array], Sequence[Standardised]],
        most: int,
        rng: np.random.Generator,
    ) -> Surrogates | None:
        """The processes given the history; None if fewer than two trials are complete.

        Args:
            cube: The coordinates of the space.
            history: What was seen.
            transforms: Gives the transform of each objective's losses, which have the shape ``(n, m)`` together.
            most: The maximum number of trials modelled: half of them the best, half a random choice of the rest.
            rng: What chooses.
        """
        trials, losses = _observations(history, most, rng)
        X, valid = cube.encode([trial.config for trial in trials])
        X, losses = X[valid], losses[valid]
        finished = np.isfinite(losses[:, 0])
        if finished.sum() < 2:
            return None
        scales = transforms(losses[finished])
        targets = [_targets(scale, column) for scale, column in zip(scales, losses.T, strict=True)]
        embed = Embedding(cube, trials, valid)
        F = embed(X, observed=True)
        kept = [trial for trial, ok in zip(trials, valid, strict=True) if ok]
        some = _subset(targets[0] if len(targets) == 1 else places(kept), FITTED, rng)
        active = float((~np.isnan(X)).sum(axis=1).mean())
        each: list[Surrogate] = []
        for scale, z in zip(scales, targets, strict=True):
            spread = _spread(kept, scale) if len(targets) == 1 else Spread(np.ones(len(kept)))
            hyperparameters = fit(F[some], embed.owner, z[some], active=active, spread=spread.at(some))
            process = GaussianProcess.condition(F, embed.owner, z, hyperparameters, spread.counts)
            each.append(Surrogate(z, scale, process, spread))
        feasibility = Feasibility.fitted(kept, F, embed.owner, active, some)
        costs = Costs.fitted(kept, F, embed.owner, active, some)
        return cls(kept, X, embed, each, feasibility, costs)

    @cached_property
    def feasible(self) -> Any:
        """Which trials are complete and keep the limits, shape ``(n,)``."""
        return np.array([trial.feasible and trial.state is TrialState.COMPLETE for trial in self.trials])

    def elite(self, count: int) -> Any:
        """The positions of the best trials, at most so many."""
        if len(self.each) > 1:
            return np.argsort(places(self.trials), kind="stable")[:count]
        beyond = np.array([math.inf if trial.loss is None else trial.violation for trial in self.trials])
        return np.lexsort((self.each[0].z, beyond))[:count]


@dataclass(frozen=True)
class Believing:
    """What is expected if the running trials come out as predicted.

    Args:
        fitted: The processes without the running trials.
        processes: Those with them, one for each objective.
        feasibility: The same of the limits.
        best: The lowest expected outcome of the first objective.
        free: With several objectives, what their front leaves free.
    """

    fitted: Surrogates
    processes: Sequence[GaussianProcess]
    feasibility: Feasibility
    best: float
    free: pareto.Boxes | None

    @classmethod
    def of(cls, fitted: Surrogates, running: Array) -> Believing:
        """Believe in the running trials, whose features are given."""
        processes = [surrogate.process.believing(running) for surrogate in fitted.each]
        seen = fitted.embed(fitted.X[fitted.feasible] if fitted.feasible.any() else fitted.X)
        best = float(processes[0].predict(seen)[0].min())
        free = _free(fitted.each, seen, running) if len(processes) > 1 else None
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
            for j, surrogate in enumerate(self.fitted.each):
                notes |= _expectation(surrogate.transform, mean[j], std[j], f"_{j + 1}" if j else "")
        return found


class Embedding:
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


def _observations(history: History, most: int, rng: np.random.Generator) -> tuple[list[Trial], Array]:
    """The trials to model, in order of number, and their losses, shape ``(n, m)``; infinite for failed trials."""
    ended = [*history.complete, *history.failed, *comparable(history.prior)]
    ended.sort(key=lambda trial: trial.number)
    m = max((len(trial.outcome) for trial in ended if trial.loss is not None), default=1)
    failed = (np.inf,) * m
    losses = np.array([failed if trial.loss is None else trial.outcome for trial in ended], dtype=float)
    losses = losses.reshape(len(ended), m)
    # Clamped: differences of losses near the largest float would overflow.
    losses = np.where(np.isinf(losses), losses, np.clip(losses, -LARGEST, LARGEST))
    some = _subset(losses[:, 0] if m == 1 else places(ended), most, rng)
    return [ended[i] for i in some], losses[some]


def _subset(losses: Array, most: int, rng: np.random.Generator) -> Any:
    """Sorted positions of at most ``most`` losses: half of them the lowest, half a random choice of the rest."""
    if len(losses) <= most:
        return np.arange(len(losses))
    order, half = np.argsort(losses, kind="stable"), most // 2
    return np.sort(np.concatenate([order[:half], rng.choice(order[half:], most - half, replace=False)]))


def places(trials: Sequence[Trial]) -> Array:
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


def _spread(trials: Sequence[Trial], transform: Standardised) -> Spread:
    """What the trials that are means of several losses, or of some of their folds, tell of the noise."""
    counts = np.array([trial.weight for trial in trials])
    groups = [transform.forward(np.clip(trial.observed, -LARGEST, LARGEST)) for trial in trials if trial.observed]
    squares = math.fsum(float(((z - z.mean()) ** 2).sum()) for z in groups)
    return Spread(counts, squares, sum(len(z) - 1 for z in groups))


def _free(surrogates: Sequence[Surrogate], seen: Array, running: Array) -> pareto.Boxes:
    """What the front of the expected outcomes leaves free, in the losses' own units.

    Expected outcomes instead of observed ones: a lucky trial would otherwise hide what is better than it. The region
    ends where the hypervolume begins that the study logs, at the worst of the first outcomes, or a tenth of the front's
    extent beyond its worst values. Nearer, what lies beyond the ends of the front would hardly count.
    """

    def expected(F: Array) -> Array:
        means = [each.transform.inverse(each.process.predict(F)[0]) for each in surrogates]
        return np.column_stack(means)

    losses = expected(seen)
    reference = np.maximum(pareto.reference_point(losses), losses[:REFERENCE_TRIALS].max(axis=0))
    if len(running):
        losses = np.vstack([losses, expected(running)])
    return pareto.free_boxes(losses, reference)


def _expectation(transform: Standardised, mean: float, std: float, ending: str) -> dict[str, Scalar]:
    """The surrogate's prediction for a proposal, on the scale of the losses, as notes whose names end so."""
    with np.errstate(over="ignore"):
        low, middle, high = transform.inverse(np.array([mean - std, mean, mean + std])).tolist()
    notes = {f"predicted_mean{ending}": middle, f"predicted_std{ending}": (high - low) / 2}
    # Near the largest float the inverse transform may overflow; a tag must be a finite number.
    return {name: value for name, value in notes.items() if np.isfinite(value)}
