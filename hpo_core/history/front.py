"""Ranks trials, by one objective or by several, and says which of them are on the Pareto front.

With several objectives, a trial that another one *dominates* (it is at most as good in each, and worse in one) has a
higher rank; of one rank, those in less crowded places come first, as in NSGA-II (Deb et al. 2002,
doi:10.1109/4235.996017). What breaks the study's limits comes after all that keeps them, as with one objective.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from hpo_core.base.arrays import Array
from hpo_core.base.moments import LARGEST
from hpo_core.history.trial import Trial, fidelity_key
from hpo_core.numerics import pareto

REFERENCE_TRIALS = 10
"""How many complete trials, the first ones, set the reference of the hypervolume: their worst corner.

A reference that followed the front would let the hypervolume fall while the front improves. This one is known early
and then stays, so that the curve only rises, two flows agree on it, and a study that goes on does not revise it.
"""


def outcomes(trials: Sequence[Trial]) -> Array:
    """The losses of complete trials, shape ``(n, m)``; clipped, since differences near the largest float overflow."""
    losses = np.array([trial.outcome for trial in trials], dtype=float)
    return np.asarray(np.clip(losses, -LARGEST, LARGEST))


def by_standing(trials: Iterable[Trial]) -> list[Trial]:
    """Complete trials of one fidelity, best first."""
    ordered = sorted(trials, key=lambda trial: trial.standing)
    if not any(trial.losses for trial in ordered):
        return ordered
    feasible = [trial for trial in ordered if trial.feasible]
    if not feasible:
        return ordered
    losses = outcomes(feasible)
    ranks = pareto.ranks(losses)
    crowding = np.zeros(len(feasible))
    for rank in np.unique(ranks):
        crowding[ranks == rank] = pareto.crowding(losses[ranks == rank])
    order = np.lexsort((-crowding, ranks))  # stable: then as they were
    return [*(feasible[i] for i in order), *ordered[len(feasible) :]]


def best_first(trials: Iterable[Trial]) -> list[Trial]:
    """Complete trials, best first: the highest fidelity, all folds, then their standing."""
    groups: dict[tuple[float, bool], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((-fidelity_key(trial.fidelity), not trial.whole), []).append(trial)
    return [trial for _, group in sorted(groups.items()) for trial in by_standing(group)]


def front_of(trials: Iterable[Trial]) -> tuple[Trial, ...]:
    """The Pareto front of complete trials of one fidelity, in order of the first objective.

    Of trials with equal outcomes the earliest is on it. If none keeps the limits, the front is that of those that break
    them least. With one objective it is the best trial.
    """
    ordered = sorted(trials, key=lambda trial: trial.standing)
    if not ordered or not ordered[0].losses:
        return tuple(ordered[:1])
    best = [trial for trial in ordered if trial.violation == ordered[0].violation]
    unique = {trial.losses: trial for trial in reversed(best)}  # the earliest of equal ones
    best = sorted(unique.values(), key=lambda trial: trial.losses)
    on = pareto.nondominated(outcomes(best))
    return tuple(trial for trial, ok in zip(best, on, strict=True) if ok)


def compromise(front: Sequence[Trial], weights: Sequence[float] = ()) -> Trial | None:
    """The point of a front that is nearest to the ideal one, which is the best in each objective.

    Distances are shares of the front's extent in each objective, times its weight, if there are weights. The first one
    in a tie; None of an empty front.
    """
    if not front:
        return None
    losses = outcomes(front)
    extent = np.ptp(losses, axis=0)
    shares = (losses - losses.min(axis=0)) / np.where(extent > 0, extent, 1.0)
    weighed = shares * (np.array(weights) / max(weights) if weights else 1.0)
    return front[int(np.argmin((weighed**2).sum(axis=1).round(9)))]


def reference_of(complete: Sequence[Trial]) -> tuple[float, ...]:
    """The worst corner of the first :data:`REFERENCE_TRIALS` trials; empty without any, or with one objective."""
    first = [trial for trial in complete if trial.losses][:REFERENCE_TRIALS]
    return tuple(outcomes(first).max(axis=0).tolist()) if first else ()


def hypervolume_of(front: Sequence[Trial], reference: Sequence[float]) -> float:
    """The volume between a front and the reference, in the product of the metrics' units; 0 unless limits are kept."""
    if not front or not reference or not front[0].feasible:
        return 0.0
    with np.errstate(over="ignore"):
        return min(pareto.hypervolume(outcomes(front), np.array(reference)), LARGEST)


def hypervolumes(complete: Sequence[Trial], reference: Sequence[float]) -> list[float]:
    """The hypervolume after each of these trials of one fidelity, in their order."""
    front: tuple[Trial, ...] = ()
    found: list[float] = []
    for trial in complete:
        grown = front_of((*front, trial))
        found.append(found[-1] if found and grown == front else hypervolume_of(grown, reference))
        front = grown
    return found


__all__ = ["best_first", "by_standing", "compromise", "front_of", "hypervolume_of", "hypervolumes", "reference_of"]
