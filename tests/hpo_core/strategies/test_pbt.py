"""What only population based training promises: generations, survivors, and copies of the best with other values."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from hpo_core import Choice, Fidelity, Float, History, Int, Proposal, SearchSpace, Strategy, Trial, TrialState
from hpo_core.base.errors import InputError
from hpo_core.strategies.make import make_strategy
from hpo_core.study.file import study_from

SPACE = SearchSpace({"x": Float(low=0, high=1), "layers": Int(low=1, high=4), "kind": Choice(choices=["a", "b"])})
SETTINGS = {"population": 5, "generations": 3}
STRATEGY = make_strategy("pbt", SETTINGS, Fidelity("epochs", 1, 9))


def loss(config: object) -> float:
    return abs(float(config["x"]) - 0.3)  # type: ignore[index]


def ended(trial: Trial) -> Trial:
    return replace(trial, state=TrialState.COMPLETE, loss=loss(trial.config))


def after(count: int, fails: frozenset[int] = frozenset(), strategy: Strategy = STRATEGY) -> History:
    history = History()
    while len(history) < count and (found := strategy.propose(SPACE, history, 1, seed=0)):
        trial = history.with_pending(found).trials[-1]
        failed = replace(trial, state=TrialState.FAILED)
        history = History((*history, failed if trial.number in fails else ended(trial)))
    return history


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_a_population_trains_in_generations_to_the_end(size: int) -> None:
    """Also a small one, of which the share that is given up is less than one trial."""
    history = after(100, strategy=make_strategy("pbt", SETTINGS | {"population": size}, Fidelity("epochs", 1, 9)))
    assert [trial.fidelity for trial in history] == [3.0] * size + [6.0] * size + [9.0] * size
    for generation in (history.trials[:size], history.trials[size : 2 * size]):
        worst = max(generation, key=lambda trial: trial.standing)
        best = min(generation, key=lambda trial: trial.standing)
        following = [t for t in history if t.parent in {trial.number for trial in generation}]
        assert worst.number not in {trial.parent for trial in following}
        (copy,) = [t for t in following if t.config != history.trials[t.parent or 0].config]
        assert copy.parent == best.number and copy.config["x"] != best.config["x"]
        assert (copy.config["layers"], copy.config["kind"]) == (best.config["layers"], best.config["kind"])
        assert str(copy.notes["why"]).startswith(f"goes on from trial {best.number}, one of the best, with x 0.")


def test_a_population_of_one_is_one_training() -> None:
    history = after(100, strategy=make_strategy("pbt", SETTINGS | {"population": 1}, Fidelity("epochs", 1, 9)))
    assert [trial.parent for trial in history] == [None, 0, 1] and len({trial.identity for trial in history}) == 1


def test_the_place_of_a_failed_trial_is_taken() -> None:
    history = after(100, frozenset({1, 7}))
    assert len(history.complete) == 15 and not STRATEGY.propose(SPACE, history, 1, seed=0)


def test_every_trial_that_is_continued_was_to_be_kept() -> None:
    history = after(100)
    for trial in history.trials[5:]:
        assert trial.parent in STRATEGY.promotable(History(history.trials[: trial.number]))
    assert not STRATEGY.promotable(history)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("given", [0, 8])
def test_a_checkpoint_is_there_when_a_trial_goes_on_from_it(given: int, seed: int) -> None:
    """Two slots, trials that end in any order or fail, and more configurations of the user's own than a population."""
    rng, history, kept = random.Random(seed), History(), set[int]()
    own = [Proposal({"x": (i + 0.5) / 10, "layers": 1, "kind": "a"}, STRATEGY.entry) for i in range(given)]
    while True:
        free = 2 - len(history.running)
        started, own = own[:free], own[free:]
        started += STRATEGY.propose(SPACE, history.with_pending(started), free - len(started), seed=seed)
        assert {trial.parent for trial in started} - {None} <= kept
        history = history.with_pending(started)
        if not history.running:
            break
        trial = rng.choice(history.running)
        done = replace(trial, state=TrialState.FAILED) if rng.random() < 0.1 else ended(trial)
        history = History((*(other for other in history if other.number != trial.number), done))
        needed = {other.parent for other in history.running} | {best.number for best in history.front}
        kept = (kept | {trial.number}) & (STRATEGY.promotable(history) | needed)
    assert len(history.complete) >= 15 and not kept - {history.incumbent.number}  # type: ignore[union-attr]


def test_nobody_waits_for_a_slow_one() -> None:
    trials = [*after(5)]
    slow = replace(trials[2], state=TrialState.RUNNING, loss=None)
    history = History([*trials[:2], slow, *trials[3:]])
    proposals = STRATEGY.propose(SPACE, history, 5, seed=0)
    assert [proposal.fidelity for proposal in proposals] == [6.0] * 4
    assert 2 not in {proposal.parent for proposal in proposals}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"explore": ["width"]}, "strategy.explore: 'width' is not a parameter that can change"),
        ({"replaced": 0.7}, "strategy.replaced: 0.7 is not a number of at most 0.5"),
    ],
)
def test_what_cannot_be_explored_is_told(settings: dict[str, object], message: str) -> None:
    keys = {"name": "p", "metric": "loss", "direction": "minimize", "stop": {"trials": 9}}
    keys |= {"fidelity": {"name": "epochs", "min": 1, "max": 9}}  # type: ignore[dict-item]
    space = {"x": {"type": "float", "low": 0, "high": 1}}
    with pytest.raises(InputError, match=message):
        study_from({**keys, "space": space, "strategy": {"name": "pbt", **settings}})
    spec = study_from({**keys, "space": space, "strategy": "pbt", "first": [{"x": 0.5}]})
    assert spec.repeating is None
    assert spec.propose(History(), 1)[0].fidelity == 1.0
