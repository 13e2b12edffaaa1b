"""The history: order, incumbent, digest, arrays, and proposals as pending trials."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo_core import Boolean, Fixed, Float, SearchSpace
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal, Trial, TrialState


def trial(number: int, loss: float | None = None, **facts: Any) -> Trial:
    state = facts.pop("state", TrialState.COMPLETE if loss is not None else TrialState.FAILED)
    return Trial(number, facts.pop("config", {"x": number / 10}), state, loss, **facts)


def running(number: int, **facts: Any) -> Trial:
    return trial(number, state=TrialState.RUNNING, **facts)


TRIALS = [trial(0, 3.0), trial(1), running(2), trial(3, 1.0), trial(4, 2.0)]


def test_trials_stand_by_number_in_whatever_order_they_come() -> None:
    for some in permutations(TRIALS):
        history = History(some)
        assert [trial.number for trial in history] == [0, 1, 2, 3, 4]
        assert history == History(TRIALS)


def test_views_by_state() -> None:
    history = History(TRIALS)
    views = (history.complete, history.failed, history.running)
    assert [[trial.number for trial in view] for view in views] == [[0, 3, 4], [1], [2]]
    assert len(history) == 5
    assert history.identities == {trial.identity for trial in TRIALS}


def test_the_empty_history() -> None:
    history = History()
    assert (len(history), history.next_number, history.incumbent, history.max_fidelity) == (0, 0, None, None)
    assert history.since_improvement() == 0
    assert (history.complete, history.running, history.failed) == ((), (), ())


def test_two_trials_of_one_number_are_refused() -> None:
    with pytest.raises(ValueError, match="two trials have the number 3"):
        History([trial(3, 1.0), trial(1, 1.0), trial(3, 2.0)])


@pytest.mark.parametrize("loss", [None, math.nan, math.inf, -math.inf])
def test_a_complete_trial_without_a_finite_loss_is_refused(loss: float | None) -> None:
    with pytest.raises(ValueError, match="trial 0 is complete with the loss"):
        History([trial(0, loss, state=TrialState.COMPLETE)])


@pytest.mark.parametrize(
    ("numbers", "given", "following"), [([], 0, 0), ([], 7, 7), ([0, 1], 0, 2), ([0, 5], 0, 6), ([0, 1], 9, 9)]
)
def test_the_next_number_passes_over_gaps_and_deleted_trials(numbers: list[int], given: int, following: int) -> None:
    assert History([trial(number, 1.0) for number in numbers], given).next_number == following


@pytest.mark.parametrize(
    ("trials", "number", "since"),
    [
        ([trial(0, 3.0), trial(1, 1.0), trial(2, 2.0)], 1, 1),
        ([trial(0, 1.0), trial(1, 1.0), trial(2, 1.0)], 0, 2),
        ([trial(0, 1.0), trial(1), running(2)], 0, 0),
        ([trial(0, -1e308), trial(1, 0.0)], 0, 1),
        ([trial(0, 0.1, fidelity=1), trial(1, 5.0, fidelity=9), trial(2, 4.0, fidelity=9)], 2, 0),
        ([trial(0, 0.1, fidelity=1), trial(1, 0.2, fidelity=3), running(2, fidelity=9)], 1, 0),
        ([trial(0, 5.0), trial(1, 0.1, fidelity=1)], 0, 0),  # without a fidelity is to the end
        ([trial(0, 0.5), trial(1, 0.1, fidelity=1, stopped_early=True), trial(2, 0.2, fidelity=3)], 0, 1),
        ([trial(0, 0.1, fidelity=9), trial(1, 5.0, fidelity=1), trial(2, 4.0, fidelity=9)], 0, 1),
    ],
)
def test_the_incumbent_is_the_earliest_best_of_the_highest_fidelity(
    trials: list[Trial], number: int, since: int
) -> None:
    for some in (trials, trials[::-1]):
        history = History(some)
        assert history.incumbent is not None
        assert (history.incumbent.number, history.since_improvement()) == (number, since)


@pytest.mark.parametrize("trials", [[], [trial(0), trial(1)], [running(0)]])
def test_without_complete_trials_there_is_no_incumbent(trials: list[Trial]) -> None:
    assert History(trials).incumbent is None
    assert History(trials).since_improvement() == 0


def test_the_digest_does_not_depend_on_order() -> None:
    assert len({History(some).digest for some in permutations(TRIALS)}) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"number": 9},
        {"config": {"x": 0.31}},
        {"loss": math.nextafter(1.0, 2)},
        {"state": TrialState.FAILED, "loss": None},
        {"fidelity": 3.0},
        {"parent": 0},
        {"hypergradient": {"x": 0.5}},
    ],
)
def test_the_digest_changes_with_all_that_a_strategy_may_depend_on(changes: dict[str, Any]) -> None:
    changed = [*TRIALS[:3], replace(TRIALS[3], **changes), TRIALS[4]]
    assert History(changed).digest != History(TRIALS).digest


def test_the_digest_changes_with_each_trial_and_with_the_next_number() -> None:
    digests = {History(TRIALS[:n]).digest for n in range(6)} | {History(TRIALS, 9).digest}
    assert len(digests) == 7


@pytest.mark.parametrize("changes", [{"run_id": "r"}, {"start": 5}, {"end": 9}, {"reason": "r"}, {"metrics": {"m": 1}}])
def test_the_digest_ignores_what_is_for_people(changes: dict[str, Any]) -> None:
    assert History([replace(trial, **changes) for trial in TRIALS]).digest == History(TRIALS).digest


def test_arrays_are_the_complete_trials_with_nan_where_inactive() -> None:
    space = SearchSpace({"b": Boolean(), "x": Float(low=0, high=2, when={"b": [True]}), "k": Fixed(value=1)})
    history = History(
        [
            trial(2, 5.0, config={"b": False, "k": 1}),
            trial(0, 4.0, config={"b": True, "x": 0.5, "k": 1}),
            trial(1, config={"b": False, "k": 1}),
            running(3, config={"b": False, "k": 1}),
        ]
    )
    x, losses = history.arrays(space)
    np.testing.assert_array_equal(x, [[0.75, 0.25], [0.25, math.nan]])
    np.testing.assert_array_equal(losses, [4.0, 5.0])


def test_arrays_of_nothing_have_their_shapes() -> None:
    x, losses = History([trial(0), running(1)]).arrays(SearchSpace({"x": Float(low=0, high=1), "b": Boolean()}))
    assert (x.shape, losses.shape) == ((0, 2), (0,))


def test_proposals_stand_as_running_trials_of_the_next_numbers() -> None:
    history = History(TRIALS, next_number=8)
    proposals = [Proposal({"x": 0.7}, 3.0, 1, {"strategy": "s"}), Proposal({"x": 0.8})]
    pending = history.with_pending(proposals)
    assert pending.trials[:5] == history.trials
    assert [(t.number, t.state, t.config) for t in pending.trials[5:]] == [
        (8, TrialState.RUNNING, {"x": 0.7}),
        (9, TrialState.RUNNING, {"x": 0.8}),
    ]
    assert (pending.trials[5].fidelity, pending.trials[5].parent, pending.trials[5].notes) == (
        3.0,
        1,
        {"strategy": "s"},
    )
    assert pending.next_number == 10
    assert len(history) == 5


def test_no_proposals_leave_a_history_as_it_is() -> None:
    history = History(TRIALS, next_number=8)
    assert history.with_pending([]) == history


VIEWS: dict[str, Callable[[History], object]] = {
    "trials": lambda history: history.trials,
    "next_number": lambda history: history.next_number,
    "complete": lambda history: history.complete,
    "running": lambda history: history.running,
    "failed": lambda history: history.failed,
    "retaken": lambda history: history.retaken,
    "without_retaken": lambda history: history.without_retaken(),
    "merged": lambda history: history.merged,
    "merged of those": lambda history: history.without_retaken().merged,
    "incumbent of those": lambda history: history.without_retaken().merged.incumbent,
    "searched": lambda history: history.searched,
    "noise": lambda history: repr(history.noise),
    "identities": lambda history: history.identities,
    "max_fidelity": lambda history: history.max_fidelity,
    "incumbent": lambda history: history.incumbent,
    "front": lambda history: history.front,
    "since_improvement": lambda history: history.since_improvement(),
    "luckiest": lambda history: history.luckiest,
    "digest": lambda history: history.digest,
}


@st.composite
def trials(draw: st.DrawFn) -> Trial:
    number = draw(st.integers(0, 7))
    complete, notes = draw(st.booleans()), dict[str, Any]()
    if draw(st.booleans()):
        notes["repeat_of"] = str(draw(st.integers(0, 7)))
        notes["purpose"] = draw(st.sampled_from(["confirm", "probe"]))
    if draw(st.integers(0, 3)) == 0:
        notes["retry_of"] = str(draw(st.integers(0, 7)))
    if not complete and draw(st.booleans()):
        notes["lost"] = "died"
    loss = draw(st.sampled_from([0.0, 1.0, 2.0, 3.0])) if complete else None
    facts: dict[str, Any] = {"fidelity": draw(st.sampled_from([None, 1.0, 3.0])), "notes": notes}
    facts["config"] = {"x": draw(st.sampled_from([0.1, 0.2]))}
    if complete and draw(st.booleans()):
        facts |= {"folds": (loss,), "folds_wanted": 2}
    if not complete and draw(st.booleans()):
        facts["state"] = TrialState.RUNNING
    return trial(number, loss, **facts)


@given(
    st.lists(trials(), max_size=8),
    st.lists(
        st.tuples(
            st.lists(trials(), max_size=3),
            st.sets(st.integers(0, 7), max_size=2),
            st.sets(st.sampled_from(sorted(VIEWS))),
        ),
        max_size=5,
    ),
)
def test_an_updated_history_equals_one_that_is_made_anew(
    first: list[Trial], updates: list[tuple[list[Trial], set[int], set[str]]]
) -> None:
    known = {each.number: each for each in first}
    history = History(known.values(), 4)
    for new, gone, looked_at in updates:
        for name in sorted(looked_at):
            VIEWS[name](history)  # what was derived is carried over
        known = {number: each for number, each in known.items() if number not in gone}
        known |= {each.number: each for each in new}
        history = history.updated(new, gone=gone)
        fresh = History(known.values(), history.next_number)
        for name, view in VIEWS.items():
            assert view(history) == view(fresh), name
