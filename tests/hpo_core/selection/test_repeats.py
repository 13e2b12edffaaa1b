"""Repeats: a noisy study spends the end of its budget on its best configurations, whatever dies on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.strategies.make import expected
from hpo_core.study.file import study_from
from hpo_core.study.spec import StudySpec

Objective = Callable[[Trial], float | None]


def spec(trials: int | None = 20, **changes: Any) -> StudySpec:
    data: dict[str, Any] = {
        "name": "study",
        "objective": "module:function",
        "metric": "loss",
        "direction": "minimize",
        "space": {"x": {"type": "float", "low": 0, "high": 1}, "y": {"type": "float", "low": 0, "high": 1}},
        "strategy": "random",
        "stop": {"trials": trials},
        "rerun_lost": 2,
    }
    return study_from(data | changes)


def level(trial: Trial) -> float:
    return float(trial.config["x"]) ** 2  # type: ignore[arg-type]


def noisy(trial: Trial) -> float:
    return level(trial) + float(np.random.default_rng(trial.number).normal(0, 0.2))


def search_is_over(study: StudySpec, history: History, minutes: float) -> bool:
    return study.stop_reason(history, minutes) is not None


def step(study: StudySpec, history: History, parallel: int, minutes: float = 0.0) -> History:
    """Start trials in the free slots, as the loop does."""
    while len(history.running) < parallel:
        if not search_is_over(study, history, minutes):
            room = min(parallel - len(history.running), study.search_left(history))
            proposals, exhausted = study.propose(history, int(room)), False
            if proposals:
                history = history.with_pending(proposals[:1])
                continue
            exhausted = not history.running
        else:
            exhausted = False
        if any(not trial.confirms for trial in history.running):
            return history
        proposal = study.confirm(history, exhausted)
        if proposal is None:
            return history
        history = history.with_pending([proposal])
    return history


def run(
    study: StudySpec,
    objective: Objective,
    parallel: int = 1,
    history: History | None = None,
    minutes: Callable[[History], float] = lambda history: 0.0,
    fates: tuple[str, ...] = (),
) -> History:
    """Run a study to its end; trials end in the order of their numbers, each as its fate wants it."""
    history, pending = history or History(), iter(fates)
    while (history := step(study, history, parallel, minutes(history))).running:
        first, fate = history.running[0], next(pending, "ends")
        loss = objective(first) if fate == "ends" else None
        notes = {**first.notes, "lost": fate} if fate in ("died", "interrupted") else first.notes
        state = TrialState.FAILED if loss is None else TrialState.COMPLETE
        ended = replace(first, loss=loss, state=state, notes=notes)
        history = History([ended if each.number == first.number else each for each in history])
    return history


def repeats(history: History) -> list[Trial]:
    return [trial for trial in history if trial.repeat_of is not None]


@pytest.mark.parametrize(
    ("trials", "confirming"),
    [(11, 0), (12, 4), (20, 6), (30, 6), (50, 8), (100, 15), pytest.param(400, 32, marks=pytest.mark.slow)],
)
def test_the_last_part_of_a_noisy_studys_budget_confirms_the_best(trials: int, confirming: int) -> None:
    history = run(spec(trials), noisy)
    assert len(history) == trials
    assert sum(trial.confirms for trial in history) == confirming
    assert len(repeats(history)) == confirming + (1 if confirming else 0)
    if confirming:
        asked = Counter(trial.repeat_of for trial in history if trial.confirms)
        before = history.searched.merged
        hopes = expected(spec().search_space, before, seed=0)
        assert set(asked) == set(sorted(hopes, key=lambda number: hopes[number])[:4])
        assert history.incumbent is not None and history.incumbent.number in asked
        assert history.incumbent.loss == min(t.loss for t in history.merged.complete if t.confirmed)


def test_what_is_deterministic_is_asked_again_once() -> None:
    history = run(spec(50), level)
    assert len(history) == 50 and len(repeats(history)) == 1
    assert history.noise.deviation == 0.0
    assert len(history.identities) == 49


def test_values_that_agree_by_chance_are_asked_for_again() -> None:
    """The accuracy of a few rows: two trainings agree, but so do other configurations."""
    history = run(spec(30), lambda trial: round(noisy(trial), 1))
    assert history.noise.deviation > 0
    draws = iter([0.1] * 6 + [0.1] + [0.5, 0.2] + [0.3] * 50)
    history = run(spec(30), lambda trial: next(draws))
    assert len([trial for trial in repeats(history) if not trial.confirms]) == 2
    plateau = run(spec(30), lambda trial: round(level(trial), 1))
    assert len(repeats(plateau)) == 2


@given(
    fates=st.lists(st.sampled_from(["died", "interrupted", "fails", "ends", "ends", "ends", "ends"]), max_size=60),
    parallel=st.integers(1, 4),
    trials=st.integers(10, 30),
    rerun=st.integers(0, 2),
)
@settings(deadline=None)
def test_a_study_ends_with_as_many_trials_as_it_asked_for_whatever_dies(
    fates: list[str], parallel: int, trials: int, rerun: int
) -> None:
    study = spec(trials, parallel=parallel, rerun_lost=rerun)
    history = run(study, noisy, parallel, fates=tuple(fates))
    assert study.started(history) == study.ended(history) == trials
    for trial in repeats(history):
        original = history.trials[trial.repeat_of or 0]
        assert trial.identity == original.identity and original.repeat_of is None
    tried = [each.identity for each in history if each.repeat_of is None and "retry_of" not in each.notes]
    assert len(set(tried)) == len(tried)


def test_a_study_that_is_killed_goes_on_as_if_nothing_had_happened() -> None:
    whole = run(spec(30), noisy)
    for cut in range(30):
        assert run(spec(30), noisy, history=History(whole.trials[:cut])) == whole


@given(legs=st.lists(st.integers(16, 30), min_size=1, max_size=3), parallel=st.integers(1, 3))
@settings(deadline=None, max_examples=10)
def test_each_run_of_a_growing_study_confirms_anew(legs: list[int], parallel: int) -> None:
    """``trials: +20``, night after night."""
    history = History()
    for leg in legs:
        before = len(history)
        history = run(spec(before + leg), noisy, parallel, history)
        new = history.trials[before:]
        assert len(new) == leg
        assert sum(t.confirms for t in new) == min(6, leg // 3)
        confirmed = {trial.repeat_of for trial in new if trial.confirms}
        assert all(not t.confirms for t in new[: leg - sum(t.confirms for t in new)])
        assert len(confirmed) == 4
    assert run(spec(len(history)), noisy, parallel, history) == history


def test_a_study_that_is_extended_by_one_trial_confirms_nothing_new() -> None:
    history = run(spec(20), noisy)
    assert [trial.confirms for trial in run(spec(21), noisy, history=history).trials[20:]] == [False]


@pytest.mark.parametrize(
    "stop", [{"minutes": 5}, {"target": 0.05}, {"no_improvement": 8}, {"trials": 1000, "minutes": 5}]
)
def test_another_rule_ends_the_search_and_then_a_bounded_part_confirms(stop: dict[str, Any]) -> None:
    study = spec(stop=stop)
    history = run(study, noisy, minutes=lambda history: len(history) / 5)
    search = [trial for trial in history if not trial.confirms]
    assert len(search) >= 12 or "target" in stop
    confirming = len(history) - len(search)
    assert confirming <= max(6, len(search) // 4)
    assert confirming >= 4 or len(search) < 12
    assert study.stop_reason(history, 100.0)  # and that holds for good, whatever the means are now
    assert run(study, noisy, history=history, minutes=lambda history: 100.0) == history


def test_an_exhausted_space_asks_again_while_trials_remain() -> None:
    study = spec(40, space={"n": {"type": "int", "low": 1, "high": 10}}, strategy="random")
    history = run(study, lambda trial: (int(trial.config["n"]) - 4) ** 2 / 50 + noisy_only(trial))
    assert len(history) == 40
    assert len(history.identities) == 10
    quiet = run(study, lambda trial: float(trial.config["n"]))  # type: ignore[arg-type]
    assert len(quiet) == 11


def noisy_only(trial: Trial) -> float:
    return float(np.random.default_rng(trial.number).normal(0, 0.2))


def test_a_configuration_that_fails_when_it_is_trained_again_does_not_win() -> None:
    def objective(trial: Trial) -> float | None:
        flaky = float(trial.config["x"]) < 0.3  # type: ignore[arg-type]
        return None if flaky and trial.repeat_of is not None else noisy(trial)

    history = run(spec(40), objective)
    assert any(trial.state is TrialState.FAILED and trial.confirms for trial in history)
    best = history.incumbent
    assert best is not None
    if any(trial.confirmed for trial in history.merged):
        assert best.confirmed and float(best.config["x"]) >= 0.3  # type: ignore[arg-type]


FIDELITY = {"name": "epochs", "min": 1, "max": 9, "eta": 3}


@pytest.mark.parametrize("strategy", ["hyperband", "asha", "successive_halving"])
def test_with_fidelities_only_full_trainings_are_repeated(strategy: str) -> None:
    study = spec(60, strategy=strategy, fidelity=FIDELITY)
    history = run(study, lambda trial: noisy(trial) + 1 / (trial.fidelity or 1))
    assert repeats(history) and {trial.fidelity for trial in repeats(history)} == {9.0}
    assert all(trial.parent is None for trial in repeats(history))
    assert len(history) == 60
    quiet = run(study, lambda trial: level(trial) + 1 / (trial.fidelity or 1))
    without = run(spec(59, strategy=strategy, fidelity=FIDELITY, repeats="off"), lambda trial: level(trial))
    assert len(quiet.merged) == 59 and len(without) == 59


def test_a_finalist_whose_training_still_runs_is_not_passed_over() -> None:
    """Of four finalists the second and the best are the better half, though the best one's training still runs."""
    study = spec(20)
    history = run(study, noisy)
    first = min(trial.number for trial in history if trial.confirms)
    confirming = history.trials[first : first + 5]
    second, third, fourth, best = (trial.repeat_of for trial in confirming[:4])
    losses = {best: 0.0, second: 0.1, third: 0.2, fourth: 0.3}
    trials = [replace(trial, loss=losses.get(trial.number, 9.0)) for trial in history.trials[:first]]
    trials += [replace(trial, loss=losses.get(trial.repeat_of, 9.0)) for trial in confirming[:3]]
    trials.append(replace(confirming[3], state=TrialState.RUNNING, loss=None))
    trials.append(replace(confirming[4], notes=confirming[0].notes, config=confirming[0].config, loss=0.1))
    assert study.repeating is not None
    proposal = study.repeating.confirm(History(trials), None, 1, lambda seen: {})
    assert proposal is not None and proposal.notes["repeat_of"] == best


