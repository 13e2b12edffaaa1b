"""Compares outcomes of several objectives: which are on the Pareto front, and what volume they dominate.

Notation: ``losses`` has shape ``(n, m)``: a row for each outcome, a column for each objective, minimised, no NaN. Row
``a`` *dominates* row ``b`` if it is at most ``b`` in every column and below in one. ``reference``, shape ``(m,)``, is
the worst corner of what counts: only outcomes that are below it in every column do. A *hypervolume* is the volume of
all points between the reference and any outcome, in the product of the columns' units.
"""

from __future__ import annotations

import math
import operator
from bisect import bisect_left, bisect_right

import numpy as np
import numpy.typing as npt

from hpo_core.base.arrays import Array

Boxes = tuple[Array, Array]
"""The lower and upper corners of disjoint boxes, each of shape ``(b, m)``; lower ones may be -infinity."""


def nondominated(losses: Array) -> npt.NDArray[np.bool_]:
    """Whether each outcome is on the Pareto front; shape ``(n,)``. Equal outcomes are on it together.

    >>> nondominated(np.array([[0.0, 2.0], [1.0, 1.0], [1.0, 2.0], [0.0, 2.0]]))
    array([ True,  True, False,  True])
    """
    found = np.zeros(len(losses), dtype=bool)
    left = np.lexsort(losses.T[::-1])  # nothing dominates what comes before it
    while len(left):
        best = losses[left[0]]
        equal = (losses[left] == best).all(axis=1)
        found[left[equal]] = True
        left = left[(losses[left] < best).any(axis=1)]
    return found


def ranks(losses: Array, enough: int | None = None) -> npt.NDArray[np.int_]:
    """How many fronts come before that of each outcome (Deb et al. 2002, doi:10.1109/4235.996017, section III-A).

    Front 0 is the Pareto front; front ``k`` is that of what the fronts before it leave. Once ``enough`` outcomes have
    their rank, all others share the next one.

    >>> ranks(np.array([[0.0, 2.0], [1.0, 1.0], [1.0, 2.0], [2.0, 2.0]]))
    array([0, 0, 1, 2])
    """
    found = np.zeros(len(losses), dtype=int)
    left = np.arange(len(losses))
    while len(left) and (enough is None or len(losses) - len(left) < enough):
        on = nondominated(losses[left])
        left = left[~on]
        found[left] += 1
    return found


def crowding(losses: Array) -> Array:
    """The crowding distance of each outcome among these, which are of one front; shape ``(n,)``, without a unit.

    In each objective it is the gap between the two neighbours, as a share of the range; the ends have none, and are
    infinitely far from the crowd (Deb et al. 2002, section III-B). Of equal outcomes, one counts; the others have 0.

    >>> crowding(np.array([[0.0, 4.0], [1.0, 2.0], [4.0, 0.0], [1.0, 2.0]]))
    array([inf,  2., inf,  0.])
    """
    distances = np.zeros(len(losses))
    if not len(losses):
        return distances
    different, first = np.unique(losses, axis=0, return_index=True)
    found = np.zeros(len(different))
    for column in different.T:
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        extent = ordered[-1] - ordered[0]
        found[order[[0, -1]]] = math.inf
        if 0 < extent < math.inf:
            found[order[1:-1]] += (ordered[2:] - ordered[:-2]) / extent
    distances[first] = found
    return distances


def reference_point(losses: Array) -> Array:
    """A reference a tenth of the front's extent beyond its worst values; shape ``(m,)``, in the losses' units.

    So the ends of the front add to the hypervolume, too (Ishibuchi et al. 2018, doi:10.1162/evco_a_00226). In an
    objective in which the front has no extent, that of all outcomes counts instead, and if they have none, 1.

    Raises:
        ValueError: There are no outcomes.

    >>> reference_point(np.array([[0.0, 2.0], [1.0, 1.0], [9.0, 9.0]]))
    array([1.1, 2.1])
    """
    if not len(losses):
        raise ValueError("a reference point needs outcomes")
    front = losses[nondominated(losses)]
    extent, every = np.ptp(front, axis=0), np.ptp(losses, axis=0)
    extent = np.where(extent > 0, extent, np.where(every > 0, every, 1.0))
    return np.asarray(front.max(axis=0) + 0.1 * extent)


def hypervolume(losses: Array, reference: Array) -> float:
    """The volume that the outcomes dominate, exactly.

    Slices along the last objective are products of their height and the volume of what dominates them, which has one
    objective less; two objectives make a staircase (Zitzler 2001, "Hypervolume metric calculation"). Takes
    ``O(n log n)`` for two objectives and ``O(n^2 log n)`` for three.

    >>> hypervolume(np.array([[0.0, 2.0], [1.0, 1.0], [9.0, 0.0]]), np.array([3.0, 3.0]))
    5.0
    """
    losses = losses[(losses < reference).all(axis=1)]
    if not len(losses):
        return 0.0
    if losses.shape[1] == 1:
        return float(reference[0] - losses.min())
    if losses.shape[1] == 2:
        ordered = losses[np.lexsort((losses[:, 1], losses[:, 0]))]
        tops = np.minimum.accumulate(ordered[:, 1])
        steps = -np.diff(tops, prepend=reference[1])
        rises = steps > 0
        return float(((reference[0] - ordered[rises, 0]) * steps[rises]).sum())
    ordered = losses[np.argsort(losses[:, -1], kind="stable")]
    heights = np.diff(ordered[:, -1], append=reference[-1])
    return math.fsum(heights[i] * hypervolume(ordered[: i + 1, :-1], reference[:-1]) for i in np.flatnonzero(heights))


