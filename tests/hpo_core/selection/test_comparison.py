"""The comparison of a challenger with the champion, against its closed form and by how often it is wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hpo_core.selection.comparison import Comparison


def test_the_margin_is_that_of_one_observation_against_a_sample() -> None:
    from scipy.stats import t

    losses = [0.31, 0.28, 0.35, 0.30]
    found = Comparison(losses, 0.5, 0.9)
    assert found.mean == pytest.approx(np.mean(losses)) and found.deviation == pytest.approx(np.std(losses, ddof=1))
    assert found.margin == pytest.approx(t.ppf(0.9, 3) * found.deviation * math.sqrt(1.25))
    border = found.mean + found.margin
    assert Comparison(losses, border + 1e-6, 0.9).better and not Comparison(losses, border - 1e-6, 0.9).better


@pytest.mark.parametrize(
    ("losses", "champion", "better"),
    [
        ([0.5], None, True),  # the first champion
        ([0.5], 0.9, False),  # one seed shows no spread
        ([0.5, 0.5], 0.5, False),  # a tie
        ([0.5, 0.5], 0.6, True),  # no spread at all
        ([0.5, 0.5], 0.5 + 1e-12, False),  # rounding
        ([-0.5, -0.5], -0.6, False),
        ([-0.9, -0.9], -0.6, True),
    ],
)
def test_special_cases(losses: list[float], champion: float | None, better: bool) -> None:
    assert Comparison(losses, champion).better is better


@pytest.mark.parametrize(
    ("losses", "typical"), [([1.0], 0), ([2.0, 1.0], 1), ([3, 1, 2], 2), ([1, 1, 1], 1), ([4, 3, 2, 1], 2)]
)
def test_the_median_is_registered(losses: list[float], typical: int) -> None:
    assert Comparison(losses, None).typical == typical


def test_equals_are_promoted_as_seldom_as_the_confidence_says(seed: int) -> None:
    """Of 4,000 comparisons of five seeds with a champion of the same recipe, 5 % promote, give or take five sigma."""
    rng = np.random.default_rng(seed)
    count, k = 4_000, 5
    draws = rng.normal(size=(count, k + 1))
    single = sum(Comparison(list(row[:k]), row[k]).better for row in draws) / count
    assert abs(single - 0.05) < 5 * math.sqrt(0.05 * 0.95 / count)
    medians = np.median(rng.normal(size=(count, k)), axis=1)
    median = sum(Comparison(list(row[:k]), c).better for row, c in zip(draws, medians, strict=True)) / count
    assert median < 0.03