def test_off_repeats_nothing_and_a_final_choice_leaves_confirming_to_itself() -> None:
    assert not repeats(run(spec(30, repeats="off"), noisy))
    assert not repeats(run(spec(30, final={"top": 3, "folds": 3}), noisy))


def test_a_share_of_ones_own() -> None:
    history = run(spec(10, repeats={"share": 0.4, "top": 2}), noisy)
    confirming = [trial for trial in history if trial.confirms]
    assert len(history) == 10 and len(confirming) == 4 and len({trial.repeat_of for trial in confirming}) == 2


@pytest.mark.parametrize("other", [{"final": {"top": 3, "folds": 3}}, {"strategy": "gradient"}])
def test_repeats_that_can_never_be_made_are_refused(other: dict[str, Any]) -> None:
    assert spec(**other).repeating is None and spec(repeats="auto", **other).repeating is None
    with pytest.raises(InputError, match=r"repeats: .* remove one of the two"):
        spec(repeats={"top": 3}, **other)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("on", "'on' is neither auto nor off"),
        (True, "True is neither"),
        (3, "3 is neither auto nor off"),
        ({"share": 0.9}, "repeats.share"),
        ({"top": 0}, "repeats.top"),
        ({"shares": 0.1}, "shares"),
    ],
)
def test_what_cannot_be_is_refused_by_name(value: Any, told: str) -> None:
    with pytest.raises(InputError) as refused:
        spec(repeats=value)
    assert told in str(refused.value) and "repeats" in str(refused.value)


