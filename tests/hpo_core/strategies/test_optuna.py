"""Optuna's samplers over our history: the same as in Optuna itself, and the same after any restart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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


ABSENT = object()
UNIT = Float(low=0, high=1)


def loss(config: Any) -> float:
    return float((config["x"] - 0.3) ** 2 + (config["y"] + 0.7) ** 2 + 0.1 * abs(config["k"] - 4))


def run(
    sampler: Any, count: int, *, forget: bool, space: SearchSpace = SPACE, loss: Callable[[Any], float] = loss
) -> History:
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


@pytest.mark.parametrize("sampler", [{"name": "NSGAIISampler", "population_size": 8}, "TPESampler"])
def test_several_metrics_are_several_directions(sampler: Any) -> None:
    """Both metrics want a small y, and each another x."""
    strategy, space = make_strategy("optuna", {"sampler": sampler}), SearchSpace({"x": UNIT, "y": UNIT})
    strategy.check_several()
    histories = []
    for forget in (False, True):
        history = History()
        for number in range(60):
            if forget:
                ours._REPLAYS.clear()
            (proposal,) = strategy.propose(space, history, 1, seed=0)
            x, y = proposal.config["x"], proposal.config["y"]
            losses = (x + y, 1 - x + y)  # type: ignore[operator]
            done = Trial(number, proposal.config, TrialState.COMPLETE, losses[0], losses=losses)
            history = History((*history, done if number % 7 else replace(done, state=TrialState.FAILED, loss=None)))
        histories.append([trial.config for trial in history])
    assert histories[0] == histories[1]
    if sampler != "TPESampler":  # without the repeats that it lives on, the other learns too slowly to be measured here
        return
    early, late = ([float(config["y"]) for config in histories[0][part]] for part in (slice(15), slice(-15, None)))
    assert sum(late) < 0.6 * sum(early)
    wide = [float(config["x"]) for config in histories[0][-15:]]
    assert max(wide) - min(wide) > 0.5


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
        (
            {"sampler": "CmaEsSampler"},
            {"limits": {"m": "<= 3"}},
            "strategy.sampler: 'CmaEsSampler' does not support limits",
        ),
        (
            {"sampler": {"name": "PartialFixedSampler", "fixed_params": {"x": 0.5}, "base_sampler": "CmaEsSampler"}},
            {"limits": {"m": "<= 3"}},
            "strategy.sampler: 'CmaEsSampler' does not support limits",
        ),
        (
            {"sampler": "CmaEsSampler"},
            {"metrics": {"m": "minimize", "k": "minimize"}, "metric": ABSENT, "direction": ABSENT},
            "strategy.sampler: 'CmaEsSampler' supports one metric only; choose NSGAIISampler",
        ),
        ({}, {"prior": {"x": {"around": 0.3}}}, "prior: Optuna's samplers do not use beliefs"),
        ({"sampler": "BruteForceSampler"}, {}, "strategy.sampler: 'BruteForceSampler' cannot be used here"),
        ({"sampler": {"name": "TPESampler", "gamma": 5}}, {}, "strategy.sampler.gamma: 'TPESampler' wants a function"),
        (
            {"sampler": {"name": "GridSampler", "search_space": [1]}},
            {},
            r"search_space: \[1\] has no values",
        ),
        (
            {"sampler": {"name": "GridSampler", "search_space": {"x": [2]}}},
            {},
            "search_space.x: 2 is not a number",
        ),
        (
            {"sampler": {"name": "CmaEsSampler", "x0": {"z": 2}}},
            {},
            "sampler.x0: 'z' is not a parameter; choose",
        ),
    ],
)
def test_what_a_sampler_cannot_do_is_told(strategy: Any, more: Any, message: str) -> None:
    space = {"x": {"type": "float", "low": 0, "high": 1}}
    keys = {"name": "o", "metric": "loss", "direction": "minimize", "stop": {"trials": 5}, "space": space}
    with pytest.raises(InputError, match=message):
        given = {**keys, "strategy": {"name": "optuna", **strategy}, **more}
        study_from({key: value for key, value in given.items() if value is not ABSENT})


def test_what_a_sampler_needs_is_asked_for_before_the_first_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "require", lambda package, field: needed.append(package))
    monkeypatch.setattr(ours, "_ask", lambda study, space: None)
    needed: list[str] = []
    for sampler in ("GPSampler", {"name": "PartialFixedSampler", "fixed_params": {}, "base_sampler": "GPSampler"}):
        make_strategy("optuna", {"sampler": sampler}).check(SPACE)
    assert needed == ["torch", "optuna"] * 2


MIXED = SearchSpace(
    {
        "rate": Float(low=1e-3, high=1e-1, log=True),
        "units": Int(low=2, high=8, step=2),
        "size": Float(low=1, high=2, reverse=True, log=True),
        "kind": Choice(choices=["adam", "sgd"]),
        "momentum": Float(low=0, high=1, when={"kind": ["sgd"]}),
    }
)


def test_values_in_settings_are_those_of_the_study() -> None:
    """Optuna sees positions of choices and of steps."""
    grid = {"rate": [0.01], "units": [4, 8], "size": [1.5], "kind": ["sgd", "adam"], "momentum": [0.0, 0.25, 0.5]}
    found = [trial.config for trial in until_done({"name": "GridSampler", "search_space": grid})]
    wanted = [{"rate": 0.01, "units": units, "size": 1.5, "kind": "adam"} for units in (4, 8)]
    wanted += [{**each, "kind": "sgd", "momentum": each_m} for each in wanted for each_m in (0.0, 0.25, 0.5)]
    by_name = {str(sorted(config.items())): config for config in found}
    assert len(found) == len(by_name) == 8
    for config in wanted:
        assert by_name[str(sorted(config.items()))] == pytest.approx(config)
    fixed = {"units": 6, "kind": "adam", "size": 1.25}
    sampler = {"name": "PartialFixedSampler", "fixed_params": fixed, "base_sampler": "RandomSampler"}
    for trial in run(sampler, 6, forget=True, space=MIXED, loss=lambda config: config["rate"]):
        assert {name: trial.config[name] for name in fixed} == pytest.approx(fixed)


def until_done(sampler: Any, space: SearchSpace = MIXED) -> History:
    """All trials of a study that ends by itself, of which the first fails."""
    strategy, history = make_strategy("optuna", {"sampler": sampler}), History()
    strategy.check(space)
    while proposals := strategy.propose(space, history, 1, seed=1):
        assert len(history) < 100
        number, config = len(history), proposals[0].config
        done = (
            Trial(number, config, TrialState.COMPLETE, float(number)) if number else Trial(0, config, TrialState.FAILED)
        )
        history = History((*history, done))
    return history


def test_what_is_fixed_stays_so_until_the_end() -> None:
    space = SearchSpace({"kind": Choice(choices=["a", "b", "c"]), "units": Int(low=2, high=8, step=2)})
    sampler = {"name": "PartialFixedSampler", "fixed_params": {"units": 4}, "base_sampler": "RandomSampler"}
    found = [trial.config for trial in until_done(sampler, space)]
    assert sorted(map(str, found)) == [str({"kind": kind, "units": 4}) for kind in "abc"]


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
