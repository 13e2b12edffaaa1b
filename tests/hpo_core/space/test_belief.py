"""What a user believes of good values: its density, how strategies use it, and what a wrong one costs."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hpo_core import Boolean, Choice, Float, Int, Ordinal, SearchSpace
from hpo_core.base.errors import InputError
from hpo_core.history.fidelity import Fidelity
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.space.belief import UNIFORM, Belief, Confidence
from hpo_core.space.configuration import Config, identity
from hpo_core.strategies.common.sampling import trust
from hpo_core.strategies.make import make_strategy
from hpo_core.study.file import study_from

PARAMETERS: dict[str, Any] = {
    "rate": Float(low=1e-5, high=1e-1, log=True),
    "units": Int(low=8, high=256, step=8),
    "kind": Choice(choices=["adam", "sgd", "rmsprop"]),
    "nesterov": Boolean(when={"kind": ["sgd"]}),
}
BELIEFS = {"rate": Belief(1e-3, "high"), "units": Belief(64, "low"), "kind": Belief("sgd", "medium")}
PLAIN, SPACE = SearchSpace(PARAMETERS), SearchSpace(PARAMETERS, (), BELIEFS)
MODELS = ["tpe", "bayesian"]


def test_the_density_is_one_and_highest_where_the_user_believes() -> None:
    points = np.random.default_rng(0).random((200_000, SPACE.dimensions))
    density = np.exp(SPACE.belief.log_density(points))
    assert density.mean() == pytest.approx(1.0, abs=0.05)
    centre = SPACE.encode({"rate": 1e-3, "units": 64, "kind": "sgd", "nesterov": True})[None]
    assert np.exp(SPACE.belief.log_density(centre))[0] >= density.max() * 0.9
    assert density.min() >= UNIFORM**3 * 0.5


def test_draws_follow_the_density() -> None:
    drawn = SPACE.belief.warped(np.random.default_rng(1).random((20_000, SPACE.dimensions)))
    assert drawn.min() >= 0 and drawn.max() <= 1
    kinds = [SPACE.decode(row)["kind"] for row in drawn[:2_000]]
    assert kinds.count("sgd") / 2_000 == pytest.approx(0.5 * (1 - UNIFORM) + (0.5 + UNIFORM / 2) / 3, abs=0.05)
    assert drawn[:, 0].mean() == pytest.approx(0.5, abs=0.01) and drawn[:, 0].std() == pytest.approx(0.04, abs=0.005)


def test_inactive_parameters_say_nothing() -> None:
    space = SearchSpace(PARAMETERS, (), {"nesterov": Belief(True, "high")})
    inactive = space.encode({"rate": 1e-3, "units": 64, "kind": "adam"})[None]
    assert space.belief.log_density(inactive)[0] == 0


@pytest.mark.parametrize(
    ("prior", "words"),
    [
        ({"speed": {"around": 1}}, r"prior\.speed.*not a tuned parameter"),
        ({"rate": {"around": 5.0}}, r"prior\.rate\.around"),
        ({"kind": {"around": "nadam"}}, r"prior\.kind\.around"),
        ({"rate": {"around": 1e-3, "confidence": "certain"}}, r"prior\.rate\.confidence.*one of low, medium, high"),
        ({"rate": {"confidence": "low"}}, r"prior\.rate\.around"),
    ],
)
def test_a_belief_that_fits_no_parameter_is_one_error(prior: dict[str, Any], words: str) -> None:
    study = {
        "name": "s", "objective": "m:f", "metric": "loss", "direction": "minimize", "stop": {"trials": 3},
        "space": {name: parameter.model_dump() for name, parameter in PARAMETERS.items()},
    }  # fmt: skip
    with pytest.raises(InputError, match=words):
        study_from(study | {"prior": prior})


def loss(config: Config) -> float:
    return abs(SPACE.encode(config)[0] - 0.5) + abs(SPACE.encode(config)[1] - 0.2) + (config["kind"] != "sgd")


def tried(strategy: str, space: SearchSpace, trials: int, seed: int = 3) -> list[tuple[Config, float]]:
    """The configurations that a strategy tries one after another, and their losses."""
    history, made = History(), make_strategy(strategy)
    for number in range(trials):
        (proposal,) = made.propose(space, history, 1, seed=seed)
        done = Trial(number, proposal.config, TrialState.COMPLETE, loss(proposal.config))
        history = History((*history, done))
    return [(trial.config, trial.loss or 0.0) for trial in history]


def searched(strategy: str, space: SearchSpace, trials: int) -> list[float]:
    return [loss for _, loss in tried(strategy, space, trials)]


@st.composite
def beliefs(draw: st.DrawFn) -> tuple[SearchSpace, Config]:
    """A space in which something is believed of every parameter, and where the best is believed to be."""
    options = [f"option {i}" for i in range(draw(st.integers(2, 6)))]
    low = draw(st.floats(1e-6, 10))
    parameters: dict[str, Any] = {
        "kind": Choice(choices=options),
        "flag": Boolean(),
        "size": Ordinal(choices=["small", "medium", "large"]),
        "rate": Float(low=low, high=low * draw(st.floats(1.5, 1e6)), log=draw(st.booleans())),
        "units": Int(low=2, high=2 + draw(st.integers(1, 300))),
    }
    rate, units = parameters["rate"], parameters["units"]
    around = {
        "kind": draw(st.sampled_from(options)),
        "flag": draw(st.booleans()),
        "size": draw(st.sampled_from(parameters["size"].choices)),
        "rate": draw(st.sampled_from([rate.low, (rate.low + rate.high) / 2, rate.high])),
        "units": draw(st.integers(units.low, units.high)),
    }
    sure = st.sampled_from(get_args(Confidence))
    return SearchSpace(parameters, (), {name: Belief(value, draw(sure)) for name, value in around.items()}), around


def near(around: Config) -> dict[str, Any]:
    return {name: pytest.approx(value, rel=1e-4) if name == "rate" else value for name, value in around.items()}


@given(beliefs())
def test_nothing_is_likelier_than_what_the_user_believes(given: tuple[SearchSpace, Config]) -> None:
    space, around = given
    assert space.decode(space.belief.centre) == near(around)
    likely = space.belief.log_density(space.encode(around)[None])[0]
    anywhere = space.belief.log_density(np.random.default_rng(0).random((500, space.dimensions)))
    assert likely >= anywhere.max() - 1e-9
    for name, options in {"kind": space.parameters["kind"].choices, "flag": [False, True]}.items():
        others = [space.encode({**around, name: option}) for option in options if option != around[name]]
        assert space.belief.log_density(np.array(others)).max() < likely - 0.1


@given(
    beliefs(),
    st.sampled_from(["random", "quasi_random", *MODELS, "hyperband", "asha", "pbt", "gradient"]),
    st.booleans(),
)
@settings(max_examples=60)
def test_the_first_trial_is_where_the_user_believes_the_best_to_be(
    given: tuple[SearchSpace, Config], strategy: str, after_one_of_first: bool
) -> None:
    space, around = given
    other = space.decode(np.full(space.dimensions, 0.37))
    assume(identity(other) != identity(space.decode(space.belief.centre)))
    fidelity = Fidelity("epochs", 1, 9, 3) if strategy in ("hyperband", "asha", "pbt") else None
    known = [Trial(0, other, TrialState.COMPLETE, 1.0, 9.0 if fidelity else None)] if after_one_of_first else []
    (first,) = make_strategy(strategy, None, fidelity).propose(space, History(known), 1, seed=0)
    assert first.config == near(around)


@pytest.mark.parametrize("strategy", ["random", "quasi_random", *MODELS])
@pytest.mark.parametrize("seed", range(5))
def test_the_next_two_trials_are_those_of_a_study_without_beliefs(strategy: str, seed: int) -> None:
    plain, believing = ([config for config, _ in tried(strategy, space, 3, seed)] for space in (PLAIN, SPACE))
    assert plain[1:] == believing[1:] and plain[0] != believing[0]


@given(beliefs(), st.integers(1, 4))
@settings(max_examples=30)
def test_a_grid_begins_with_what_the_user_believes_and_is_complete(
    given: tuple[SearchSpace, Config], steps: int
) -> None:
    space, _ = given
    grid = list(space.enumerate(steps))
    proposals = make_strategy("grid", {"steps": steps}).propose(space, History(), len(grid) + 1, seed=0)
    assert sorted(map(identity, grid)) == sorted(proposal.identity for proposal in proposals)
    density = space.belief.log_density(np.array([space.encode(proposal.config) for proposal in proposals]))
    assert (np.diff(density) <= 1e-9).all()


@pytest.mark.parametrize("strategy", MODELS)
def test_a_right_belief_helps_and_a_wrong_one_is_overcome(strategy: str) -> None:
    without = min(searched(strategy, PLAIN, 12))
    assert min(searched(strategy, SPACE, 6)) <= without + 0.05
    wrong = {"rate": Belief(1e-5, "high"), "kind": Belief("adam", "high")}
    assert min(searched(strategy, SearchSpace(PARAMETERS, (), wrong), 30)) < 0.3


@pytest.mark.parametrize("strategy", ["random", "quasi_random", *MODELS])
def test_without_beliefs_proposals_are_what_they_were(strategy: str) -> None:
    assert searched(strategy, PLAIN, 8) == searched(strategy, SearchSpace(PARAMETERS, (), {}), 8)


def after(values: list[float], losses: list[float]) -> History:
    return History(
        Trial(i, {"rate": value, "units": 64, "kind": "sgd", "nesterov": True}, TrialState.COMPLETE, loss)
        for i, (value, loss) in enumerate(zip(values, losses, strict=True))
    )


NEAR_TO_FAR = [1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 1e-1]


@pytest.mark.parametrize("count", range(7))
def test_a_belief_is_trusted_until_trials_speak_against_it(count: int) -> None:
    values, losses = NEAR_TO_FAR[:count], [float(i) for i in range(count)]
    assert trust(SPACE, after(values, losses)) == 1.0
    against = trust(SPACE, after(values, losses[::-1]))
    assert against == 1.0 if count < 3 else against < 0.5 / (count - 2)
    assert trust(SPACE, after(values, [0.5] * count)) == 1.0
    assert trust(SPACE, after([1e-3] * count, losses)) == 1.0