@pytest.mark.slow
def test_confirming_finds_better_answers_than_the_luckiest_trial() -> None:
    """40 studies of noise as large as half the range: the true loss of what is named the best."""

    def true_loss(seed: int, **changes: Any) -> float:
        draws = np.random.default_rng(seed)
        best = run(spec(50, seed=seed, **changes), lambda trial: level(trial) + float(draws.normal(0, 0.5))).incumbent
        assert best is not None
        return level(best)

    confirmed = np.mean([true_loss(seed) for seed in range(40)])
    luckiest = np.mean([true_loss(seed, repeats="off") for seed in range(40)])
    assert confirmed < 0.8 * luckiest


@given(
    strategy=st.sampled_from(["random", "grid", "asha", "hyperband", "successive_halving"]),
    trials=st.none() | st.integers(2, 30),
    share=st.sampled_from([0.1, 0.3, 0.5]),
    parallel=st.integers(1, 4),
    fates=st.lists(st.sampled_from(["ends", "fails", "died"]), max_size=40),
)
@settings(max_examples=60)
def test_a_study_that_starts_nothing_more_is_over(
    strategy: str, trials: int | None, share: float, parallel: int, fates: list[str]
) -> None:
    """However few trials were trained to the end, or came to an end at all: a flow that waited would wait for ever."""
    fidelity = {"name": "epochs", "min": 1, "max": 9, "eta": 3} if strategy not in ("random", "grid") else None
    stop = {"trials": trials} if trials else {"minutes": 10}
    few = {name: {"type": "int", "low": 0, "high": 3} for name in "xy"}
    study = spec(
        None,
        strategy=strategy,
        stop=stop,
        space=few,
        fidelity=fidelity,
        repeats={"share": share, "top": 2},
        parallel=parallel,
    )
    history = run(study, noisy, parallel, minutes=lambda history: 11.0 * (len(history) > 20), fates=tuple(fates))
    exhausted = study.stop_reason(history, 11.0 * (len(history) > 20)) is None
    assert not (exhausted and study.propose(history, 1)) and study.confirmations_left(history, exhausted) == 0
