"""The winner beside the first trial: what is said of it, and what cannot be said."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from hpo_core.history.history import History
from hpo_core.history.trial import CONFIRM, PURPOSE, REPEAT_OF, Trial, TrialState
from hpo_core.selection.evaluation import Evaluation, Fold
from hpo_core.selection.final_choice import Selection
from hpo_core.selection.overtuning import overtuning_of
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec
from hpo_flows.reports.text import tuning_lines


def spec(**changes: Any) -> StudySpec:
    data: dict[str, Any] = {"name": "s", "objective": "m:f", "metric": "val_accuracy", "direction": "maximize"}
    data |= {"space": {"x": {"type": "float", "low": 0, "high": 1}}, "stop": {"trials": 20}}
    return study_from(data | changes)


def a_trial(number: int, value: float, **changes: Any) -> Trial:
    return Trial(number, {"x": number / 100}, TrialState.COMPLETE, -value, **changes)


def again(number: int, value: float, of: Trial, **changes: Any) -> Trial:
    notes = {REPEAT_OF: of.number, PURPOSE: CONFIRM}
    return Trial(number, of.config, TrialState.COMPLETE, -value, notes=notes, **changes)


def confirmed(*values: float, first: float = 0.90, **changes: Any) -> History:
    best = a_trial(2, 0.97)
    trials = [a_trial(0, first, **changes), a_trial(1, 0.5), best]
    return History([*trials, *(again(n, value, best) for n, value in enumerate(values, 3))])


def told(history: History) -> list[str]:
    return tuning_lines(spec(), history)


def test_the_gain_is_that_of_trainings_that_the_winner_was_not_chosen_by() -> None:
    found = overtuning_of(confirmed(0.93, 0.95), None, "val_accuracy", -1)
    assert found is not None and found.winner.searched == -0.97 and found.first.searched == -0.90
    assert found.gain == pytest.approx(0.04) and found.winner.confirmed == pytest.approx(-0.94)
    noise = confirmed(0.93, 0.95).noise.deviation
    assert found.error == pytest.approx(math.hypot(noise, noise / math.sqrt(2)))
    assert found.in_vain is True  # 0.04 is within twice the error of one draw
    lines = told(confirmed(0.93, 0.95))
    assert lines[0] == "trial 2, the best: search 0.97, confirmed 0.940 ± 0.014"
    assert lines[1] == "trial 0, the first: search 0.9"
    assert lines[2] == "tuning gained 0.040 ± 0.024 without luck: trial 0 would have done as well"
    assert told(confirmed(0.93, 0.95, first=0.6))[2] == "tuning gained 0.340 ± 0.024 without luck"


def test_test_values_are_shown_of_both_where_every_trial_logs_them() -> None:
    best = a_trial(2, 0.97, metrics={"test_accuracy": 0.9})
    history = History([a_trial(0, 0.9, metrics={"test_accuracy": 0.91}), best])
    assert told(history) == [
        "trial 2, the best: search 0.97, test 0.9",
        "trial 0, the first: search 0.9, test 0.91",
    ]
    more = History([*history, again(3, 0.95, best, metrics={"test_accuracy": 0.88})])
    assert "test 0.89" in told(more)[0]


def test_nothing_is_said_of_what_is_not_known() -> None:
    plain = History([a_trial(0, 0.9), a_trial(1, 0.95)])
    found = overtuning_of(plain, None, "val_accuracy", -1)
    assert found is not None and found.in_vain is None and told(plain) == []
    assert told(History()) == told(History([a_trial(0, 0.9)])) == []
    assert told(History([a_trial(0, 0.9), a_trial(1, 0.8)])) == ["no trial was better than trial 0, the first"]
    lower = History([a_trial(0, 0.9, fidelity=1.0), a_trial(1, 0.8, fidelity=9.0), a_trial(2, 0.85, fidelity=9.0)])
    found = overtuning_of(lower, None, "val_accuracy", -1)
    assert found is not None and found.first.trial.number == 1
    best_at_last = [a_trial(0, 0.9, fidelity=1.0), a_trial(1, 0.95, fidelity=9.0), a_trial(2, 0.85, fidelity=9.0)]
    epochs = spec(strategy="hyperband", fidelity={"name": "epochs", "min": 1, "max": 9})
    line = "no trial was better than trial 1, the first with 9 epochs"
    assert tuning_lines(epochs, History(best_at_last)) == [line]
    failed = Trial(0, {"x": 0.5}, TrialState.FAILED, None, reason="no memory")
    late = told(History([failed, a_trial(1, 0.9), a_trial(2, 0.8)]))
    assert late == ["no trial was better than trial 1, the first complete one"]
    equal = History([a_trial(0, 0.9), best := a_trial(1, 0.95), again(2, 0.95, best)])  # no noise: one split, one value
    found = overtuning_of(equal, None, "val_accuracy", -1)
    assert found is not None and found.in_vain is None


def evaluation(number: int, kind: Fold | None, value: float) -> Evaluation:
    metrics = {"val_accuracy": value}
    return Evaluation(number, kind, None, 0, TrialState.COMPLETE, -value, metrics=metrics, start=0, end=1)


@pytest.mark.parametrize("top", [2, 1])
def test_finalists_are_compared_fold_by_fold(top: int) -> None:
    study = spec(final={"top": top, "folds": 3})
    history = History([a_trial(0, 0.9), a_trial(1, 0.5), a_trial(2, 0.97)])
    folds = [evaluation(2, Fold(i, 3), value) for i, value in enumerate((0.80, 0.90, 0.97))]
    folds += [evaluation(0, Fold(i, 3), value) for i, value in enumerate((0.79, 0.90, 0.95))]
    choice = Selection(top, 3).choice(history, [*folds, evaluation(2, None, 0.88)], study.search_space)
    assert choice.winner is not None and choice.done
    lines = tuning_lines(study, history, choice)
    assert lines[0] == "trial 2, the best: search 0.97, folds 0.890 ± 0.049, test 0.88"
    if top == 2:  # much surer than the errors of the means, since both met the same folds
        assert lines[2] == "tuning gained 0.0100 ± 0.0058 without luck: trial 0 would have done as well"
    else:
        assert lines[1:] == ["trial 0, the first: search 0.9"]
    open_choice = Selection(top, 3).choice(history, [], study.search_space)
    assert tuning_lines(study, history, open_choice) == []


def test_a_first_trial_that_breaks_the_limits_would_not_have_done_as_well() -> None:
    study = spec(limits={"ms": "<= 5"})
    broken, kept = {"excess": {"ms": 1.0}}, {"excess": {"ms": -0.5}}
    first, best = a_trial(0, 0.99, **broken), a_trial(2, 0.90, **kept)
    history = History([first, best, again(3, 0.91, best, **kept), again(4, 0.92, best, **kept)])
    lines = tuning_lines(study, history)
    assert lines[1:] == ["trial 0, the first: search 0.99, breaks the limits"]
    found = overtuning_of(history, None, "val_accuracy", -1)
    assert found is not None and found.in_vain is False
    plain = History([a_trial(0, 0.9, **kept), a_trial(2, 0.8, **kept)])
    folds = [evaluation(n, Fold(i, 2), value) for n, value in ((0, 0.9), (2, 0.8)) for i in range(2)]
    folds = [replace(each, metrics={**each.metrics, "ms": 9.0 if each.number == 0 else 4.0}) for each in folds]
    choice = Selection(2, 2, limits=study.limiting).choice(plain, folds, study.search_space)
    assert choice.winner is not None and choice.winner.trial.number == 2
    assert tuning_lines(study, plain, choice)[1:] == ["trial 0, the first: search 0.9, folds 0.9, breaks the limits"]
