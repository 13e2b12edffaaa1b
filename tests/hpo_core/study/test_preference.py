"""What a user prefers picks the point of the front that it says."""

from __future__ import annotations

import pytest

from hpo_core.base.errors import InputError
from hpo_core.history.trial import Trial, TrialState
from hpo_core.study.objectives import Objective
from hpo_core.study.preference import preference_of

OBJECTIVES = (Objective("accuracy", "maximize"), Objective("latency_ms", "minimize"))

POINTS = ((0.99, 40.0, 9.0), (0.97, 12.0, 5.0), (0.96, 10.0, 7.0), (0.80, 3.0, 1.0))
"""A front: accuracy, latency, and the size, which is not optimized."""

FRONT = [
    Trial(i, {}, TrialState.COMPLETE, -a, losses=(-a, b), metrics={"accuracy": a, "latency_ms": b, "size_mb": c})
    for i, (a, b, c) in enumerate(POINTS)
]


@pytest.mark.parametrize(
    ("texts", "chosen"),
    [
        (["latency_ms <= 10"], 2),
        (["latency_ms<=12"], 1),
        (["accuracy >= 0.96"], 2),  # the condition names the first metric, so the best of the second is meant
        (["size_mb <= 5", "latency_ms <= 100"], 1),
        (["size_mb <= 5, latency_ms <= 10"], 3),
        (["accuracy >= 0.9, latency_ms <= 100"], 1),  # both are named: a compromise
        (["accuracy=1"], 0),
        (["latency_ms=1"], 3),
        (["accuracy=1,latency_ms=1"], 2),
        (["accuracy = 1e300, latency_ms = 1e300"], 2),
        (["latency_ms <= 12, accuracy=100, latency_ms=1"], 1),
    ],
)
def test_a_preference_picks_a_point(texts: list[str], chosen: int) -> None:
    assert preference_of(texts, OBJECTIVES).choose(FRONT, OBJECTIVES).number == chosen


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("latency_ms <= 1", r"no point of the front has latency_ms <= 1 \(nearest: 3\); ask for less"),
        ("speed <= 1", r"no point of the front has speed <= 1 \(no point has this metric\)"),
        ("latency_ms", "'latency_ms' is neither a condition nor a weight; write a condition such as 'latency_ms <= 1"),
        ("latency_ms < 10", "'latency_ms < 10' is neither"),
        ("latency_ms <= ten", "neither"),
        ("latency_ms <= nan", "neither"),
        ("size_mb=1", "'size_mb' is not a metric that the study optimizes; weigh accuracy, latency_ms"),
        ("accuracy=-1", "the weight -1 of accuracy is below 0"),
        ("accuracy=0", "all weights are 0"),
        ("", "'' is neither"),
    ],
)
def test_what_cannot_be_preferred_is_said(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        preference_of([text], OBJECTIVES).choose(FRONT, OBJECTIVES)


def test_one_metric_leaves_no_choice() -> None:
    with pytest.raises(InputError, match="the study has one metric, accuracy, so its best trial is the only choice"):
        preference_of(["accuracy=1"], OBJECTIVES[:1])
