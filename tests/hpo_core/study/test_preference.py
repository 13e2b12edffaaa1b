"""What a user prefers picks the point of the front that it says."""

from __future__ import annotations

from typing import Any

import pytest

from hpo_core.base.errors import InputError
from hpo_core.history.trial import Trial, TrialState
from hpo_core.study.file import override_spec, study_from
from hpo_core.study.objectives import Objective
from hpo_core.study.preference import preference_of
from hpo_core.study.resume import compare
from hpo_flows.reports.front import COMPROMISE, standing_line

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
        ("speed <= 1", "no point of the front has a metric 'speed'; choose one of accuracy, latency_ms, size_mb"),
        ("latency <= 1", r"a metric 'latency'; did you mean 'latency_ms'\?"),
        ("accuracy=1, latency_ms=1, accuracy=2", "'accuracy' is given two weights, 1 and 2; keep one"),
        ("latency_ms <= 1, size_mb <= 3, latency_ms >= 5", "'latency_ms <= 1' and 'latency_ms >= 5' never hold tog"),
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


STUDY: dict[str, Any] = {
    "name": "study",
    "objective": "nowhere:train",
    "metrics": {"accuracy": "maximize", "latency_ms": "minimize"},
    "space": {"depth": {"type": "int", "low": 1, "high": 9}},
    "stop": {"trials": 3},
}


def test_a_study_says_which_point_stands_for_it() -> None:
    plain, wish = study_from(STUDY), study_from(STUDY | {"prefer": "latency_ms <= 12"})
    weighed = study_from(STUDY | {"prefer": ["latency_ms=1"]})
    assert [each.stands_for(FRONT) for each in (plain, wish, weighed)] == [FRONT[2], FRONT[1], FRONT[3]]
    assert wish.stands_for(()) is None
    assert [standing_line(each, FRONT) for each in (plain, wish)] == [COMPROMISE, "preferred by latency_ms <= 12"]
    greedy = study_from(STUDY | {"prefer": "latency_ms <= 1"})  # as long as nothing keeps it, the compromise stands
    assert greedy.stands_for(FRONT) is FRONT[2]
    assert standing_line(greedy, FRONT).endswith("(no point of the front has latency_ms <= 1 (nearest: 3))")
    assert study_from(wish.stored()).preference == wish.preference
    assert compare(plain, wish)  # it may change on resume


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prefer": "fast"}, "prefer: 'fast' is neither a condition nor a weight; write a condition such as"),
        ({"prefer": ["size_mb=1"]}, "prefer: 'size_mb' is not a metric that the study optimizes"),
        ({"metrics": {}, "metric": "a", "direction": "minimize", "prefer": "a <= 1"}, "prefer: the study has one"),
        ({"final": {"rule": "one_standard_error"}}, "final.rule: the study has several metrics.*; leave it out"),
        ({"champion": {"model": "m"}}, "champion: .*several metrics.*such as prefer: 'latency_ms <= 10'"),
        ({"champion": {"model": "m"}, "prefer": "latency_ms=1"}, "champion: .*; leave that one free"),
        ({"champion": {"model": "m"}, "prefer": "latency_ms <= 1, accuracy >= 1"}, "champion: .*; leave that one free"),
        ({"champion": {"model": "m"}, "prefer": "size_mb <= 1"}, "champion: .*; leave that one free"),
        ({"repeats": {"top": 2}}, "repeats: of several metrics none says .*final trains the front again"),
        ({"early_stop": "median"}, "early_stop: the study has several metrics"),
        ({"prefer": "accuracy=1, accuracy=2"}, "^prefer: 'accuracy' is given two weights, 1 and 2; keep one$"),
        ({"prefer": ["size_mb <= 3", "size_mb >= 4"]}, "^prefer: 'size_mb <= 3' and 'size_mb >= 4' never hold togethe"),
        (
            {"prefer": "size_mb >= 4", "limits": {"size_mb": "<= 3"}},
            "^prefer: 'size_mb >= 4' and 'size_mb <= 3' of limits never hold together; correct one of them$",
        ),
        ({"metrics": ["accuracy", "b"]}, "^metrics: .*has no directions; write {accuracy: maximize, b: maxi"),
        ({"metrics": [{"a": "maximize"}, {"b": "minimize"}]}, "^metrics: it is a list; write {a: maximize, b: mini"),
        ({"metrics": {"a,b": "maximize", "c": "maximize"}}, "^metrics: 'a,b' is not a metric that MLflow.*[^,]*$"),
        ({"metrics": {"a" * 251: "maximize", "c": "maximize"}}, "^metrics: [^\n]*$"),
        ({"metrics": {1: "maximize", "c": "maximize"}}, "^metrics[^\n]*$"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_several_metrics_is_said(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        study_from(STUDY | changes)


def test_the_metric_that_is_left_free_decides_about_the_champion() -> None:
    spec = study_from(STUDY | {"prefer": "accuracy >= 0.9, size_mb <= 4", "champion": {"model": "m"}})
    assert spec.compared == OBJECTIVES[1]
    assert study_from(STUDY | {"prefer": "latency_ms <= 10"}).compared == OBJECTIVES[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"prefer": "accuracy=1, accuracy=2"},
        {"prefer": "size_mb <= 3, size_mb >= 4"},
        {"prefer": "size_mb >= 4", "limits": {"size_mb": "<= 3"}},
    ],
)
def test_a_study_begun_with_a_wish_that_is_refused_today_goes_on(changes: dict[str, Any]) -> None:
    stored = study_from(STUDY | {"objective": "os:getcwd"} | changes, reading=True)
    assert stored.stands_for(FRONT) in FRONT
    assert override_spec(stored, ["parallel=2"]).parallel == 2
    with pytest.raises(InputError, match=r"^prefer: "):
        override_spec(stored, ["prefer=accuracy=1, accuracy=3"])
