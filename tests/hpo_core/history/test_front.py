"""The Pareto front of a history: who is on it, who stands for it, and how its hypervolume grows."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from hpo_core.history.front import REFERENCE_TRIALS, best_first, by_standing, compromise
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState


def trial(number: int, *losses: float, **facts: object) -> Trial:
    given = {"loss": losses[0], "losses": losses if len(losses) > 1 else ()}
    return replace(Trial(number, {"x": float(number)}, TrialState.COMPLETE, **given), **facts)


def numbers(trials: object) -> list[int]:
    return [each.number for each in trials]  # type: ignore[attr-defined]


values = st.integers(0, 4).map(float)
histories = st.lists(st.tuples(values, values, values, st.integers(-1, 1)), max_size=14).map(
    lambda rows: History(trial(i, *row[:3], excess={"size": float(row[3])}) for i, row in enumerate(rows))
)


@given(histories)
def test_nothing_dominates_the_front_and_the_front_dominates_the_rest(history: History) -> None:
    front = history.front
    rivals = [t for t in history if t.feasible] or [
        t for t in history if t.violation == min(each.violation for each in history)
    ]
    better = {
        (a.number, b.number)
        for a, b in itertools.permutations(rivals, 2)
        if all(x <= y for x, y in zip(a.losses, b.losses, strict=True))
        and (a.losses != b.losses or a.number < b.number)
    }
    beaten = {b for _, b in better}
    assert set(numbers(front)) == set(numbers(rivals)) - beaten
    assert [t.losses for t in front] == sorted(t.losses for t in front)
    assert history.incumbent in (front or (None,))
    assert sorted(numbers(by_standing(history))) == numbers(history)
    if front and front[0].feasible:
        distinct = {t.losses for t in history if t.feasible and t.losses in {f.losses for f in front}}
        assert {t.losses for t in by_standing(history)[: len(front)]} <= distinct


@given(histories, st.randoms())
def test_the_order_of_trials_does_not_matter(history: History, rng: random.Random) -> None:
    shuffled = list(history)
    rng.shuffle(shuffled)
    again = History(shuffled)
    assert (again.front, again.incumbent, again.digest) == (history.front, history.incumbent, history.digest)
    assert by_standing(shuffled) == by_standing(history)


@given(histories)
def test_the_hypervolume_never_falls(history: History) -> None:
    found = [volume for _, volume in history.hypervolumes()]
    assert found == sorted(found)
    assert not found or found[-1] == pytest.approx(history.hypervolume)


def test_the_reference_stays_once_it_is_known() -> None:
    trials = [trial(i, float(i), 10.0 - i) for i in range(REFERENCE_TRIALS)]
    later = [*trials, trial(20, 50.0, -1.0), trial(21, -1.0, 50.0)]
    assert History(trials).reference == History(later).reference == (9.0, 10.0)
    assert History([trial(0, 1.0)]).reference == () and History([trial(0, 1.0)]).hypervolume == 0.0


def test_with_one_objective_the_front_is_the_incumbent() -> None:
    history = History([trial(0, 2.0), trial(1, 1.0), trial(2, 1.0), trial(3, 3.0)])
    assert numbers(history.front) == [1] and history.incumbent == history.front[0]
    assert numbers(by_standing(history)) == [1, 2, 0, 3]


def test_the_compromise_is_nearest_to_the_best_in_each_as_shares_of_the_extent() -> None:
    front = [trial(0, 0.0, 1000.0), trial(1, 0.2, 300.0), trial(2, 1.0, 0.0)]
    assert compromise(front) == front[1]
    assert compromise(front[:1]) == front[0] and compromise([]) is None
    assert compromise([front[0], front[2]]) == front[0]


def test_crowded_trials_of_a_front_come_after_lonely_ones_and_low_fidelities_last() -> None:
    front = [trial(0, 0.0, 9.0), trial(1, 4.0, 4.0), trial(2, 4.1, 3.9), trial(3, 4.2, 3.8), trial(4, 9.0, 0.0)]
    dominated, low = trial(5, 9.0, 9.0), trial(6, -1.0, -1.0, fidelity=3.0)
    ordered = numbers(best_first([low, dominated, *front]))
    assert set(ordered[:2]) == {0, 4} and ordered[4] == 2 and ordered[5:] == [5, 6]


def test_what_changes_the_front_is_an_improvement() -> None:
    history = History(
        [trial(0, 1.0, 1.0), trial(1, 2.0, 2.0), trial(2, 0.0, 3.0), trial(3, 2.0, 1.5), trial(4, 1.0, 1.0)]
    )
    assert numbers(history.front) == [2, 0] and history.since_improvement() == 2


def test_losses_are_part_of_what_a_strategy_depends_on() -> None:
    one = Trial(0, {"x": 0.5}, TrialState.COMPLETE, 1.0)
    assert History([replace(one, losses=(1.0, 2.0))]).digest != History([replace(one, losses=(1.0, 3.0))]).digest
    with pytest.raises(ValueError, match="complete with the loss"):
        History([replace(one, losses=(1.0, float("inf")))])
