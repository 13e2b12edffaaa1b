"""Ranks candidates by the ratio of two Parzen densities: that of the best trials over that of the others."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from pydantic.dataclasses import dataclass

from hpo_core.base.arrays import Array
from hpo_core.base.settings import STRICT, Count, Share
from hpo_core.history.front import outcomes
from hpo_core.history.history import History
from hpo_core.history.prior import Source, comparable
from hpo_core.history.trial import Proposal, Trial, fidelity_key
from hpo_core.numerics import pareto
from hpo_core.numerics.parzen import Parzen
from hpo_core.space.cube import Cube
from hpo_core.strategies.common.costs import Costs, costs_differ
from hpo_core.strategies.common.sampling import belief_weight

LEAST_WEIGHT = 0.1
"""The least weight of a good trial, where 1 is that of the one that dominates most volume alone."""

FADE = 10.0
"""The number of trials that halves the weight of a past observation."""


MOST = 5_000
"""Of more trials, an even selection stands for those that are not among the best: its density is the same, and each
candidate is compared with every trial."""

PRICED = 200
"""How many trials tell what others cost: a process over more would take longer than all the densities."""


@dataclass(frozen=True, config=STRICT)
class DensityRatio:
    """The estimators of :class:`hpo_core.strategies.algorithms.tpe.Tpe`, which documents the settings."""

    start: Count = 10
    gamma: Share = 0.1
    most: Count = 25
    candidates: Count = 128
    narrowest: Share = 0.03
    spread: Share = 0.5
    old: Share = 1.0

    def ranked(self, cube: Cube, history: History, rng: np.random.Generator) -> Iterator[Proposal]:
        """Draws from the density of the good trials, the highest ratio first."""
        good, others = self._observations(history)
        complete, (good, others) = len(good), _selection(good, others, 2 * self.most)
        X, valid = cube.encode([trial.config for trial in (*good, *others)])
        finite = int(valid[: len(good)].sum())
        count = min(math.ceil(self.gamma * finite * (complete / max(len(good), 1))), self.most)
        kept = [trial for trial, ok in zip((*good, *others), valid, strict=True) if ok]
        X = X[valid]
        best, rest, weights = _split(kept, finite, count)
        ramp = np.ones(len(rest))
        if len(rest) > 25:
            ramp[:-25] = np.linspace(self.old, 1.0, len(rest) - 25)
        past = _past(cube, history.prior, self.gamma, self.most)
        fading = FADE / (FADE + len(kept))
        promising, ordinary = (
            Parzen(cube, np.vstack([own, old]), np.append(w, np.full(len(old), fading)), self.narrowest, self.spread)
            for own, w, old in zip((X[best], X[rest]), (weights, ramp), past, strict=True)
        )
        within = list(self._within(cube, X, _excesses(kept)))
        rows = self._drawn(cube, [promising, *(density for density, _, _ in within)], rng)
        if within:
            splits = [(promising, ordinary, len(best) / len(kept)), *within]
            scores = np.sum([_relative(*split, rows) for split in splits], axis=0)
        else:
            scores = promising.log_density(rows) - ordinary.log_density(rows)
        if belief := cube.space.belief:
            scores += belief_weight(cube.space, history) * belief.log_density(rows)
        if costs_differ(history):
            scores += self._costs(cube, kept, X, rng).log_weight(cube.features(rows)[0])
        for i in np.argsort(-scores, kind="stable"):
            yield Proposal(cube.config(rows[i]), notes={"acquisition": float(scores[i])})

    def _observations(self, history: History) -> tuple[list[Trial], list[Trial]]:
        """The trials of the highest fidelity that have a loss, and those that cannot be good."""
        fidelity, trained = self._fullest(history)
        same = comparable(history.prior)
        known = {trial.identity for trial in history.complete} if history.running else ()
        others = [
            *(trial for trial in history.running if trial.identity not in known),
            *history.failed,
            *(t for t in history.stopped_early if t.loss is not None and t.fidelity != fidelity),
        ]
        others.sort(key=lambda trial: trial.number)
        good = [*trained, *(trial for trial in same if trial.loss is not None)]
        return good, [*others, *(trial for trial in same if trial.loss is None)]

    def _drawn(self, cube: Cube, densities: Sequence[Parzen], rng: np.random.Generator) -> Array:
        """Candidates: draws from each of some densities, and from the user's beliefs."""
        rows = np.vstack([each.sample(math.ceil(self.candidates / len(densities)), rng) for each in densities])
        if belief := cube.space.belief:
            rows = np.vstack([rows, cube.snap(belief.warped(rng.random((len(rows) // 4, rows.shape[1]))))])
        return rows

    def _within(self, cube: Cube, X: Array, excess: Array) -> Iterator[tuple[Parzen, Parzen, float]]:
        """For each limit the densities of the trials that keep it and of the others, and the share of the former.

        The trials that come closest count as keeping it, too, until as many do as are good: the share ``gamma``. A
        limit that only a corner of the space keeps is otherwise learnt from one trial, or from none.

        Args:
            cube: The cube.
            X: The trials, shape ``(n, d)``.
            excess: Their excesses, shape ``(n, limits)``; infinite where a trial failed.
        """
        for column in excess.T:
            enough = min(math.ceil(self.gamma * int(np.isfinite(column).sum())), self.most)
            keeps = column <= max(0.0, float(np.sort(column)[max(enough, 1) - 1]))
            inside, outside = (
                Parzen(cube, X[rows], np.ones(int(rows.sum())), self.narrowest, self.spread) for rows in (keeps, ~keeps)
            )
            yield inside, outside, float(keeps.mean())

    def _costs(self, cube: Cube, trials: Sequence[Trial], X: Array, rng: np.random.Generator) -> Costs:
        """The costs, by at most :data:`PRICED` of the trials, whose rows of the cube are ``X``."""
        some = np.sort(rng.permutation(len(trials))[:PRICED])
        F, owner = cube.features(X[some])
        active = float((~np.isnan(X[some])).sum(axis=1).mean())
        return Costs.fitted([trials[i] for i in some], F, owner, active, np.arange(len(some)))

    def _fullest(self, history: History) -> tuple[float | None, Sequence[Trial]]:
        """The highest fidelity that enough trials have, and these trials."""
        counts = Counter([trial.fidelity for trial in history.complete])
        enough = [fidelity for fidelity, count in counts.items() if count >= self.start] or list(counts)
        chosen = max(enough, key=fidelity_key, default=None)
        alike = len(counts) < 2
        return chosen, history.complete if alike else [t for t in history.complete if t.fidelity == chosen]


def _split(trials: Sequence[Trial], finite: int, count: int) -> tuple[Any, Any, Array]:
    """The positions of the good trials and of the others, and the weights of the good ones.

    Args:
        trials: The trials, those with a loss first.
        finite: How many have one.
        count: How many are good; in a study with limits, how many of the good ones keep them.
    """
    losses = np.full(len(trials), math.inf)
    losses[:finite], weights = _scalar(trials[:finite], count)
    # Stable sorts throughout: ties keep the order of the history, so every process proposes the same.
    order = np.argsort(losses, kind="stable")
    if any(trial.excess for trial in trials):
        # The good trials reach as far down as it takes for that number of them to keep the limits.
        feasible = np.array([trials[i].loss is not None and trials[i].feasible for i in order])
        count = int(np.searchsorted(np.cumsum(feasible), min(count, int(feasible.sum())))) + 1
    best, rest = order[:count], order[count:]
    numbers = np.array([trial.number for trial in trials])
    return best, rest[np.argsort(numbers[rest], kind="stable")], weights(best)


def _excesses(trials: Sequence[Trial]) -> Array:
    """How far each trial is beyond each limit, shape ``(n, limits)``; infinite where it failed."""
    limits = sorted({name for trial in trials for name in trial.excess})
    return np.array([[trial.excess.get(name, math.inf) for name in limits] for trial in trials])


def _selection(complete: list[Trial], others: list[Trial], best: int) -> tuple[list[Trial], list[Trial]]:
    """At most about :data:`MOST` of the trials: the best ones, and an even sample of the rest."""
    every = math.ceil((len(complete) + len(others)) / MOST)
    if every < 2:
        return complete, others
    kept = np.arange(len(complete)) % every == 0
    kept[_best(complete, best)] = True
    return [trial for trial, keep in zip(complete, kept, strict=True) if keep], others[::every]


def _best(complete: Sequence[Trial], count: int) -> Any:
    """The positions of the given number of trials, those that break limits least before all others."""
    limited = any(trial.excess for trial in complete[:1])  # a study has limits or not
    violations = np.array([trial.violation for trial in complete] if limited else np.zeros(len(complete)))
    if not any(trial.losses for trial in complete[:1]):
        return np.lexsort((np.array([trial.loss for trial in complete], dtype=float), violations))[:count]
    pool = np.flatnonzero(violations == violations.min())
    losses = outcomes([complete[i] for i in pool.tolist()])
    return pool[np.argsort(pareto.ranks(losses, count), kind="stable")[:count]]


def _relative(inside: Parzen, outside: Parzen, share: float, rows: Array) -> Array:
    """The logarithm of the relative density ratio (Watanabe and Hutter 2023, arXiv:2211.14411), shape ``(q,)``.

    Unlike the plain ratio it is bounded, by ``-log(share)``: a limit that nearly all trials keep has no say.
    """
    against = outside.log_density(rows) - inside.log_density(rows)
    return -np.logaddexp(math.log(share), math.log1p(-share) + against) if share < 1 else np.zeros(len(rows))


def _scalar(trials: Sequence[Trial], count: int) -> tuple[Array, Callable[[Any], Array]]:
    """One number for each complete trial, the lower the better; and the weights of those that count as good.

    With one objective that is the loss, and all weights are 1. With several it is the place among the trials: by front,
    and in the front that the good ones divide, by how much more volume they dominate (MOTPE; Ozaki et al. 2022,
    doi:10.1613/jair.1.13188, section 4.1). Weights are then the volumes that each of the good ones dominates alone.

    Args:
        trials: The complete trials.
        count: How many of them are good.
    """
    losses = np.array([trial.outcome for trial in trials], dtype=float)
    if not len(losses) or losses.shape[1] == 1:
        return losses.reshape(len(trials)), lambda best: np.ones(len(best))
    losses = outcomes(trials)
    places = pareto.ranks(losses).astype(float)
    reference = pareto.reference_point(losses)
    divided = np.flatnonzero(places == np.sort(places)[count - 1])
    chosen = pareto.select(losses[divided], reference, count - int((places < places[divided[0]]).sum()))
    places[divided[chosen]] -= 0.5

    def volumes(best: Any) -> Array:
        alone = pareto.contributions(losses[best], reference)
        return np.maximum(alone / max(float(alone.max()), 1e-300), LEAST_WEIGHT)

    return places, volumes


def _past(cube: Cube, sources: Sequence[Source], gamma: float, most: int) -> tuple[Array, Array]:
    """The good and the other observations of sources with their own scale; each source is judged by itself."""
    good, others = [np.empty((0, len(cube.columns)))], [np.empty((0, len(cube.columns)))]
    for source in sources:
        if source.align == "none":
            continue  # these already count among the trials
        X, valid = cube.encode([observation.config for observation in source.observations])
        X, losses = X[valid], source.losses[valid]
        count = min(math.ceil(gamma * int(np.isfinite(losses).sum())), most)
        good.append(X[:count])  # a source is sorted, best first
        others.append(X[count:])
    return np.vstack(good), np.vstack(others)
