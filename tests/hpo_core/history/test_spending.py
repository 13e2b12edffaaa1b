"""Costs of trials: what a study has spent, and how a budget in cost and the rule ``worth`` end it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.history.spending import EXPECTED, spent
from hpo_core.history.trial import Trial, TrialState
from hpo_core.ledger.decode import trial_of
from hpo_core.ledger.store import Run
from hpo_core.lineage.replay import rebuild
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec


def spec(**changes: Any) -> StudySpec:
    data: dict[str, Any] = {
        "name": "priced", "objective": "m:f", "metric": "loss", "direction": "minimize", "cost": "seconds",
        "space": {"x": {"type": "float", "low": 0, "high": 1}}, "stop": {"cost": 10},
    }  # fmt: skip
    return study_from(data | changes)


def trial(number: int, cost: float | None, **fields: Any) -> Trial:
    return Trial(number, {"x": number / 100}, TrialState.COMPLETE, fields.pop("loss", 1.0), cost=cost, **fields)


def running(number: int, **notes: Any) -> Trial:
    return Trial(number, {"x": number / 100}, TrialState.RUNNING, notes=notes)


def test_running_trials_count_with_what_they_are_expected_to_cost() -> None:
    ended = [trial(0, 2.0), trial(1, 4.0), replace(trial(2, 3.0), state=TrialState.FAILED, loss=None), trial(3, None)]
    assert spent(History()) == 0 and spent(History([running(0)])) == 0, "nothing is known yet"
    assert spent(History(ended)) == 9
    assert spent(History([*ended, running(4)])) == 12, "the usual cost"
    assert spent(History([*ended, running(4, **{EXPECTED: "0.5"})])) == 9.5, "what a model expected"
    assert spent(History([*ended, running(4, **{EXPECTED: "much"})])) == 12, "a tag is open to every hand"


def test_a_budget_ends_the_search_and_more_of_it_goes_on() -> None:
    history = History([trial(0, 4.0), trial(1, 4.0)])
    assert spec().stop_reason(history, 0) is None
    full = history.with_trials([running(2)])
    assert spec().stop_reason(full, 0) == "a cost of 12 seconds is spent, that of running trials included"
    cheap = History([*history, trial(2, 1.0)])
    assert spec().stop_reason(cheap, 0) is None, "it cost less than expected, so another one may start"
    assert spec().stop_reason(History([*cheap, trial(3, 1.5)]), 0) == "a cost of 10.5 seconds is spent"
    assert spec(stop={"cost": 20}).stop_reason(full, 0) is None


def a_parabola(count: int) -> History:
    xs = [float(x) for x in np.random.default_rng(0).random(count)]
    return History(Trial(i, {"x": x}, TrialState.COMPLETE, (x - 0.3) ** 2, cost=1.0 + 9 * x) for i, x in enumerate(xs))


def test_what_is_not_worth_its_cost_any_more_ends_the_search_and_says_what_it_expected() -> None:
    few, many = a_parabola(11), a_parabola(16)
    assert spec(stop={"worth": 1e9}).stop_reason(few, 0) is None, "a model of so few is not asked"
    why = spec(stop={"worth": 1e3}).stop_reason(many, 0)
    assert why is not None and why.startswith("the best next trial promises ")
    assert " of loss for " in why and why.endswith("per hour, less than 1000 (stop.worth)")
    assert spec(stop={"worth": 1e-12}).stop_reason(many, 0) is None
    dollars = spec(cost="dollars", stop={"worth": 1e3}).stop_reason(many, 0)
    assert dollars is not None and "per unit of cost" in dollars
    first, again = spec(stop={"worth": 1.0}), spec(stop={"worth": 1.0})
    assert first.promise(many) == again.promise(History(reversed(many.trials))), "of the history alone"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cost": "loss"}, r"cost.*is what the study tunes"),
        ({"cost": "a\nb"}, r"cost.*not a metric that MLflow can keep"),
        ({"cost": ""}, r"stop\.cost.*has no cost; add cost: seconds"),
        ({"cost": "", "stop": {"worth": 1}}, r"stop\.worth.*has no cost; add cost: seconds"),
        ({"stop": {"cost": 0}}, r"stop\.cost.*above 0"),
        ({"stop": {"worth": -1}}, r"stop\.worth.*above 0"),
    ],
)
def test_what_cannot_be_a_cost_is_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        spec(**change)


def test_a_cost_is_read_from_the_run() -> None:
    tags = {"hpo.role": "trial", "hpo.schema": "1", "hpo.number": "3", "hpo.config": '{"x": 0.5}', "hpo.result": "loss"}
    metrics = {"loss": 1.0, "dollars": 0.25}
    run = Run("r", "e", "n", "FINISHED", start=1_000, end=3_500, metrics=metrics, tags=tags)
    timed = replace(run, metrics={"loss": 1.0, "hpo.seconds": 1.25})
    assert trial_of(timed, spec()).cost == 1.25 and "hpo.seconds" not in trial_of(timed, spec()).metrics
    assert trial_of(run, spec()).cost == 2.5, "a trial of before the study had a cost took as long as its run"
    assert trial_of(run, spec(cost="dollars")).cost == 0.25
    assert trial_of(run, spec(cost="", stop={"trials": 3})).cost is None
    lost = replace(run, status="FAILED", tags=tags | {"hpo.lost": "died"})
    assert trial_of(lost, spec()).cost is None, "it ended whenever somebody noticed"
    assert trial_of(lost, spec(cost="dollars")).cost == 0.25
    assert trial_of(replace(run, status="RUNNING", end=None), spec()).cost is None


def test_a_history_with_limits_and_costs_is_rebuilt_where_trials_ran() -> None:
    trials = [trial(i, 1.0 + i, loss=float(i), excess={"size": -0.1}, start=10 * i, end=10 * i + 25) for i in range(6)]
    pending = {4, 5}
    bare = {"state": TrialState.RUNNING, "loss": None, "cost": None, "excess": {}}
    at_the_time = History(replace(t, **bare) if t.number in pending else t for t in trials)
    assert rebuild(trials, trial(6, 1.0, start=60), at_the_time.digest, [()]) is not None
    assert History([trial(0, 1.0)]).digest != History([trial(0, 2.0)]).digest


def test_trials_outside_a_changed_space_have_cost_as_much() -> None:
    inside = Trial(0, {"x": 0.5}, TrialState.COMPLETE, 1.0, cost=2.0)
    outside = Trial(1, {"x": 9.0}, TrialState.COMPLETE, 1.0, cost=3.0, outside={"x": "9"})
    runs = Trial(2, {"x": 8.0}, TrialState.RUNNING, notes={EXPECTED: 4.0}, outside={"x": "8"})
    assert spent(History([inside, outside, runs])) == 9.0
