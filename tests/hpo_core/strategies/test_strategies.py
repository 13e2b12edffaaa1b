"""The laws of every strategy: a new line in the registry is tested at once.

The histories and the study's seed are drawn from the run's seed, which stands in pytest's header. A law asks a
strategy a handful of times on each space, so the suite stays quick for strategies that think before they answer.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from hpo_core import Boolean, Choice, Fixed, Float, Int, Ordinal, SearchSpace
from hpo_core.base.errors import InputError
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal, Trial, TrialState
from hpo_core.space.belief import Belief
from hpo_core.space.configuration import Config, config_from_json, config_to_json, identity
from hpo_core.strategies.make import STRATEGIES, make_strategy

SPACES = {
    "continuous": SearchSpace(
        {
            "x": Float(low=-5, high=5),
            "rate": Float(low=1e-5, high=1e-1, log=True),
            "drop": Float(low=0, high=0.9, step=0.05),
        }
    ),
    "mixed": SearchSpace(
        {
            "model": Choice(choices=["svm", "net"]),
            "kernel": Choice(choices=["linear", "rbf"], when={"model": ["svm"]}),
            "gamma": Float(low=1e-4, high=10, log=True, when={"kernel": ["rbf"]}),
            "layers": Int(low=1, high=3, when={"model": ["net"]}),
            "width": Int(low=8, high=64, step=8, when={"layers": [2, 3]}),
            "epochs": Fixed(value=5),
            "bias": Boolean(),
            "x": Float(low=0, high=1),
        }
    ),
    "constrained": SearchSpace(
        {"a": Int(low=1, high=20), "b": Int(low=1, high=20), "x": Float(low=0, high=1)},
        ["a <= b", "a * b <= 60", "x < 0.9 or a > 2"],
    ),
    "tiny": SearchSpace(
        {
            "c": Choice(choices=["a", "b"]),
            "i": Int(low=1, high=4, log=True, when={"c": ["b"]}),
            "flag": Boolean(),
        },
        ["i != 2 or flag"],
    ),
    "one_configuration": SearchSpace(
        {
            "fixed": Fixed(value=None),
            "float": Float(low=0.1, high=0.1),
            "log": Float(low=0.1, high=0.1, log=True),
            "int": Int(low=3, high=3),
            "choice": Choice(choices=["only"]),
        }
    ),
    "fixed": SearchSpace({"a": Fixed(value=1), "b": Fixed(value="x")}),
    "believed": SearchSpace(
        {"x": Float(low=0, high=1), "kind": Choice(choices=["a", "b", "c"]), "n": Int(low=1, high=9)},
        beliefs={"x": Belief(0.7, "high"), "kind": Belief("b", "low")},
    ),
    "degenerate_beside_free": SearchSpace(
        {"one": Int(low=3, high=3), "x": Float(low=0, high=1), "same": Float(low=2, high=2)}
    ),
    "log_int": SearchSpace({"n": Int(low=1, high=5000, log=True), "units": Int(low=8, high=512, log=True, step=2)}),
    "listed": SearchSpace(
        {
            "size": Ordinal(choices=["small", "medium", "large"]),
            "batch": Ordinal(choices=[16, 32, 64, 128]),
            "flag": Boolean(),
            "odd": Choice(choices=[1, "1", True, None, 0.5]),
        }
    ),
}
FINITE = ["tiny", "one_configuration", "fixed"]
LENGTH = 8

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
every_space = pytest.mark.parametrize("space", SPACES)


def exact(configs: Sequence[Config]) -> list[str]:
    """What two lists share only if their configurations are equal in order, types and last bits."""
    return [repr([(name, type(value), value) for name, value in config.items()]) for config in configs]


def answer(proposals: Sequence[Proposal]) -> list[str]:
    """All that a strategy says of its proposals."""
    rest = [f"{proposal.fidelity!r} {proposal.parent!r} {sorted(proposal.notes.items())}" for proposal in proposals]
    return [f"{config} {tail}" for config, tail in zip(exact([p.config for p in proposals]), rest, strict=True)]


def key(trial: Trial | Proposal) -> tuple[str, float | None]:
    """What may not come twice: a configuration at one fidelity."""
    return trial.identity, trial.fidelity


def loss(config: Config) -> float:
    """Some deterministic function of a configuration; lower where numbers are near a third."""
    total = 0.0
    for name, value in config.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            total += int(identity({name: value})[:4], 16) / 2**16
        else:
            total += math.tanh(value / 10 - 1 / 3) ** 2
    return total


def slopes(config: Config) -> dict[str, float]:
    """Its derivative by each number, for strategies that can make use of it."""
    numbers = {name: value for name, value in config.items() if isinstance(value, float)}
    tangents = {name: math.tanh(value / 10 - 1 / 3) for name, value in numbers.items()}
    return {name: 0.2 * tangent * (1 - tangent**2) for name, tangent in tangents.items()}


def foreign(space: SearchSpace, seed: int, count: int = LENGTH) -> list[Config]:
    """Up to ``count`` different feasible configurations that no strategy proposed; floats lie off every grid."""
    rng = random.Random(seed)
    found: dict[str, Config] = {}
    for _ in range(50 * count):
        config = space.decode(np.array([rng.random() for _ in range(space.dimensions)]))
        for name, parameter in space.parameters.items():
            if name in config and isinstance(parameter, Float) and parameter.step is None:
                config[name] = rng.uniform(parameter.low, parameter.high)
        if space.feasible(config) and len(found) < count:
            found.setdefault(identity(config), config)
    return list(found.values())


def everything(space: SearchSpace) -> list[Config]:
    return [config for config in space.enumerate() if space.feasible(config)]


def completed(configs: Sequence[Config], value: Callable[[Config], float] = loss) -> list[Trial]:
    return [
        Trial(i, config, TrialState.COMPLETE, value(config), hypergradient=slopes(config))
        for i, config in enumerate(configs)
    ]


@cache
def history_of(space: str, seed: int) -> History:
    """Foreign trials in all three states; of a finite space about half."""
    configs = foreign(SPACES[space], seed)
    trials = completed(configs[: len(configs) // 2] if space in FINITE else configs)
    for i in range(1, len(trials), 4):
        trials[i] = replace(trials[i], state=TrialState.FAILED, loss=None, reason="killed")
    if len(trials) > 2:
        trials[-1] = replace(trials[-1], state=TrialState.RUNNING, loss=None)
    return History(trials)


@cache
def two(strategy: str, space: str, seed: int) -> tuple[Proposal, ...]:
    """What a strategy proposes after those, asked for two."""
    history = history_of(space, seed)
    return tuple(make_strategy(strategy).propose(SPACES[space], history, 2, seed=seed))


def through_json(space: SearchSpace, history: History) -> History:
    """A history that has been on disk."""
    rows = [
        json.dumps([t.number, config_to_json(t.config), t.state, t.loss, t.fidelity, t.parent, dict(t.hypergradient)])
        for t in history
    ]
    trials = []
    for number, config, state, value, fidelity, parent, slope in map(json.loads, rows):
        values = space.validated(config_from_json(config))
        trials.append(Trial(number, values, TrialState(state), value, fidelity, parent, hypergradient=slope))
    return History(trials, history.next_number)


def grown(strategy: str, space: SearchSpace, history: History, length: int, seed: int) -> History:
    """The history once the strategy has run on, one trial at a time, to a length or to its end."""
    while len(history) < length:
        proposals = make_strategy(strategy).propose(space, history, 1, seed=seed)
        if not proposals:
            break
        pending = history.with_pending(proposals)
        config = proposals[0].config
        done = replace(pending.trials[-1], state=TrialState.COMPLETE, loss=loss(config), hypergradient=slopes(config))
        history = History((*history, done))
    return history


def answers(seed: int) -> dict[str, list[str]]:
    return {f"{strategy} on {space}": answer(two(strategy, space, seed)) for strategy in STRATEGIES for space in SPACES}


@pytest.fixture(scope="module")
def answers_elsewhere() -> dict[str, list[str]]:
    """The same questions, asked in a process with another hash seed."""
    environment = os.environ | {"PYTHONHASHSEED": "4711", "PYTHONPATH": str(Path(__file__).parents[3])}
    child = subprocess.run(
        [sys.executable, "-m", "tests.hpo_core.strategies.test_strategies"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, list[str]] = json.loads(child.stdout)
    return result


def check_valid(space: SearchSpace, history: History, proposals: Sequence[Proposal], n: int) -> None:
    assert len(proposals) <= n
    taken = {key(trial) for trial in history}
    for proposal in proposals:
        assert exact([space.validated(proposal.config)]) == exact([proposal.config])
        assert {type(value) for value in proposal.config.values()} <= {str, int, float, bool, type(None)}
        assert proposal.fidelity is None or proposal.fidelity > 0
        assert proposal.parent is None or proposal.parent in {trial.number for trial in history}
        assert key(proposal) not in taken, "proposed twice"
        taken.add(key(proposal))


@every_strategy
@every_space
def test_domain(strategy: str, space: str, seed: int) -> None:
    first = make_strategy(strategy).propose(SPACES[space], History(), 3, seed=seed)
    assert first
    check_valid(SPACES[space], History(), first, 3)
    check_valid(SPACES[space], history_of(space, seed), two(strategy, space, seed), 2)


@every_strategy
@every_space
def test_determinism(strategy: str, space: str, seed: int, answers_elsewhere: dict[str, list[str]]) -> None:
    assert answers_elsewhere[f"{strategy} on {space}"] == answer(two(strategy, space, seed))


@every_strategy
@every_space
def test_order(strategy: str, space: str, seed: int) -> None:
    trials = list(history_of(space, seed))
    random.Random(seed).shuffle(trials)
    # Keys of a dict have an order, too; and what is for people must not matter.
    shuffled = [
        replace(trial, config=dict(sorted(trial.config.items(), reverse=True)), run_id=f"{i}", start=i, reason="other")
        for i, trial in enumerate(trials)
    ]
    proposals = make_strategy(strategy).propose(SPACES[space], History(shuffled), 2, seed=seed)
    assert answer(proposals) == answer(two(strategy, space, seed))


def draws(call: Callable[[], object]) -> bool:
    """Whether a call draws from the global generators.

    Prefect's threads, which outlive the tests that use it, draw from them as well. So a call is tried three times: one
    that draws would do so each time.
    """
    for _ in range(3):
        state, numpy_state = random.getstate(), repr(np.random.get_state())
        call()
        if random.getstate() == state and repr(np.random.get_state()) == numpy_state:
            return False
    return True


@every_strategy
@every_space
def test_purity(strategy: str, space: str, seed: int) -> None:
    made, history = make_strategy(strategy), history_of(space, seed)
    before = repr((made, SPACES[space].to_json(), history.trials, history.next_number, history.digest))
    made.propose(SPACES[space], History(), 1, seed=seed + 1)  # a strategy that remembers would go on from here
    assert answer(made.propose(SPACES[space], history, 2, seed=seed)) == answer(two(strategy, space, seed))
    assert repr((made, SPACES[space].to_json(), history.trials, history.next_number, history.digest)) == before
    assert not draws(lambda: made.propose(SPACES[space], history, 2, seed=seed))


@every_strategy
@pytest.mark.parametrize(("space", "length"), [("mixed", 50), ("tiny", 6), ("constrained", 12)])
def test_resume(strategy: str, space: str, length: int, seed: int) -> None:
    whole = grown(strategy, SPACES[space], History(), length, seed)
    assert len(whole) == length
    half = History(whole.trials[: length // 2])
    resumed = grown(strategy, SPACES[space], through_json(SPACES[space], half), length, seed)
    assert exact([trial.config for trial in resumed]) == exact([trial.config for trial in whole])
    assert resumed.digest == whole.digest


@every_strategy
@every_space
def test_batch(strategy: str, space: str, seed: int) -> None:
    history, singles = history_of(space, seed), []
    for _ in range(2):
        one = make_strategy(strategy).propose(SPACES[space], history, 1, seed=seed)
        singles += one
        history = history.with_pending(one)
    assert answer(singles) == answer(two(strategy, space, seed))


@every_strategy
@every_space
def test_failures_are_not_repeated(strategy: str, space: str, seed: int) -> None:
    configs = [trial.config for trial in history_of(space, seed)]
    history = History(Trial(i, config, TrialState.FAILED, reason="killed") for i, config in enumerate(configs))
    proposals = make_strategy(strategy).propose(SPACES[space], history, 2, seed=seed)
    assert proposals
    check_valid(SPACES[space], history, proposals, 2)


@every_strategy
@every_space
def test_ties(strategy: str, space: str, seed: int) -> None:
    configs = [trial.config for trial in history_of(space, seed)]
    history = History(completed(configs, lambda config: 1.5))
    proposals = make_strategy(strategy).propose(SPACES[space], history, 2, seed=seed)
    assert proposals
    check_valid(SPACES[space], history, proposals, 2)


@every_strategy
@every_space
@pytest.mark.parametrize("feasible", [0, 1, 3], ids=["none", "one", "every_third"])
def test_limits(strategy: str, space: str, seed: int, feasible: int) -> None:
    """Whatever keeps its limits or breaks them, a strategy proposes, the same from any copy of the history."""
    values = iter([0.5, 1e300, math.inf, 1e-9] * LENGTH)
    trials = [
        replace(trial, excess={"a": -0.1 if feasible and i % feasible == 0 else next(values), "b": -1.0})
        for i, trial in enumerate(completed([trial.config for trial in history_of(space, seed)]))
    ]
    history = History(trials)
    proposals = make_strategy(strategy).propose(SPACES[space], history, 2, seed=seed)
    assert proposals
    check_valid(SPACES[space], history, proposals, 2)
    again = make_strategy(strategy).propose(SPACES[space], History(reversed(trials)), 2, seed=seed)
    assert answer(again) == answer(proposals)


@every_space
@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "gradient"])
def test_several_objectives(strategy: str, space: str, seed: int) -> None:
    """Whatever the losses, a strategy proposes, the same from any copy of the history; running trials are pending."""
    objectives = 2 + (list(SPACES).index(space) + list(STRATEGIES).index(strategy)) % 2
    rows = iter([(0.5, 1e300, 0.5), (0.5, -1e300, 0.5), (0.0, 1.0, 2.0), (1.0, 0.0, 5e-324)] * LENGTH)
    trials = [
        replace(trial, loss=losses[0], losses=losses, excess={"a": 0.1 - i % 3})
        if trial.state is TrialState.COMPLETE and (losses := next(rows)[:objectives])
        else trial
        for i, trial in enumerate(history_of(space, seed))
    ]
    history = History(trials)
    proposals = make_strategy(strategy).propose(SPACES[space], history, 2, seed=seed)
    assert proposals
    check_valid(SPACES[space], history, proposals, 2)
    again = make_strategy(strategy).propose(SPACES[space], History(reversed(trials)), 2, seed=seed)
    assert answer(again) == answer(proposals)
    ones = history.with_pending(make_strategy(strategy).propose(SPACES[space], history, 1, seed=seed))
    assert answer(make_strategy(strategy).propose(SPACES[space], ones, 1, seed=seed)) == answer(proposals[1:])


@every_strategy
@every_space
def test_extreme_losses(strategy: str, space: str, seed: int) -> None:
    configs = [trial.config for trial in history_of(space, seed)]
    values = iter([1e308, -1e308, 0.0, 5e-324] * len(configs))
    history = History(completed(configs, lambda config: next(values)))
    check_valid(SPACES[space], history, make_strategy(strategy).propose(SPACES[space], history, 1, seed=seed), 1)


@every_strategy
@pytest.mark.parametrize("space", FINITE)
def test_a_finite_space_is_used_up_and_then_done(strategy: str, space: str, seed: int) -> None:
    configs = everything(SPACES[space])
    history = grown(strategy, SPACES[space], History(), 5 * len(configs) + 5, seed)
    assert history.identities == set(map(identity, configs))
    assert len(set(map(key, history))) == len(history) < 5 * len(configs) + 5


@every_strategy
@pytest.mark.parametrize("space", FINITE)
def test_the_last_configuration_of_a_finite_space_is_found(strategy: str, space: str, seed: int) -> None:
    *others, last = sorted(everything(SPACES[space]), key=lambda config: identity(config | {"seed": seed}))
    proposals = make_strategy(strategy).propose(SPACES[space], History(completed(others)), 3, seed=seed)
    assert exact([proposal.config for proposal in proposals]) == exact([last])


@every_strategy
@pytest.mark.parametrize("space", FINITE)
@pytest.mark.parametrize("state", TrialState)
def test_nothing_is_left_to_propose(strategy: str, space: str, state: TrialState, seed: int) -> None:
    trials = completed(everything(SPACES[space]))
    if state is not TrialState.COMPLETE:
        trials = [replace(trial, state=state, loss=None) for trial in trials]
    assert make_strategy(strategy).propose(SPACES[space], History(trials), 2, seed=seed) == []


@every_strategy
@every_space
def test_foreign_trials(strategy: str, space: str, seed: int) -> None:
    # What a strategy is about to say, somebody else has tried in the meantime.
    history = history_of(space, seed).with_pending(two(strategy, space, seed))
    ended = [
        replace(t, state=TrialState.COMPLETE, loss=loss(t.config), hypergradient=slopes(t.config))
        if t.state is TrialState.RUNNING
        else t
        for t in history
    ]
    # Numbers may have gaps: a run was deleted.
    moved = History(replace(trial, number=2 * trial.number + 1, parent=None) for trial in ended)
    proposals = make_strategy(strategy).propose(SPACES[space], moved, 2, seed=seed)
    check_valid(SPACES[space], moved, proposals, 2)
    assert proposals or space in FINITE


def test_the_histories_of_this_suite_are_what_the_laws_need(seed: int) -> None:
    for name, space in SPACES.items():
        history = history_of(name, seed)
        assert history.failed or name in FINITE
        assert history.running or name in FINITE
        configs = [trial.config for trial in history]
        assert exact([space.validated(config) for config in configs]) == exact(configs)
    assert len(everything(SPACES["tiny"])) == 9


if __name__ == "__main__":
    from tests.conftest import SEED

    print(json.dumps(answers(SEED)))


@every_strategy
def test_a_strategy_refuses_what_it_does_not_know(strategy: str) -> None:
    with pytest.raises(InputError, match=f"strategy.flavour: '{strategy}' has no setting 'flavour'"):
        make_strategy(strategy, {"flavour": 3})


SETTINGS_OF_EACH = [
    (strategy, field.name)
    for strategy, cls in STRATEGIES.items()
    for field in fields(cast(Any, cls))
    if field.name not in ("fidelity", *cls.nested)
]


@pytest.mark.parametrize(("strategy", "setting"), SETTINGS_OF_EACH)
@pytest.mark.parametrize("value", [True, "7", -1, math.nan, math.inf, [1]], ids=str)
def test_no_setting_takes_what_it_cannot_mean(strategy: str, setting: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"strategy\.{setting}: .*; correct it"):
        make_strategy(strategy, {setting: value})
