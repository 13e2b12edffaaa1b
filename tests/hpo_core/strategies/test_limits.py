"""Strategies where results have limits that few configurations keep."""

from __future__ import annotations

import math

import pytest

from hpo_core import Float, SearchSpace
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.strategies.make import make_strategy

SPACE = SearchSpace({f"x{i}": Float(low=0, high=1) for i in range(6)})


def searched(strategy: str, seed: int, trials: int) -> list[Trial]:
    """Trials of which 0.2 % of the space keep the first limit, and half of it each of the others."""
    history, made = History(), make_strategy(strategy)
    for number in range(trials):
        (proposal,) = made.propose(SPACE, history, 1, seed=seed)
        x = [float(value) for value in proposal.config.values()]  # type: ignore[arg-type]
        excess = {"corner": x[0] + x[1] - 0.06} | {f"half {i}": 0.5 - each for i, each in enumerate(x[2:])}
        done = Trial(number, proposal.config, TrialState.COMPLETE, -sum(x), excess=excess)
        history = History((*history, done))
    return list(history)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("strategy", ["tpe", "bayesian"])
def test_a_limit_that_a_corner_of_the_space_keeps_is_found_and_then_improved_on(strategy: str, seed: int) -> None:
    trials = searched(strategy, seed, 100 if strategy == "tpe" else 30)
    kept = [trial.loss for trial in trials if trial.feasible]
    assert len(kept) >= 2
    assert min(loss for loss in kept if loss is not None) < (kept[0] or math.inf)
