"""What ``auto`` picks, by space, budget and history, and what it says of it."""

from __future__ import annotations

import pytest

from hpo_core import Boolean, Float, Int, SearchSpace
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.strategies.algorithms.bayesian import Bayesian
from hpo_core.strategies.auto import SHORT, SHORT_START, Auto
from tests.hpo_core.ledger.test_ledger import make_spec

SPACE = SearchSpace({"x": Float(low=0, high=1), "y": Float(low=0, high=1)})


def after(count: int, space: SearchSpace = SPACE) -> History:
    history = History()
    for number in range(count):
        (proposal,) = Auto(long=1000).propose(space, history, 1, seed=0)
        done = Trial(number, proposal.config, TrialState.COMPLETE, sum(map(float, proposal.config.values())))  # type: ignore[arg-type]
        history = History((*history, done))
    return history


def notes(auto: Auto, history: History, space: SearchSpace = SPACE) -> tuple[object, object]:
    (proposal,) = auto.propose(space, history, 1, seed=0)
    return proposal.notes["picked"], proposal.notes["why"]


def test_it_says_what_it_picked_and_why() -> None:
    history = after(8)
    start = "trial 1 of the 6 that cover the space before a model is used"
    assert notes(Auto(), History()) == ("quasi_random", start)
    assert notes(Auto(budget=50), history) == (
        "bayesian",
        "8 of 50 trials over 2 parameters: few enough for a Gaussian process",
    )
    assert notes(Auto(long=5), history)[0] == "quasi_random"  # tpe begins with ten of them
    picked, why = notes(Auto(long=5), after(12))
    assert picked == "tpe"
    assert "more than a Gaussian process can model" in str(why)
    failed = History(Trial(n, {"x": n / 9, "y": 0.0}, TrialState.FAILED) for n in range(7))
    assert notes(Auto(), failed) == ("quasi_random", "0 complete trials are too few to compare")


def test_a_budget_that_covers_the_space_is_said_to() -> None:
    space = SearchSpace({"n": Int(low=1, high=10), "b": Boolean()})
    assert notes(Auto(budget=20), after(7, space), space) == (
        "bayesian",
        "all 20 configurations fit the budget; a Gaussian process chooses their order",
    )
    assert "all" not in str(notes(Auto(budget=19), after(7, space), space)[1]).split()


@pytest.mark.parametrize(
    ("budget", "start"), [(None, Bayesian.start), (SHORT, SHORT_START), (SHORT + 1, Bayesian.start)]
)
def test_a_short_study_asks_the_model_sooner(budget: int | None, start: int) -> None:
    picked = [notes(Auto(budget=budget), after(number))[0] for number in range(7)]
    assert picked.index("bayesian") == start


def test_a_study_tells_its_budget_unless_the_file_does() -> None:
    def why(**strategy: object) -> str:
        spec = make_spec(stop={"trials": 30}, strategy={"name": "auto", **strategy})
        return str(spec.propose(History(), 1)[0].notes["budget"])

    assert (why(), why(budget=7)) == ("30", "7")
    assert "budget" not in make_spec(stop={"minutes": 3}).propose(History(), 1)[0].notes
    assert make_spec(strategy="random", stop={"trials": 30}).propose(History(), 1)
