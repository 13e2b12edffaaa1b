"""Arrays of configurations agree with the space, one configuration at a time."""

from __future__ import annotations

import numpy as np
import pytest

from hpo_core.space.cube import Cube
from hpo_core.space.parameters import Boolean, Choice, Fixed, Float, Int, Ordinal
from hpo_core.space.search_space import SearchSpace

SPACE = SearchSpace(
    {
        "kind": Choice(choices=["linear", "tree", 3, None]),
        "version": Fixed(value=2),
        "rate": Float(low=1e-4, high=1.0, log=True),
        "dropout": Float(low=0.0, high=0.9, step=0.1),
        "depth": Int(low=1, high=9, when={"kind": ["tree", 3]}),
        "units": Int(low=4, high=4096, log=True),
        "width": Int(low=8, high=256, log=True, step=2, when={"depth": [1, 2, 3], "version": [2]}),
        "flag": Boolean(when={"version": [2]}),
        "never": Float(low=0.0, high=1.0, when={"version": [2], "kind": ["linear"]}),
        "size": Ordinal(choices=["s", "m", "l"]),
        "one": Int(low=5, high=5),
    }
)
CUBE = Cube(SPACE)
U = np.random.default_rng(0).random((300, SPACE.dimensions))


def test_encoding_many_is_encoding_each() -> None:
    configs = [SPACE.decode(u) for u in U]
    X, valid = CUBE.encode(configs)
    assert valid.all()
    assert np.allclose(X, [SPACE.encode(config) for config in configs], equal_nan=True, rtol=0, atol=1e-14)


def test_snapping_is_decoding_and_encoding() -> None:
    expected = [SPACE.encode(SPACE.decode(u)) for u in U]
    assert np.allclose(CUBE.snap(U), expected, equal_nan=True, rtol=0, atol=1e-9)


def test_rows_are_the_configurations_they_came_from() -> None:
    configs = [SPACE.decode(u) for u in U]
    assert [CUBE.config(x) for x in CUBE.snap(U)] == configs


@pytest.mark.parametrize(
    "change",
    [
        {"rate": 2.0},
        {"rate": "fast"},
        {"rate": True},
        {"dropout": 0.15},
        {"units": 5000},
        {"kind": "forest"},
        {"extra": 1},
        {"version": 3},
        {"size": None},
    ],
)
def test_what_is_not_of_the_space_is_told(change: dict[str, object]) -> None:
    config = SPACE.decode(U[0])
    _, valid = CUBE.encode([config, {**config, **change}])  # type: ignore[dict-item]
    assert valid.tolist() == [True, False]


def test_a_missing_and_a_superfluous_parameter_are_told() -> None:
    tree = next(c for c in map(SPACE.decode, U) if c["kind"] == "tree")
    linear = next(c for c in map(SPACE.decode, U) if c["kind"] == "linear")
    without = {name: value for name, value in tree.items() if name != "depth"}
    _, valid = CUBE.encode([without, {**linear, "depth": 3}])
    assert not valid.any()


def test_any_two_options_of_a_category_are_one_apart() -> None:
    configs = [{**SPACE.decode(U[0]), "kind": kind} for kind in ("linear", "tree", 3)]
    column = SPACE.free.index("kind")
    F, owner = CUBE.features(CUBE.snap(np.array([[(k + 0.5) / 4, *U[0][1:]] for k in range(3)])))
    mine = F[:, owner == column]
    assert ((mine[:, None] - mine) ** 2).sum(axis=2) == pytest.approx(1.0 - np.eye(3))
    assert len(configs) == 3


def test_inactive_parameters_carry_no_distance() -> None:
    a, b = U[0].copy(), U[0].copy()
    a[0] = b[0] = 0.1  # linear: no depth, no width
    for name in ("depth", "width"):
        b[SPACE.free.index(name)] = 1.0 - a[SPACE.free.index(name)]
    F, _ = CUBE.features(CUBE.snap(np.array([a, b])))
    assert (F[0] == F[1]).all()


def test_ends_of_a_discrete_range_are_zero_and_one() -> None:
    column = SPACE.free.index("dropout")
    ends = np.tile(U[0], (2, 1))
    ends[:, column] = [0.0, 1.0]
    F, owner = CUBE.features(CUBE.snap(ends))
    assert F[:, owner == column].ravel() == pytest.approx([0.0, 1.0])
