"""Parzen estimators are densities, also on the branches of a tree, and their draws follow them."""

from __future__ import annotations

import numpy as np
import pytest

from hpo_core.base.arrays import Array
from hpo_core.numerics.parzen import Parzen
from hpo_core.space.cube import Cube
from hpo_core.space.parameters import Boolean, Choice, Float, Ordinal
from hpo_core.space.search_space import SearchSpace

LINE = Cube(SearchSpace({"x": Float(low=0.0, high=1.0)}))
TREE = Cube(
    SearchSpace(
        {
            "kind": Choice(choices=["a", "b", "c"]),
            "x": Float(low=0.0, high=1.0, when={"kind": ["a"]}),
            "y": Float(low=0.0, high=1.0, when={"kind": ["b"]}),
            "flag": Boolean(),
        }
    )
)


def parzen(cube: Cube, X: Array) -> Parzen:
    return Parzen(cube, X, np.ones(len(X)), 0.03, 1.0)


def test_without_observations_it_is_uniform() -> None:
    U = np.random.default_rng(0).random((50, 4))
    assert parzen(TREE, np.empty((0, 4))).log_density(TREE.snap(U)) == pytest.approx(0.0)


@pytest.mark.parametrize("at", [[0.5], [0.0], [1.0], [0.1, 0.9, 0.91]])
def test_the_density_of_a_line_integrates_to_one(at: list[float]) -> None:
    grid = (np.arange(20_000)[:, None] + 0.5) / 20_000
    assert np.exp(parzen(LINE, np.array(at)[:, None]).log_density(grid)).mean() == pytest.approx(1.0, abs=1e-4)


def test_the_density_of_a_tree_integrates_to_one() -> None:
    rng = np.random.default_rng(1)
    tree = parzen(TREE, TREE.snap(rng.random((9, 4))))
    # Uniform points of the cube are uniform over the tree, so the mean of the density over them is its integral.
    assert np.exp(tree.log_density(TREE.snap(rng.random((200_000, 4))))).mean() == pytest.approx(1.0, abs=0.02)


def test_draws_follow_the_density() -> None:
    line = parzen(LINE, np.array([[0.2], [0.25], [0.8]]))
    draws = line.sample(20_000, np.random.default_rng(2))[:, 0]
    grid = (np.arange(1000)[:, None] + 0.5) / 1000
    density = np.exp(line.log_density(grid))
    without_prior = (density - 0.25) / 0.75
    counts, _ = np.histogram(draws, bins=10, range=(0, 1))
    assert counts / 20_000 == pytest.approx(without_prior.reshape(10, 100).mean(axis=1) / 10, abs=0.01)


def test_draws_belong_to_the_space_and_to_all_branches() -> None:
    rng = np.random.default_rng(3)
    draws = parzen(TREE, TREE.snap(rng.random((6, 4)))).sample(400, rng)
    _, valid = TREE.encode([TREE.config(x) for x in draws])
    assert valid.all()
    assert len(np.unique(draws[:, 0])) == 3


def test_the_bandwidth_does_not_collapse() -> None:
    same = np.full((500, 1), 0.4)
    assert parzen(LINE, same).bandwidths[0] >= 0.03
    ordinal = Cube(SearchSpace({"size": Ordinal(choices=["s", "m", "l"])}))
    assert parzen(ordinal, np.full((500, 1), 0.5)).bandwidths[0] >= 1 / 6


def test_more_observations_narrow_the_bandwidth() -> None:
    rng = np.random.default_rng(4)
    few, many = (parzen(LINE, rng.normal(0.5, 0.1, (n, 1))).bandwidths[0] for n in (5, 500))
    assert many < few


def test_more_observations_leave_their_category_less() -> None:
    few, many = (
        np.mean(parzen(TREE, TREE.snap(np.tile([0.1, 0.2, 0.5, 0.2], (n, 1)))).sample(2_000, rng)[:, 0] > 0.3)
        for n, rng in ((3, np.random.default_rng(5)), (39, np.random.default_rng(6)))
    )
    assert few == pytest.approx(1 / 4, abs=0.04)
    assert many == pytest.approx(1 / 40, abs=0.015)


def test_a_branch_that_was_not_seen_has_the_uniform_density() -> None:
    X = TREE.snap(np.array([[0.1, 0.2, 0.5, 0.2], [0.1, 0.25, 0.5, 0.2]]))
    rows = TREE.snap(np.array([[0.5, 0.5, v, 0.2] for v in (0.1, 0.5, 0.9)]))
    logs = parzen(TREE, X).log_density(rows)
    assert logs == pytest.approx(logs[0])


def test_weights_shift_the_mass() -> None:
    X = np.array([[0.2], [0.8]])
    logs = Parzen(LINE, X, np.array([1.0, 3.0]), 0.03, 1.0).log_density(X)
    assert logs[1] > logs[0]