def contributions(losses: Array, reference: Array) -> Array:
    """What the hypervolume loses without each outcome; shape ``(n,)``. What equals or is dominated by another adds 0.

    An outcome's own volume is what it dominates less what the others dominate of that (While et al. 2012,
    doi:10.1109/TEVC.2010.2077298, section III-C).

    >>> contributions(np.array([[0.0, 2.0], [1.0, 1.0], [2.0, 2.0]]), np.array([3.0, 3.0]))
    array([1., 2., 0.])
    """
    found = np.zeros(len(losses))
    for i in np.flatnonzero(nondominated(losses) & (losses < reference).all(axis=1)):
        others = np.maximum(np.delete(losses, i, axis=0), losses[i])
        others = others[nondominated(others)]
        own = np.prod(reference - losses[i])
        found[i] = max(own - hypervolume(others, reference), 0.0)
    return found


def free_boxes(losses: Array, reference: Array) -> Boxes:
    """The region below the reference that no outcome dominates, as disjoint boxes that cover it.

    Two objectives give ``n + 1`` stripes for a front of ``n`` outcomes; three give ``2 n + 1`` boxes or fewer: a sweep
    along the last objective closes the stripes that the next outcome changes, and opens two (Yang et al. 2019,
    doi:10.1007/s10898-019-00798-7, section 4).

    Args:
        losses: Of two or three objectives.
        reference: The upper corner of the region; finite.

    Returns:
        Lower and upper corners. Without outcomes, one box from -infinity to the reference.

    Raises:
        ValueError: There is another number of objectives.

    >>> lower, upper = free_boxes(np.array([[0.0, 2.0], [1.0, 1.0]]), np.array([3.0, 3.0]))
    >>> lower.tolist(), upper.tolist()
    ([[-inf, -inf], [0.0, -inf], [1.0, -inf]], [[0.0, 3.0], [1.0, 2.0], [3.0, 1.0]])
    """
    if (m := losses.shape[1]) not in (2, 3):
        raise ValueError(f"boxes are known for two and three objectives, not for {m}")
    front = losses[(losses < reference).all(axis=1)]
    front = np.unique(front[nondominated(front)], axis=0)  # ordered by the first column
    if m == 3:
        return _sweep(front, reference)
    lower = np.full((len(front) + 1, 2), -math.inf)
    lower[1:, 0] = front[:, 0]
    upper = np.column_stack([np.append(front[:, 0], reference[0]), np.append(reference[1], front[:, 1])])
    return lower, upper


def _sweep(front: Array, reference: Array) -> Boxes:
    """The free boxes of a front without dominated or equal outcomes, of three objectives.

    At each height ``z``, stripes along ``x`` say how far up the region reaches in ``y``: from ``start[i]`` to the next
    stripe's start it is ``top[i]``, and has been so since the height ``since[i]``. Tops fall from stripe to stripe.
    """
    start, top, since = [-math.inf], [float(reference[1])], [-math.inf]
    boxes: list[tuple[float, ...]] = []

    def close(i: int, left: float, z: float) -> None:
        right = start[i + 1] if i + 1 < len(start) else float(reference[0])
        if left < right and since[i] < z:
            boxes.append((left, -math.inf, since[i], right, top[i], z))

    for x, y, z in front[np.argsort(front[:, 2], kind="stable")].tolist():
        first = bisect_right(start, x) - 1
        end = bisect_left(top, -y, lo=first, key=operator.neg)  # the first stripe that is low enough already
        for i in range(first, end):
            close(i, max(start[i], x), z)
        kept = first + (start[first] < x)  # of the first stripe, what lies before the outcome stays open
        start[kept:end], top[kept:end], since[kept:end] = [x], [y], [z]
    for i in range(len(start)):
        close(i, start[i], float(reference[2]))
    corners = np.array(boxes)
    return corners[:, :3], corners[:, 3:]


def improvement(losses: Array, free: Boxes) -> Array:
    """By how much each outcome alone would increase the hypervolume; shape ``(n,)``.

    Args:
        losses: The outcomes.
        free: The region that is not dominated yet, of :func:`free_boxes`.

    >>> free = free_boxes(np.array([[1.0, 1.0]]), np.array([3.0, 3.0]))
    >>> improvement(np.array([[0.0, 2.0], [2.0, 2.0], [0.0, 0.0]]), free)
    array([1., 0., 5.])
    """
    lower, upper = free
    sides = upper[None] - np.maximum(lower[None], losses[:, None])
    return np.asarray(np.clip(sides, 0.0, None).prod(axis=2).sum(axis=1))


def select(losses: Array, reference: Array, count: int) -> list[int]:
    """The positions of outcomes that dominate much volume together, in the order of their choice.

    Each choice is the one that adds most to those before it, the earlier row in a tie; together they have at least
    63 % of the volume that is possible (Guerreiro et al. 2016, doi:10.1162/EVCO_a_00159).

    >>> select(np.array([[0.0, 2.0], [1.0, 1.0], [1.1, 0.9], [2.0, 0.0]]), np.array([3.0, 3.0]), 3)
    [1, 0, 3]
    """
    chosen: list[int] = []
    while len(chosen) < min(count, len(losses)):
        gains = improvement(losses, free_boxes(losses[chosen], reference))
        gains[chosen] = -1.0
        chosen.append(int(np.argmax(gains)))
    return chosen
