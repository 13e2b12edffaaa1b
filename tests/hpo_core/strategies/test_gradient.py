"""What only the strategy `gradient` promises: descent from what trials have logged, and nothing else remembered."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hpo_core import Choice, Float, Int, SearchSpace
from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState, hypergradient_of
from hpo_core.space.configuration import Config
from hpo_core.strategies.base import Strategy
from hpo_core.strategies.common.descent import Adam, Chain, Coordinates, Momentum, Rules, chains
from hpo_core.strategies.contract.histories import answer, through_json
from hpo_core.strategies.make import make_strategy
from hpo_core.study.file import study_from

SPACE = SearchSpace(
    {"rate": Float(low=1e-6, high=1.0, log=True), "drop": Float(low=0.0, high=0.9), "x": Float(low=-3, high=5)}
)


def bowl(config: Config) -> tuple[float, dict[str, float]]:
    """A loss whose minimum is at rate 1e-4, drop 0.3 and x 2, steeper in some than in others, and its derivative."""
    rate, drop, x = (float(config[name]) for name in ("rate", "drop", "x"))  # type: ignore[arg-type]
    a, b, c = math.log(rate / 1e-4), drop - 0.3, x - 2.0
    return a * a + 30 * b * b + 0.3 * c * c + 1.0, {"rate": 2 * a / rate, "drop": 60 * b, "x": 0.6 * c}


def run(
    space: SearchSpace,
    function: Callable[[Config], tuple[float, dict[str, float]]],
    trials: int,
    history: History | None = None,
    seed: int = 0,
    **settings: Any,
) -> History:
    strategy, history = make_strategy("gradient", settings), History() if history is None else history
    while len(history) < trials:
        proposals = strategy.propose(space, history, 1, seed=seed)
        if not proposals:
            break
        loss, slopes = function(proposals[0].config)
        done = replace(
            history.with_pending(proposals).trials[-1], state=TrialState.COMPLETE, loss=loss, hypergradient=slopes
        )
        history = History((*history, done))
    return history


def best(history: History) -> float:
    assert history.incumbent is not None and history.incumbent.loss is not None
    return history.incumbent.loss


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_it_finds_the_minimum_that_other_strategies_only_come_near(optimizer: str, seed: int) -> None:
    found = run(SPACE, bowl, 60, optimizer=optimizer, seed=seed)
    assert best(found) < 1.02
    assert best(run(SPACE, bowl, 60, optimizer=optimizer, seed=seed, gain=0.0, patience=20, chains=1)) < 1.002


def test_coordinates_go_there_and_back_and_gradients_are_derivatives_in_them() -> None:
    config: dict[str, Any] = {"rate": 3e-3, "drop": 0.2, "x": 4.0}
    loss, slopes = bowl(config)
    trial = Trial(0, config, TrialState.COMPLETE, loss, hypergradient=slopes)
    coordinates = Coordinates.of(SPACE, trial)
    z = coordinates.encode(config)
    assert coordinates.decode(z) == pytest.approx(config, rel=1e-9)
    for i in range(3):
        step = np.eye(3)[i] * 1e-4
        numeric = (bowl(coordinates.decode(z + step))[0] - bowl(coordinates.decode(z - step))[0]) / 2e-4
        assert coordinates.gradient(trial)[i] == pytest.approx(numeric, rel=1e-5)


def test_a_reversed_log_scale_has_its_own_derivative() -> None:
    space = SearchSpace({"momentum": Float(low=0.1, high=0.999, log=True, reverse=True)})
    trial = Trial(0, {"momentum": 0.95}, TrialState.COMPLETE, 1.0, hypergradient={"momentum": 2.0})
    coordinates = Coordinates.of(space, trial)
    z = coordinates.encode(trial.config)
    there, back = (float(coordinates.decode(z + step)["momentum"]) for step in (1e-5, -1e-5))  # type: ignore[arg-type]
    assert coordinates.gradient(trial)[0] == pytest.approx(2.0 * (there - back) / 2e-5, rel=1e-4)


def test_no_point_leaves_the_space() -> None:
    trial = Trial(0, {"rate": 1e-6, "drop": 0.0, "x": 5.0}, TrialState.COMPLETE, 1.0)
    coordinates = Coordinates.of(SPACE, replace(trial, hypergradient=dict.fromkeys(SPACE.parameters, 1.0)))
    assert np.isfinite(coordinates.encode(trial.config)).all()
    for z in (-1e9, -5.0, 0.0, 5.0, 1e9):
        SPACE.validated(coordinates.decode(np.full(3, z)))
    assert coordinates.decode(np.full(3, 1e9)) == {"rate": 1.0, "drop": 0.9, "x": 5.0}
    assert coordinates.decode(np.full(3, -1e9)) == {"rate": 1e-6, "drop": 0.0, "x": -3.0}


def test_adam_rebuilt_from_a_chain_is_adam(seed: int) -> None:
    gradients = list(np.random.default_rng(seed).normal(size=(9, 4)) * [1.0, 0.1, 10.0, 1.0])
    m = v = np.zeros(4)
    for t, g in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
        expected = m / (1 - 0.9**t) / np.sqrt(v / (1 - 0.99**t))
        np.testing.assert_allclose(Adam(0.9, 0.99).direction(gradients[:t], 0), expected, rtol=1e-3)
    # Momentum that ended at a step that was taken back leaves what was learned of the sizes.
    np.testing.assert_allclose(Adam().direction(gradients, 8), gradients[8] / np.sqrt(v / (1 - 0.99**9)), rtol=1e-3)


def test_sgd_rebuilt_from_a_chain_is_sgd_with_momentum(seed: int) -> None:
    gradients = list(np.random.default_rng(seed).normal(size=(9, 4)))
    velocity = np.zeros(4)
    for t, g in enumerate(gradients, 1):
        velocity = 0.8 * velocity + g * 2 / np.linalg.norm(gradients[0])
        np.testing.assert_allclose(Momentum(0.8).direction(gradients[:t], 0), velocity, rtol=1e-12)
    expected = gradients[8] * 2 / np.linalg.norm(gradients[0])
    np.testing.assert_allclose(Momentum(0.8).direction(gradients, 8), expected, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-290, 1e-9, 1e9, 1e290])
@pytest.mark.parametrize("descent", [Adam(), Momentum()])
def test_the_scale_of_a_loss_does_not_matter(descent: Any, scale: float, seed: int) -> None:
    gradients = list(np.random.default_rng(seed).normal(size=(5, 3)))
    scaled = [scale * gradient for gradient in gradients]
    np.testing.assert_allclose(descent.direction(scaled, 0), descent.direction(gradients, 0), rtol=1e-9)
    assert descent.direction([np.zeros(3)] * 2, 0).tolist() == [0.0, 0.0, 0.0]


def test_a_chain_goes_on_from_its_trials_and_from_nothing_else(seed: int) -> None:
    """Resumed in the middle of a chain, in a process that has seen no more than MLflow, it takes the same steps."""
    whole = run(SPACE, bowl, 30, seed=seed)
    assert sum(trial.parent is not None for trial in whole) > 15
    for length in range(1, 30):
        part = through_json(SPACE, History(whole.trials[:length]))
        again = make_strategy("gradient").propose(SPACE, part, 1, seed=seed)
        assert again[0].config == whole.trials[length].config
        assert again[0].parent == whole.trials[length].parent


def start(**facts: Any) -> Trial:
    config = {"rate": 1e-2, "drop": 0.5, "x": 0.0}
    loss, slopes = bowl(config)
    return replace(Trial(0, config, TrialState.COMPLETE, loss, hypergradient=slopes), **facts)


def next_step(history: History) -> Any:
    return make_strategy("gradient", {"chains": 1}).propose(SPACE, history, 1, seed=0)[0]


def ended(history: History, loss: float | None, **facts: Any) -> History:
    """The history once its next proposal has ended with a loss; None for a failure."""
    pending = history.with_pending([next_step(history)]).trials[-1]
    if loss is None:
        return History((*history, replace(pending, state=TrialState.FAILED)))
    slopes = bowl(pending.config)[1]
    return History((*history, replace(pending, state=TrialState.COMPLETE, loss=loss, hypergradient=slopes, **facts)))


@pytest.mark.parametrize("loss", [None, 1e9, start().loss])
def test_a_step_that_failed_or_did_not_help_is_tried_shorter_from_where_the_chain_stands(loss: float | None) -> None:
    history = History([start()])
    lengths = []
    for _ in range(4):
        proposal = next_step(history)
        assert proposal.parent == 0
        lengths.append(proposal.notes["length"])
        history = ended(history, loss)
    np.testing.assert_allclose(np.divide(lengths[1:], lengths[:-1]), 0.4, rtol=1e-6)
    better = ended(history, start().loss - 1.0)  # type: ignore[operator]
    assert next_step(better).parent == 5


def test_a_rise_within_the_last_three_is_let_pass_and_taken_back_when_it_goes_on() -> None:
    history = History([start(loss=9.0)])
    for loss in (8.0, 7.0, 8.5):  # below 9
        history = ended(history, loss)
    assert next_step(history).parent == 3
    history = ended(history, 8.7)  # above 8, 7 and 8.5
    assert next_step(history).parent == 2
    assert Chain.follow(history.trials, Rules()).best.number == 2
    assert Chain.follow(history.trials, Rules(memory=1)).tip.number == 2


def test_a_chain_that_gains_nothing_is_ended_and_another_is_started() -> None:
    history = History([start()])
    for loss in (None, 1e9, 1e9, None, 1e9, 1e9):
        assert next_step(history).parent == 0
        history = ended(history, loss)
    assert next_step(history).parent is None
    assert make_strategy("gradient").promotable(history) == frozenset()  # type: ignore[attr-defined]


def test_gains_too_small_to_count_end_a_chain_too() -> None:
    history, loss = History([start(loss=1.0)]), 1.0
    for _ in range(6):
        assert next_step(history).parent is not None
        loss -= 1e-4
        history = ended(history, loss)
    assert next_step(history).parent is None


@pytest.mark.parametrize("facts", [{"hypergradient": {}}, {"loss": None, "state": TrialState.FAILED}])
def test_a_trial_without_hypergradient_leads_nowhere(facts: dict[str, Any]) -> None:
    assert next_step(History([start(**facts)])).parent is None


def test_a_step_without_hypergradient_ends_its_chain() -> None:
    history = ended(History([start()]), 0.5)
    last = replace(history.trials[-1], hypergradient={})
    assert next_step(History([start(), last])).parent is None


def test_chains_run_side_by_side_and_the_best_goes_on_first() -> None:
    strategy = make_strategy("gradient")
    proposals = strategy.propose(SPACE, History(), 3, seed=0)
    assert [proposal.parent for proposal in proposals] == [None] * 3
    pending = History().with_pending(proposals)
    assert strategy.propose(SPACE, pending, 1, seed=0)[0].parent is None, "a free slot starts another chain"
    done = []
    for trial in pending:
        loss, slopes = bowl(trial.config)
        done.append(replace(trial, state=TrialState.COMPLETE, loss=loss, hypergradient=slopes))
    order = [trial.number for trial in sorted(done, key=lambda trial: trial.loss or 0.0)]
    assert [p.parent for p in strategy.propose(SPACE, History(done), 3, seed=0)] == order
    assert strategy.promotable(History(done)) == {0, 1, 2}  # type: ignore[attr-defined]


def test_a_chain_whose_start_was_deleted_goes_on_from_what_is_left() -> None:
    history = ended(ended(History([start()]), 5.0), 4.0)
    assert len(chains(history, Rules())) == 1
    left = History(history.trials[1:])
    (chain,) = chains(left, Rules())
    assert (chain.start.number, chain.tip.number) == (1, 2)
    assert next_step(left).parent == 2


def test_a_step_is_halved_until_the_constraints_hold() -> None:
    space = SearchSpace(SPACE.parameters, ["rate > 8e-3"])
    proposal = make_strategy("gradient", {"chains": 1}).propose(space, History([start()]), 1, seed=0)[0]
    assert proposal.parent == 0
    assert 8e-3 < proposal.config["rate"] < 1e-2  # type: ignore[operator]


def test_at_a_corner_of_the_space_another_chain_is_started() -> None:
    space = SearchSpace({"rate": Float(low=1e-6, high=1.0, log=True)})
    corner = Trial(0, {"rate": 1.0}, TrialState.COMPLETE, 1.0, hypergradient={"rate": -5.0})
    assert make_strategy("gradient", {"chains": 1}).propose(space, History([corner]), 1, seed=0)[0].parent is None


MIXED = SearchSpace(
    {
        "kind": Choice(choices=["good", "bad", "worse"]),
        "layers": Int(low=1, high=4),
        "x": Float(low=-3, high=5),
        "extra": Float(low=0.01, high=10, log=True, when={"kind": ["good"]}),
    }
)


def mixed(config: Config) -> tuple[float, dict[str, float]]:
    level = 0.1 + {"good": 0.0, "bad": 2.0, "worse": 4.0}[str(config["kind"])] + abs(int(config["layers"]) - 3)  # type: ignore[arg-type]
    x = float(config["x"]) - 1.0  # type: ignore[arg-type]
    extra = math.log(float(config.get("extra", 1.0)))  # type: ignore[arg-type]
    slopes = {"x": 2 * x} | ({"extra": 2 * extra / float(config["extra"])} if "extra" in config else {})  # type: ignore[arg-type]
    return level + x * x + extra * extra, slopes


@pytest.mark.parametrize("outer", ["tpe", {"name": "tpe", "start": 4}, "bayesian", "random", None])
def test_an_outer_strategy_holds_what_has_no_gradient(outer: Any, seed: int) -> None:
    found = run(MIXED, mixed, 60, outer=outer, seed=seed)
    for trial in found:
        if trial.parent is not None:
            parent = found.trials[trial.parent]
            assert {k: v for k, v in trial.config.items() if k not in ("x", "extra")} == {
                k: v for k, v in parent.config.items() if k not in ("x", "extra")
            }
    starts = [trial for trial in found if trial.parent is None]
    assert 3 <= len(starts) < 40
    above = [trial.loss - mixed({**trial.config, "x": 1.0, "extra": 1.0})[0] for trial in found.complete if trial.loss]
    assert min(above) < 0.1, "no chain came to the bottom"


def test_the_outer_strategy_sees_a_chain_as_its_start_with_what_was_reached() -> None:
    seen: list[History] = []

    class Outer(Strategy):
        name = "outer"

        def propose(self, space: SearchSpace, history: History, n: int, *, seed: int) -> Any:
            seen.append(history)
            return make_strategy("quasi_random").propose(space, history, n, seed=seed)

    from hpo_core.strategies.algorithms.gradient import Gradient

    history = ended(ended(History([start()]), 5.0), 7.0)
    other = start(number=3, config={"rate": 1e-5, "drop": 0.1, "x": 3.0}, state=TrialState.RUNNING, loss=None)
    Gradient(outer=Outer(), chains=9).propose(SPACE, History((*history, other)), 1, seed=0)
    first, second = seen[0].trials
    assert (first.config, first.loss, seen[0].next_number) == (start().config, 5.0, 4)
    assert second == other


def test_a_grid_of_starts_comes_to_its_end() -> None:
    space = SearchSpace({"kind": Choice(choices=["good", "bad"]), "x": Float(low=-3, high=5)})

    def function(config: Config) -> tuple[float, dict[str, float]]:
        return mixed({**config, "layers": 3})

    found = run(space, function, 300, outer={"name": "grid", "steps": 3})
    assert len(found) < 300
    assert sum(trial.parent is None for trial in found) == 6


def test_a_loss_that_is_maximised_has_the_opposite_derivative() -> None:
    assert hypergradient_of({"hypergradient/x": 2.0, "x": 1.0, "hypergradient/y": math.nan}, -1) == {"x": -2.0}
    assert hypergradient_of({"hypergradient/x": 1.7976931348623157e308}, 1) == {}


def spec(space: dict[str, Any], **strategy: Any) -> Any:
    return study_from(
        {
            "name": "s",
            "objective": "a:b",
            "metric": "loss",
            "direction": "minimize",
            "space": space,
            "stop": {"trials": 3},
            "strategy": {"name": "gradient", **strategy},
        }
    )


X = {"x": {"type": "float", "low": 0, "high": 1}}


@pytest.mark.parametrize(
    ("space", "settings", "message"),
    [
        ({"n": {"type": "int", "low": 1, "high": 9}}, {}, "needs a parameter of type float without a step"),
        ({"x": {**X["x"], "step": 0.1}}, {}, "needs a parameter of type float without a step"),
        (X, {"outer": "tpee"}, "strategy.outer.name: 'tpee' is not a strategy; did you mean 'tpe'?"),
        (X, {"outer": {"name": "tpe", "gama": 0.1}}, "strategy.outer.gama"),
        (X, {"outer": 3}, "does not name a strategy"),
        (X, {"outer": "asha"}, "'asha' chooses fidelities itself"),
        (X, {"outer": "gradient"}, "'gradient' continues trials itself"),
        (X, {"optimizer": "lbfgs"}, "optimizer: 'lbfgs' is not one of adam, sgd"),
        (X, {"rate": 0}, "rate: 0 is not a number above 0"),
        (X, {"momentum": 1.0}, "momentum: 1.0 is not a number below 1"),
        (X, {"chains": 0}, "chains: 0 is not a whole number of at least 1"),
    ],
)
def test_what_cannot_be_used_is_told_before_anything_is_trained(
    space: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as error:
        spec(space, **settings)
    assert message in str(error.value)


def test_the_study_knows_that_hypergradients_are_needed() -> None:
    assert spec(X).needs_hypergradient
    assert not study_from(spec(X).model_dump() | {"strategy": "tpe"}).needs_hypergradient
    assert answer(spec(X, outer="tpe").propose(History(), 2))
    assert json.loads(spec(X, outer="tpe").to_json())["strategy"]["outer"] == "tpe"


def test_a_chain_whose_start_runs_is_waited_for() -> None:
    running = start(state=TrialState.RUNNING, loss=None, hypergradient={})
    chain = Chain.follow([running], Rules())
    assert chain.busy and chain.alive(SPACE, Rules())
    assert make_strategy("gradient").promotable(History([running])) == {0}  # type: ignore[attr-defined]
