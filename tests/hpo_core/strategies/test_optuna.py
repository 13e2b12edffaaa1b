"""Optuna's samplers over our history: the same as in Optuna itself, and the same after any restart."""

from __future__ import annotations

from typing import Any

import pytest

from hpo_core import Choice, Float, History, Int, Proposal, SearchSpace, TrialState
from hpo_core.base.errors import InputError
from hpo_core.history.trial import Trial
from hpo_core.strategies.algorithms import optuna as ours
from hpo_core.strategies.make import make_strategy
from hpo_core.study.file import study_from

optuna = pytest.importorskip("optuna", reason="the extra [optuna] is not installed")
pytest.importorskip("cmaes", reason="the extra [optuna] is not installed")

SPACE = SearchSpace({"x": Float(low=-2, high=2), "y": Float(low=-2, high=2), "k": Int(low=1, high=9)})


def loss(config: Any) -> float:
    return float((config["x"] - 0.3) ** 2 + (config["y"] + 0.7) ** 2 + 0.1 * abs(config["k"] - 4))


def run(sampler: Any, count: int, *, forget: bool, space: SearchSpace = SPACE) -> History:
    """A study of two slots, whose trials end in another order than they began."""
    strategy, history = make_strategy("optuna", {"sampler": sampler}), History()
    while len(history) < count:
        if forget:
            ours._REPLAYS.clear()
        proposals: list[Proposal] = strategy.propose(space, history, 2 - len(history.running), seed=3)
        history = history.with_pending(proposals)
        last = history.running[-1]
        done = Trial(last.number, last.config, TrialState.COMPLETE, loss(last.config))
        history = History((*(t for t in history if t.number != last.number), done))
    return history


@pytest.mark.parametrize("sampler", [{"name": "CmaEsSampler", "popsize": 4}, "NSGAIISampler", "QMCSampler"])
def test_a_study_that_is_killed_at_any_time_goes_on_as_if_it_had_not_been(sampler: Any) -> None:
    kept, forgotten = run(sampler, 14, forget=False), run(sampler, 14, forget=True)
    assert [trial.config for trial in kept] == [trial.config for trial in forgotten]


def test_a_sequence_is_the_one_of_optuna_itself() -> None:
    space = SearchSpace({"x": Float(low=-2, high=2), "y": Float(low=-2, high=2)})
    strategy, history = make_strategy("optuna", {"sampler": "CmaEsSampler"}), History()
    seed = int(ours.trial_rng(0, 0, stream=7).integers(2**31))
    with ours._quiet():
        study = optuna.create_study(sampler=optuna.samplers.CmaEsSampler(seed=seed))
        for number in range(20):
            trial = study.ask()
            theirs = {name: trial.suggest_float(name, -2, 2) for name in ("x", "y")}
            (proposal,) = strategy.propose(space, history, 1, seed=0)
            assert proposal.config == pytest.approx(theirs, abs=1e-5)  # of digits that are rounded
            value = theirs["x"] ** 2 + theirs["y"] ** 2
            study.tell(trial, value)
            history = History((*history, Trial(number, proposal.config, TrialState.COMPLETE, value)))


def test_cma_es_gets_close() -> None:
    best = run({"name": "CmaEsSampler", "sigma0": 0.5}, 60, forget=False).incumbent
    assert best is not None and best.loss is not None and best.loss < 0.3


@pytest.mark.parametrize(
    ("strategy", "more", "message"),
    [
        ({"sampler": "CmaEs"}, {}, "strategy.sampler: Optuna has no sampler 'CmaEs'; choose one of"),
        ({"sampler": {"name": "CmaEsSampler", "sigma": 1}}, {}, "strategy.sampler.sigma: .*did you mean 'sigma0'"),
        ({"sampler": {"name": "TPESampler", "seed": 1}}, {}, "strategy.sampler.seed: .*it is the study's seed"),
        ({"sampler": "GridSampler"}, {}, "strategy.sampler: 'GridSampler' refuses its settings"),
        ({"sampler": "CmaEsSampler"}, {"limits": {"m": "<= 3"}}, "strategy.sampler: 'CmaEsSampler' knows no limits"),
        ({}, {"prior": {"x": {"around": 0.3}}}, "prior: Optuna's samplers know no beliefs"),
    ],
)
def test_what_a_sampler_cannot_do_is_told(strategy: Any, more: Any, message: str) -> None:
    space = {"x": {"type": "float", "low": 0, "high": 1}}
    keys = {"name": "o", "metric": "loss", "direction": "minimize", "stop": {"trials": 5}, "space": space}
    with pytest.raises(InputError, match=message):
        study_from({**keys, "strategy": {"name": "optuna", **strategy}, **more})


def test_limits_are_constraints_and_failed_and_short_trainings_are_no_results() -> None:
    space = SearchSpace({"x": Float(low=0, high=1), "c": Choice(choices=["a", True, 1])})
    trials = [
        Trial(0, {"x": 0.1, "c": 1}, TrialState.COMPLETE, 1.0, fidelity=9.0, excess={"m": 0.5}),
        Trial(1, {"x": 0.2, "c": True}, TrialState.COMPLETE, 0.5, fidelity=3.0),
        Trial(2, {"x": 0.3, "c": "a"}, TrialState.FAILED, fidelity=9.0),
        Trial(3, {"x": 0.4, "c": "a"}, TrialState.RUNNING, fidelity=9.0),
    ]
    frozen = [ours._frozen(space, History(trials), trial) for trial in trials]
    assert [trial.state.name for trial in frozen] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert frozen[0].constraints == {"m": 0.5} and frozen[1].intermediate_values == {3000: 0.5}
    assert [trial.params for trial in frozen[:2]] == [{"x": 0.1, "c": 2}, {"x": 0.2, "c": 1}]
