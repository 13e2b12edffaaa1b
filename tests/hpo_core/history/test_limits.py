"""Limits on results: what keeps them, and which trial is the best within them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.history.limits import Limit, excesses, violation
from hpo_core.history.trial import CONFIRM, PURPOSE, REPEAT_OF, Trial, TrialState
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec

finite = st.floats(-1e6, 1e6)


def spec(**changes: object) -> StudySpec:
    data: dict[str, object] = {
        "name": "limited", "objective": "m:f", "metric": "loss", "direction": "minimize",
        "space": {"x": {"type": "float", "low": 0, "high": 1}}, "stop": {"trials": 5},
    }  # fmt: skip
    return study_from(data | changes)


def trial(number: int, loss: float, excess: float, **fields: object) -> Trial:
    return Trial(number, {"x": number}, TrialState.COMPLETE, loss, excess={"latency": excess}, **fields)  # type: ignore[arg-type]


@given(st.sampled_from(["<=", ">="]), finite, finite)
def test_a_value_keeps_a_limit_as_its_comparison_says(comparison: str, bound: float, value: float) -> None:
    limit = Limit.parse("m", f"{comparison} {bound!r}")
    kept = value <= bound if comparison == "<=" else value >= bound
    assert (violation(excesses([limit], {"m": value})) == 0) == kept
    assert limit.value(limit.excess(value)) == pytest.approx(value, rel=1e-9, abs=1e-6)


def test_what_was_not_logged_or_is_not_finite_breaks_a_limit() -> None:
    limit = Limit.parse("m", ">= 0")
    assert [limit.excess(value) for value in (None, math.nan, math.inf)] == [math.inf] * 3
    assert limit.excess(0.0) == 0 and limit.excess(-2.0) == 2


@pytest.mark.parametrize("text", ["20", "< 20", "<= many", "<= inf", "", "<= 1 2"])
def test_a_text_that_is_no_limit_is_an_error_that_names_it(text: str) -> None:
    with pytest.raises(InputError, match=r"limits.*'<= 20'"):
        spec(limits={"latency_ms": text})


@given(st.lists(st.tuples(finite, st.floats(-3, 3), st.booleans()), min_size=1, max_size=8))
def test_the_incumbent_is_the_best_that_keeps_the_limits_or_the_closest(rows: list[tuple[float, float, bool]]) -> None:
    history = History(
        trial(i, loss, excess, fidelity=2.0 if full else 1.0) for i, (loss, excess, full) in enumerate(rows)
    )
    best = history.incumbent
    assert best is not None
    peers = [each for each in history if each.fidelity == best.fidelity == history.max_fidelity]
    assert best in peers
    if any(each.feasible for each in peers):
        assert (
            best.loss == min(each.loss for each in peers if each.feasible and each.loss is not None) and best.feasible
        )
    else:
        assert best.violation == min(each.violation for each in peers)


def test_with_repeats_the_mean_decides_what_keeps_a_limit() -> None:
    again = {REPEAT_OF: 0, PURPOSE: CONFIRM}
    kept = History([trial(0, 1.0, 0.1), trial(1, 2.0, -0.1), trial(2, 1.0, -0.3, notes=again)])
    assert [each.feasible for each in kept.merged] == [True, True] and kept.incumbent == kept.merged.trials[0]
    broken = History([trial(0, 1.0, -0.1), trial(1, 2.0, -0.1), trial(2, 1.0, 0.3, notes=again)])
    assert broken.incumbent is not None and broken.incumbent.number == 1


def test_limits_are_part_of_what_a_proposal_saw() -> None:
    assert History([trial(0, 1.0, 0.1)]).digest != History([trial(0, 1.0, 0.2)]).digest


def test_only_a_trial_that_keeps_the_limits_reaches_the_target() -> None:
    study = spec(limits={"latency": "<= 1"}, stop={"target": 1.5})
    assert study.stop_reason(History([trial(0, 1.0, 0.1)]), 0) is None
    assert study.stop_reason(History([trial(0, 1.0, 0.1), trial(1, 1.4, 0.0)]), 0) == "loss reached the target 1.5"
