"""Fronts, ranks and volumes against their definitions, on grids with many ties and equal outcomes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo_core.base.arrays import Array
from hpo_core.numerics import pareto

SIDE = 6  # of the grid; losses lie on its lines, so the volume is a number of cells


@st.composite
def outcomes(draw: st.DrawFn, largest: int = SIDE + 1, objectives: tuple[int, ...] = (2, 3)) -> Array:
    m = draw(st.sampled_from(objectives))
    row = st.tuples(*[st.integers(0, largest)] * m)
    return np.array(draw(st.lists(row, max_size=10)), dtype=float).reshape(-1, m)


def corner(losses: Array) -> Array:
    return np.full(losses.shape[1], float(SIDE))


def cells(m: int) -> Array:
    """The middles of all cells of the grid below the reference."""
    return np.array(list(itertools.product(range(SIDE), repeat=m))) + 0.5


def dominated(losses: Array) -> int:
    """How many cells the outcomes dominate."""
    points = cells(losses.shape[1])
    return int(sum((losses <= point).all(axis=1).any() for point in points))


def beats(a: Array, b: Array) -> bool:
    return bool((a <= b).all() and (a < b).any())


@given(outcomes(objectives=(1, 2, 3, 4)))
def test_the_front_is_what_nothing_dominates_and_ranks_count_fronts(losses: Array) -> None:
    assert pareto.nondominated(losses).tolist() == [not any(beats(a, b) for a in losses) for b in losses]
    # The rank is the length of the longest chain of outcomes of which each dominates the next.
    chain = {}
    for i in np.lexsort(losses.T[::-1]):
        chain[i] = 1 + max((chain[j] for j in chain if beats(losses[j], losses[i])), default=-1)
    assert pareto.ranks(losses).tolist() == [chain[i] for i in range(len(losses))]


@given(outcomes(objectives=(1, 2, 3)))
def test_the_hypervolume_counts_the_cells_that_are_dominated(losses: Array) -> None:
    assert pareto.hypervolume(losses, corner(losses)) == dominated(losses)


@given(outcomes(objectives=(1, 2, 3)))
def test_a_contribution_is_what_the_volume_loses(losses: Array) -> None:
    lost = [dominated(losses) - dominated(np.delete(losses, i, axis=0)) for i in range(len(losses))]
    assert pareto.contributions(losses, corner(losses)).tolist() == lost


@given(outcomes())
def test_the_free_boxes_cover_what_is_not_dominated_once(losses: Array) -> None:
    lower, upper = pareto.free_boxes(losses, corner(losses))
    assert (lower < upper).all()
    assert len(lower) <= 1 + (losses.shape[1] - 1) * len(losses)
    for point in np.vstack([cells(losses.shape[1]), cells(losses.shape[1]) - SIDE]):
        inside = ((lower < point) & (point < upper)).all(axis=1).sum()
        assert inside == (not (losses <= point).all(axis=1).any())


@given(outcomes(), outcomes())
def test_an_improvement_is_what_the_volume_gains(losses: Array, new: Array) -> None:
    if losses.shape[1] == new.shape[1]:
        reference = corner(losses)
        before = pareto.hypervolume(losses, reference)
        gains = [pareto.hypervolume(np.vstack([losses, each]), reference) - before for each in new]
        assert pareto.improvement(new, pareto.free_boxes(losses, reference)).tolist() == gains


@given(outcomes(), st.integers(0, 4))
def test_each_choice_adds_most_to_those_before(losses: Array, count: int) -> None:
    reference = corner(losses)
    chosen = pareto.select(losses, reference, count)
    assert len(set(chosen)) == len(chosen) == min(count, len(losses))
    for k, choice in enumerate(chosen):
        left = [i for i in range(len(losses)) if i not in chosen[:k]]
        together = [pareto.hypervolume(losses[[*chosen[:k], i]], reference) for i in left]
        assert choice == left[int(np.argmax(together))]


@given(outcomes())
def test_the_ends_and_gaps_of_a_front_are_not_crowded(losses: Array) -> None:
    distances = pareto.crowding(losses)
    assert (distances >= 0).all()
    for column in losses.T:
        if len(column):
            assert math.inf in distances[column == column.min()] and math.inf in distances[column == column.max()]


def test_a_hundred_outcomes_of_three_objectives() -> None:
    rng = np.random.default_rng(0)
    sphere = np.abs(rng.normal(size=(100, 3)))
    losses = sphere / np.linalg.norm(sphere, axis=1, keepdims=True)
    reference = np.full(3, 1.1)
    lower, upper = pareto.free_boxes(losses, reference)
    assert len(lower) == 201
    volume = pareto.hypervolume(losses, reference)
    # Within [0, 1.1]^3, free and dominated are all there is; what is below 0 is free.
    free = (upper - np.maximum(lower, 0.0)).clip(0).prod(axis=1).sum()
    assert volume + free == pytest.approx(1.1**3)
    assert volume < 1.1**3 - math.pi / 6
    added = [volume - pareto.hypervolume(np.delete(losses, i, axis=0), reference) for i in range(100)]
    assert pareto.contributions(losses, reference) == pytest.approx(added, abs=1e-12)


def test_what_is_infinitely_bad_counts_for_nothing() -> None:
    losses = np.array([[0.0, math.inf], [1.0, 1.0], [math.inf, 0.0]])
    reference = np.array([3.0, 3.0])
    assert pareto.nondominated(losses).all()
    assert pareto.hypervolume(losses, reference) == 4.0
    assert pareto.contributions(losses, reference).tolist() == [0.0, 4.0, 0.0]
    assert pareto.select(losses, reference, 2) == [1, 0]


def test_a_reference_lies_beyond_the_front() -> None:
    assert pareto.reference_point(np.array([[2.0, 5.0], [2.0, 5.0]])).tolist() == [2.1, 5.1]
    assert pareto.reference_point(np.array([[2.0, 5.0], [12.0, 15.0]])).tolist() == [3.0, 6.0]
    with pytest.raises(ValueError, match="needs outcomes"):
        pareto.reference_point(np.empty((0, 2)))


def test_boxes_are_known_for_two_and_three_objectives() -> None:
    with pytest.raises(ValueError, match="not for 4"):
        pareto.free_boxes(np.ones((1, 4)), np.full(4, 2.0))
