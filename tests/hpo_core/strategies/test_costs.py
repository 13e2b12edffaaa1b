"""Strategies where trials have costs: what is cheap comes first, and a gain counts against what it costs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo_core import Float, SearchSpace
from hpo_core.history.history import History
from hpo_core.history.spending import EXPECTED
from hpo_core.history.trial import Proposal, Trial, TrialState
from hpo_core.space.configuration import Scalar
from hpo_core.strategies.common.costs import Costs, best_promise
from hpo_core.strategies.contract.histories import SPACES, answer, completed, history_of
from hpo_core.strategies.contract.laws import Case
from hpo_core.strategies.make import make_strategy

WEIGHING = pytest.mark.parametrize("strategy", ["bayesian", "tpe", "auto"])
SPACE = SearchSpace({"x": Float(low=0, high=1), "size": Float(low=0, high=1)})


def study(count: int, priced: bool) -> History:
    """Trials whose loss does not depend on ``size``, and whose cost does, by four orders of magnitude."""
    points = np.random.default_rng(3).random((count, 2)).tolist()
    return History(
        Trial(
            i,
            {"x": x, "size": size},
            TrialState.COMPLETE,
            (x - 0.3) ** 2,
            cost=10 ** (4 * size) if priced else None,
        )
        for i, (x, size) in enumerate(points)
    )


@pytest.mark.parametrize("strategy", ["bayesian", "tpe"])
def test_of_equal_gains_the_cheaper_is_proposed(strategy: str) -> None:
    def sizes(priced: bool) -> list[float]:
        history, found = study(24, priced), list[float]()
        for _ in range(3):
            (proposal,) = make_strategy(strategy).propose(SPACE, history, 1, seed=1)
            found.append(float(proposal.config["size"]))  # type: ignore[arg-type]
            history = history.with_pending([proposal])
        return found

    assert float(np.mean(sizes(True))) < float(np.mean(sizes(False))) - 0.1


def test_a_start_is_cheap_as_soon_as_costs_differ() -> None:
    strategy = make_strategy("bayesian")
    dear = [float(strategy.propose(SPACE, study(n, False), 1, seed=1)[0].config["size"]) for n in (3, 4, 5)]  # type: ignore[arg-type]
    proposals = [strategy.propose(SPACE, study(n, True), 1, seed=1)[0] for n in (3, 4, 5)]
    assert sum(float(p.config["size"]) for p in proposals) < sum(dear)  # type: ignore[arg-type]
    assert all(EXPECTED in proposal.notes for proposal in proposals)
    (told,) = make_strategy("auto").propose(SPACE, study(3, True), 1, seed=1)
    assert told.notes["picked"] == "bayesian" and "cheap" in str(told.notes["why"])


@pytest.mark.parametrize("spread", [0.0, 0.3, 0.45])
@pytest.mark.parametrize("strategy", ["bayesian", "tpe"])
@pytest.mark.parametrize("count", [3, 5, 24])
def test_costs_that_are_alike_are_not_weighed(spread: float, strategy: str, count: int) -> None:
    factors = np.exp(spread * np.resize([-1.0, 1.0, 0.0], count)).tolist()
    alike = History(replace(trial, cost=factor) for trial, factor in zip(study(count, True), factors, strict=True))

    def proposed(history: History) -> list[dict[str, Scalar]]:
        return [dict(p.config) for p in make_strategy(strategy).propose(SPACE, history, 3, seed=1)]

    assert proposed(alike) == proposed(study(count, False))


@given(spread=st.floats(0.01, 5), cost=st.floats(1e-6, 1e6))
@settings(max_examples=25, deadline=None)
def test_the_more_costs_differ_the_more_they_count_up_to_their_square_root(spread: float, cost: float) -> None:
    F = np.linspace(0, 1, 9)[:, None]
    trials = [Trial(i, {}, TrialState.COMPLETE, 0.0, cost=cost * math.exp(spread * (i % 3 - 1))) for i in range(9)]
    costs = Costs.fitted(trials, F, np.array([0]), 1.0, np.arange(9))
    deviation = spread * math.sqrt(2 / 3)
    assert costs.power == pytest.approx(min(max(deviation - 0.5, 0.0), 0.5))
    assert costs.log_weight(F) == pytest.approx(-costs.power * costs.log_expected(F))


@WEIGHING
@pytest.mark.parametrize("space", ["mixed", "constrained"])
@pytest.mark.parametrize("count", [3, 12])
def test_with_costs_proposals_are_valid_and_a_batch_is_what_single_ones_are(
    strategy: str, space: str, count: int, seed: int
) -> None:
    values = iter([1e-9, 1e99, 1.0, None] * count)
    configs = [trial.config for trial in history_of(space, seed)][:count]
    history = History(replace(trial, cost=next(values)) for trial in completed(configs))
    made = make_strategy(strategy)
    proposals = made.propose(SPACES[space], history, 2, seed=seed)
    Case(lambda: make_strategy(strategy), space, seed).check(history, proposals, 2)
    one = made.propose(SPACES[space], history, 1, seed=seed)
    two = made.propose(SPACES[space], history.with_pending(one), 1, seed=seed)
    assert answer([*one, *two]) == answer(proposals)


def test_a_promise_is_the_highest_gain_for_its_cost() -> None:
    def candidate(mean: float, cost: float) -> Proposal:
        return Proposal({}, notes={"predicted_mean": mean, "predicted_std": 1e-9, EXPECTED: cost})

    found = best_promise([candidate(0.0, 10.0), candidate(0.5, 1.0), Proposal({})], 1.0, 1.0)
    assert found is not None and math.isclose(found.gain, 0.5, rel_tol=1e-6) and found.cost == 1.0
    assert math.isclose(found.worth, 0.5, rel_tol=1e-6)
    assert best_promise([Proposal({})], 1.0, 1.0) is None
