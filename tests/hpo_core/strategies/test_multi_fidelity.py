"""Levels, rungs and brackets, and the strategies that promote; the laws of all strategies are tested elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hpo_core import Choice, Float, SearchSpace
from hpo_core.history.fidelity import Fidelity
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.strategies.base import Strategy
from hpo_core.strategies.make import make_strategy

SPACE = SearchSpace({"x": Float(low=0, high=1)})
EPOCHS = Fidelity("epochs", 1, 81, 3)
SMALL = Fidelity("epochs", 1, 9, 3)


def test_the_table_of_hyperband_for_81_and_3() -> None:
    assert EPOCHS.levels == (1.0, 3.0, 9.0, 27.0, 81.0)
    table = {s: EPOCHS.bracket(s) for s in range(5)}
    assert table == {4: (81, 27, 9, 3, 1), 3: (34, 11, 3, 1), 2: (15, 5, 1), 1: (8, 2), 0: (5,)}


@pytest.mark.parametrize(
    ("fidelity", "levels"),
    [
        (Fidelity("epochs", 1, 243, 3), (1, 3, 9, 27, 81, 243)),
        (Fidelity("epochs", 1, 100, 3), (1, 4, 11, 33, 100)),
        (Fidelity("epochs", 2, 50, 3), (2, 6, 17, 50)),
        (Fidelity("epochs", 1, 79, 2), (1, 2, 5, 10, 20, 40, 79)),
        (Fidelity("trees", 5, 5), (5,)),
        (Fidelity("trees", 3, 8), (3, 8)),
        (Fidelity("trees", 4, 8), (8,)),
        (Fidelity("share", 0.1, 1.0, 2), (0.125, 0.25, 0.5, 1.0)),
        (Fidelity("share", 1 / 9, 1.0, 3), (1 / 9, 1 / 3, 1.0)),
    ],
)
def test_levels(fidelity: Fidelity, levels: tuple[float, ...]) -> None:
    assert fidelity.levels == levels
    assert [fidelity.level_of(level) for level in levels] == list(range(len(levels)))
    assert fidelity.level_of(None) is None and fidelity.level_of(levels[0] * 1.01) is None


@pytest.mark.parametrize("facts", [{"eta": 1.9}, {"min": 0}, {"min": 30}, {"max": float("inf")}, {"max": float("nan")}])
def test_fidelities_that_cannot_be(facts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^(eta|min): "):
        Fidelity(**facts)


def promoting(name: str, fidelity: Fidelity, **settings: Any) -> Strategy:
    return make_strategy(name, settings, fidelity)


def loss(trial: Trial) -> float:
    return abs(float(trial.config["x"]) - 0.3)  # type: ignore[arg-type]


def ended(trial: Trial, value: float | None) -> Trial:
    return replace(trial, state=TrialState.FAILED if value is None else TrialState.COMPLETE, loss=value)


def simulated(
    strategy: Strategy,
    length: int,
    *,
    workers: int = 1,
    value: Callable[[Trial], float | None] = loss,
    space: SearchSpace = SPACE,
) -> History:
    """The history when so many workers run trials that take as long as their fidelity."""
    history, clock, ends = History(), 0.0, dict[int, float]()
    while len(history) < length or history.running:
        free = min(workers - len(history.running), length - len(history))
        proposals = strategy.propose(space, history, free, seed=0) if free > 0 else []
        history = history.with_pending(proposals)
        for trial in history.trials[len(history) - len(proposals) :]:
            ends[trial.number] = clock + (trial.fidelity or 0.0)
        if not history.running:
            break
        first = min(history.running, key=lambda trial: (ends[trial.number], trial.number))
        clock = ends[first.number]
        history = History(ended(t, value(t)) if t is first else t for t in history)
    return history


def table(history: History) -> dict[Any, tuple[int, float]]:
    """By bracket and rung: how many trials, at which fidelity."""
    counts = Counter((t.notes["bracket"], t.notes["rung"], t.fidelity) for t in history)
    return {(bracket, rung): (count, fidelity) for (bracket, rung, fidelity), count in sorted(counts.items())}


def test_hyperband_runs_its_table_and_begins_again() -> None:
    history = simulated(promoting("hyperband", SMALL), 22 + 9)
    # R = 9, eta = 3: brackets of 9, 5 and 3 configurations.
    assert table(History(history.trials[:22])) == {
        (0, 0): (9, 1.0),
        (0, 1): (3, 3.0),
        (0, 2): (1, 9.0),
        (1, 0): (5, 3.0),
        (1, 1): (1, 9.0),
        (2, 0): (3, 9.0),
    }
    assert table(History(history.trials[22:])) == {(3, 0): (9, 1.0)}


@pytest.mark.parametrize("workers", [1, 4, 16])
def test_a_whole_round_of_hyperband_for_81_and_3(workers: int) -> None:
    history = simulated(promoting("hyperband", EPOCHS), 300, workers=workers)
    rungs = {key: value for key, value in table(history).items() if key[0] < 4}
    sizes = {0: (81, 27, 9, 3, 1), 1: (34, 11, 3, 1), 2: (15, 5, 1), 3: (8, 2)}
    for bracket, expected in sizes.items():
        found = [rungs.get((bracket, rung)) for rung in range(len(expected))]
        first = bracket
        assert found == [(size, EPOCHS.levels[first + i]) for i, size in enumerate(expected)]


def test_promotions_are_the_best_of_their_rung_and_name_their_parents() -> None:
    history = simulated(promoting("hyperband", SMALL), 13)
    roots, promotions = history.trials[:9], history.trials[9:12]
    best = sorted(roots, key=loss)[:3]
    assert [trial.parent for trial in promotions] == [trial.number for trial in best]
    assert [trial.identity for trial in promotions] == [trial.identity for trial in best]
    assert history.trials[12].parent == 9 and history.trials[12].fidelity == 9.0


def test_free_workers_begin_the_next_bracket_while_a_rung_is_incomplete() -> None:
    strategy = promoting("hyperband", SMALL)
    history = History().with_pending(strategy.propose(SPACE, History(), 12, seed=0))
    assert table(history) == {(0, 0): (9, 1.0), (1, 0): (3, 3.0)}
    eight = History(ended(t, loss(t)) if t.number < 8 else t for t in history)
    assert table(History().with_pending(strategy.propose(SPACE, eight, 2, seed=0))) == {(1, 0): (2, 3.0)}
    nine = History(ended(t, loss(t)) if t.number < 9 else t for t in history)
    [promotion] = strategy.propose(SPACE, nine, 1, seed=0)
    assert (promotion.notes["bracket"], promotion.notes["rung"], promotion.fidelity) == (0, 1, 3.0)


def test_failed_trials_do_not_block_a_rung() -> None:
    def value(trial: Trial) -> float | None:
        return None if trial.number in (0, 1, 10) else loss(trial)

    history = simulated(promoting("hyperband", SMALL), 13, value=value)
    assert table(history) == {(0, 0): (9, 1.0), (0, 1): (3, 3.0), (0, 2): (1, 9.0)}
    assert {0, 1, 10}.isdisjoint({trial.parent for trial in history})


def test_a_bracket_whose_trials_all_fail_ends() -> None:
    history = simulated(promoting("hyperband", SMALL), 10, value=lambda trial: None)
    assert table(history) == {(0, 0): (9, 1.0), (1, 0): (1, 3.0)}


def test_the_retry_of_a_lost_trial_takes_its_place() -> None:
    strategy = promoting("hyperband", SMALL)
    history = simulated(strategy, 11)
    lost = ended(history.trials[10], None)
    retry = replace(history.trials[10], number=11, state=TrialState.RUNNING, loss=None)
    before = [*history.trials[:10], lost, retry]
    [third] = strategy.propose(SPACE, History(before), 1, seed=0)
    assert (third.notes["rung"], third.parent) == (1, sorted(history.trials[:9], key=loss)[2].number)
    done = [*before[:-1], ended(retry, 0.0), Trial(12, third.config, TrialState.COMPLETE, 1.0, 3.0, third.parent)]
    [top] = strategy.propose(SPACE, History(done), 1, seed=0)
    assert (top.parent, top.fidelity) == (11, 9.0)


def test_a_trial_that_was_stopped_is_settled_on_its_rung_and_not_promoted() -> None:
    strategy = promoting("hyperband", SMALL)
    history = simulated(strategy, 12)
    stopped = [
        replace(t, fidelity=2.0, stopped_early=True, requested_fidelity=3.0, loss=0.0) if t.number == 9 else t
        for t in history
    ]
    [top] = strategy.propose(SPACE, History(stopped), 1, seed=0)
    assert (top.parent, top.fidelity) == (10, 9.0)


def test_successive_halving_repeats_one_bracket() -> None:
    history = simulated(promoting("successive_halving", SMALL), 26)
    rungs = {(0, 0): (9, 1.0), (0, 1): (3, 3.0), (0, 2): (1, 9.0)}
    assert table(history) == rungs | {(1, rung): value for (_, rung), value in rungs.items()}


def test_asha_promotes_as_soon_as_a_trial_is_among_the_best_third() -> None:
    order = iter([0.5, 0.2, 0.9, 0.1, 0.8, 0.3, 0.4, 0.6, 0.7])
    by_config: dict[str, float] = {}

    def value(trial: Trial) -> float:
        if trial.identity not in by_config:
            by_config[trial.identity] = next(order)
        return by_config[trial.identity]

    history = simulated(promoting("asha", SMALL), 13, value=value)
    assert [(trial.fidelity, trial.parent) for trial in history] == [
        *[(1.0, None)] * 3,
        (3.0, 1),  # the best of three
        (1.0, None),  # 0.1, the best of four
        (3.0, 4),
        *[(1.0, None)] * 2,  # 0.8, 0.3: of six the best two are 0.1 and 0.2, which have gone on
        *[(1.0, None)] * 3,  # 0.4, 0.6, 0.7
        (3.0, 7),  # of nine also 0.3
        (9.0, 5),  # the best of three on the second rung
    ]


def test_asha_never_waits() -> None:
    strategy = promoting("asha", SMALL)
    history = History()
    for _ in range(40):
        history = history.with_pending(strategy.propose(SPACE, history, 1, seed=0))
    assert {trial.fidelity for trial in history.running} == {1.0} and len(history) == 40


def test_asha_passes_over_what_failed_and_what_was_stopped() -> None:
    trials = [Trial(i, {"x": i / 10}, TrialState.COMPLETE, i / 10, 1.0) for i in range(6)]
    [first] = promoting("asha", SMALL).propose(SPACE, History(trials), 1, seed=0)
    assert first.parent == 0
    trials[0] = replace(trials[0], state=TrialState.FAILED, loss=None)
    trials[1] = replace(trials[1], fidelity=0.5, stopped_early=True, requested_fidelity=1.0)
    [first] = promoting("asha", SMALL).propose(SPACE, History(trials), 1, seed=0)
    assert first.parent == 2


@pytest.mark.parametrize("name", ["hyperband", "successive_halving", "asha"])
def test_a_small_space_ends_with_a_full_training(name: str) -> None:
    space = SearchSpace({"c": Choice(choices=["a", "b", "c", "d"])})
    history = simulated(
        promoting(name, SMALL), 50, workers=3, space=space, value=lambda trial: "abcd".index(str(trial.config["c"]))
    )
    assert len(history) < 50
    assert history.incumbent is not None
    assert (history.incumbent.config, history.incumbent.fidelity) == ({"c": "a"}, 9.0)


@pytest.mark.parametrize("name", ["hyperband", "successive_halving", "asha"])
@pytest.mark.parametrize("sampler", ["bayesian", {"name": "tpe", "start": 4}, "quasi_random"])
def test_any_strategy_fills_the_rungs(name: str, sampler: Any) -> None:
    history = simulated(promoting(name, SMALL, sampler=sampler), 40, workers=4)
    roots = [trial for trial in history if trial.parent is None]
    assert len({trial.identity for trial in roots}) == len(roots)
    if sampler != "quasi_random":
        assert any("acquisition" in trial.notes for trial in roots), "the model was asked"
    if sampler == "bayesian":
        late = [loss(trial) for trial in roots[len(roots) // 2 :]]
        assert sum(late) / len(late) < 0.2, "it has learned where the low losses are; uniform points have 0.29"


@pytest.mark.parametrize("name", ["hyperband", "successive_halving", "asha"])
def test_what_may_be_promoted_holds_whoever_is(name: str) -> None:
    strategy = promoting(name, SMALL)
    assert strategy.promotes
    history = simulated(strategy, 60, workers=4)
    for length in range(1, len(history)):
        past = History(history.trials[:length])
        for proposal in strategy.propose(SPACE, past, 4, seed=0):
            assert proposal.parent is None or proposal.parent in strategy.promotable(past)
    assert len(strategy.promotable(history)) < len(history) * 2 / 3


@pytest.mark.parametrize("name", ["hyperband", "successive_halving"])
def test_what_may_not_be_promoted_any_more_never_is(name: str) -> None:
    strategy = promoting(name, SMALL)
    assert strategy.promotes
    history = simulated(strategy, 60)
    given_up: set[int] = set()
    for length in range(1, len(history)):
        assert history.trials[length].parent not in given_up
        past = History(history.trials[:length])
        given_up |= {trial.number for trial in past} - strategy.promotable(past)
    assert given_up
