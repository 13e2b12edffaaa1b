"""Which rows an objective sees in which phase."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpo_core.selection.evaluation import Fold
from hpo_flows.objectives.splits import split

LABELS = np.repeat([0, 1, 2], [60, 30, 10])
GROUPS = np.arange(100) // 4
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stratified": {"stratify": LABELS},
    "grouped": {"groups": GROUPS},
    "stratified and grouped": {"stratify": LABELS, "groups": GROUPS},
    "in order": {"shuffle": False},
    "given test rows": {"test": range(80, 100)},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_test_rows_are_seen_by_the_test_alone(way: dict[str, Any]) -> None:
    development, test = split(100, phase="test", **way)
    assert sorted([*development, *test]) == list(range(100))
    parts = [split(100, phase="search", **way), *(split(100, phase="fold", fold=Fold(i, 4), **way) for i in range(4))]
    for train, held_out in parts:
        assert not set(train) & set(held_out)
        assert {*train, *held_out} <= set(development)
        assert len(train) and len(held_out)


@pytest.mark.parametrize("way", [way for name, way in WAYS.items() if name != "in order"])
def test_folds_cover_the_development_rows_once(way: dict[str, Any]) -> None:
    development, _ = split(100, phase="test", **way)
    held_out = [row for i in range(4) for row in split(100, phase="fold", fold=Fold(i, 4), **way)[1]]
    assert sorted(held_out) == sorted(development)


def test_rows_in_order_are_scored_on_what_came_later() -> None:
    for phase, fold in [("search", None), ("test", None), *(("fold", Fold(i, 4)) for i in range(4))]:
        train, held_out = split(100, phase=phase, fold=fold, shuffle=False)  # type: ignore[arg-type]
        assert train.max() < held_out.min()


def test_shares_of_labels_and_whole_groups_are_kept() -> None:
    _, held_out = split(100, phase="test", stratify=LABELS)
    assert list(np.bincount(LABELS[held_out])) == [12, 6, 2]
    for fold in (None, Fold(0, 4)):
        train, held_out = split(100, phase="fold" if fold else "search", fold=fold, groups=GROUPS)
        assert not set(GROUPS[train]) & set(GROUPS[held_out])


def test_a_split_is_the_same_every_time_and_another_for_another_seed() -> None:
    one, again, other = (split(100, phase="search", seed=seed)[1].tolist() for seed in (0, 0, 1))
    assert one == again != other
    assert split([0.0] * 100, phase="search")[1].tolist() == one


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stratify": LABELS[:99]}, "stratify: has shape"),
        ({"stratify": LABELS, "shuffle": False}, "shuffle=False"),
        ({"test": 1.5}, "test: 1.5 is not a share"),
        ({"validation": 0.0}, "validation: 0.0 is not a share"),
        ({"test": [5, 100]}, "names row 100"),
        ({"stratify": np.arange(100)}, "test: the rows cannot be split so"),
    ],
)
def test_what_cannot_be_split_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        split(100, phase="search", **settings)


def test_numpys_numbers_are_taken() -> None:
    given = split(np.int64(100), phase="search", test=np.float32(0.25), validation=np.float64(0.5))
    expected = split(100, phase="search", test=0.25, validation=0.5)
    assert [part.tolist() for part in given] == [part.tolist() for part in expected]
