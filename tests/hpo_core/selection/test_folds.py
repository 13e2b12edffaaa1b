"""Trials that cross-validate: when one ends before its last fold, and what its loss is worth then."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo_core.history.history import History
from hpo_core.history.trial import CONFIRM, PURPOSE, REPEAT_OF, Trial, TrialState
from hpo_core.selection.final_choice import finalists
from hpo_core.selection.folds import as_whole, verdict
from hpo_core.selection.repeats import Repeats, winner_of
from hpo_core.study.file import study_from

HARD = (0.0, 0.3, 0.1, -0.2, 0.5)


def a_trial(number: int, folds: Sequence[float], of: int = 5, **changes: Any) -> Trial:
    complete = Trial(number, {"x": number / 100}, TrialState.COMPLETE, float(np.mean(folds)))
    return replace(complete, folds=tuple(folds), folds_wanted=of, **changes)


def losses(number: int, level: float, noise: float = 0.02, hard: Sequence[float] = HARD) -> list[float]:
    rng = np.random.default_rng(number)
    return [level + each + noise * float(rng.standard_normal()) for each in hard]


def known(*levels: float, noise: float = 0.02) -> History:
    return History(a_trial(n, losses(n, level, noise)) for n, level in enumerate(levels))


def judged(history: History, folds: Sequence[float], of: int = 5, **changes: Any) -> str:
    return verdict(history, replace(a_trial(history.next_number, folds, of, **changes), state=TrialState.RUNNING))


def test_a_trial_ends_once_it_is_worse_than_the_best_by_more_than_the_noise() -> None:
    history = known(0.5, 0.4, 0.3)
    worse, alike, better = losses(7, 0.5), losses(8, 0.3), losses(9, 0.1)
    for folds in (1, 2, 3, 4):
        told = f"stopped after {folds} of 5 folds: worse than trial 2 by more than the noise"
        assert judged(history, worse[:folds]) == told
        assert judged(history, alike[:folds]) == judged(history, better[:folds]) == ""
    slightly = losses(7, 0.34)
    assert judged(history, slightly[:1]) == "" != judged(history, slightly[:4])  # the noise of four is smaller


def test_nothing_ends_before_the_noise_is_known() -> None:
    worse = losses(7, 5.0)[:2]
    assert judged(known(0.5, 0.4), worse) == ""
    assert judged(known(0.5, 0.4, 0.3), worse) != ""
    assert judged(known(0.5, 0.4, 0.3, noise=0.0), worse) == ""  # equal to rounding: this is no noise that was seen
    assert judged(known(0.5, 0.4, 0.3), losses(7, 5.0)) == ""  # nothing is left to be saved


def test_trials_are_held_against_their_like_alone() -> None:
    history, worse = known(0.5, 0.4, 0.3), losses(7, 0.5)[:2]
    assert judged(history, worse, fidelity=3.0) == judged(history, worse, of=10) == ""
    some = History([*known(0.5, 0.4), a_trial(2, losses(2, 0.3)[:3])])
    assert judged(some, worse) == ""  # a trial without its last folds says nothing
    again = {REPEAT_OF: 1, PURPOSE: CONFIRM}
    assert judged(History([*known(0.5, 0.4), a_trial(2, losses(2, 0.3), notes=again)]), worse) == ""


@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=5, max_size=5), min_size=3, max_size=8),
    st.lists(st.floats(-1, 1), min_size=1, max_size=4),
    st.sampled_from([1e-200, 0.25, 8.0, 1e200, 1e299]),
)
def test_the_verdict_is_sound_and_does_not_depend_on_the_unit(
    whole: list[list[float]], begun: list[float], unit: float
) -> None:
    history = History(a_trial(n, folds) for n, folds in enumerate(whole))
    scaled = History(a_trial(n, [unit * loss for loss in folds]) for n, folds in enumerate(whole))
    said = judged(history, begun)
    best = min(history, key=lambda trial: (trial.loss, trial.number))
    assert not said or f"worse than trial {best.number} " in said
    assert not said or np.mean(begun) > np.mean(best.folds[: len(begun)])
    if math.log2(unit).is_integer():
        assert judged(scaled, [unit * loss for loss in begun]) == said
    first = min(scaled, key=lambda trial: (trial.loss, trial.number))
    assert judged(scaled, first.folds[:2]) == ""
    assert all(math.isfinite(trial.loss or 0.0) for trial in as_whole(with_some(scaled, [unit * x for x in begun])))


def with_some(history: History, folds: Sequence[float]) -> History:
    return history.with_trials([a_trial(history.next_number, folds)])


def test_few_of_the_trials_end_early_that_would_have_become_the_best() -> None:
    ended: list[bool] = []
    for number in range(400):
        rng = np.random.default_rng(number)
        history = History(a_trial(n, rng.normal(0.0, 1.0, 5)) for n in range(6))
        folds = rng.normal(-0.3, 1.0, 5)
        if folds.mean() < min(trial.loss or 0.0 for trial in history):
            ended.append(any(judged(history, folds[:count]) for count in (1, 2, 3, 4)))
    assert len(ended) > 50 and np.mean(ended) < 0.1


def test_a_trial_without_its_last_folds_is_never_the_best() -> None:
    history = with_some(known(0.5, 0.4, 0.3), [-9.0, -9.0])
    best, some = history.trials[2], history.trials[3]
    assert (some.whole, some.weight, best.weight) == (False, 0.4, 1.0)
    assert history.incumbent == history.luckiest == best
    assert winner_of(history).trial == best  # type: ignore[union-attr]
    assert [trial.number for trial in finalists(history, 9)] == [2, 1, 0]
    many = History([*known(*np.linspace(0.3, 0.5, 7)), a_trial(7, [-9.0])])
    probe = Repeats().probe(many, None, 20)
    assert probe is not None and probe.notes[REPEAT_OF] == 0
    assert history.since_improvement() == 1


def test_easy_folds_do_not_make_a_trial_look_better() -> None:
    easy = a_trial(3, losses(3, 0.5)[3:4])
    history = History([*known(0.5, 0.4, 0.3), replace(easy, folds=tuple(losses(3, 0.6)[:1]), loss=0.6)])
    assert as_whole(known(0.5, 0.4)).trials == known(0.5, 0.4).trials
    found = as_whole(history)
    assert found.trials[:3] == history.trials[:3]
    assert found.trials[3].loss == pytest.approx(0.6 + np.mean(HARD), abs=0.1)
    assert found.next_number == history.next_number


def test_strategies_weigh_a_trial_by_its_folds() -> None:
    space = {"x": {"type": "float", "low": 0, "high": 1}}
    study = {"name": "s", "objective": "m:f", "metric": "loss", "direction": "minimize", "space": space}
    spec = study_from({**study, "strategy": {"name": "bayesian", "skill": 0}, "stop": {"trials": 40}, "repeats": "off"})
    whole = History(replace(trial, config={"x": trial.number / 12}) for trial in known(*np.linspace(0.3, 0.9, 12)))
    some = with_some(whole, losses(12, 0.4)[:2])
    full = whole.with_trials([replace(as_whole(some).trials[-1], folds=())])
    assert full.digest != some.digest
    told = [spec.propose(history, 1)[0].notes["acquisition"] for history in (full, some)]
    assert told[0] != told[1]  # the same loss, of less weight
