"""The spaces that strategies are tried on, and histories of all kinds in them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from hpo_core.history.history import History
from hpo_core.history.trial import Proposal, Trial, TrialState
from hpo_core.space.belief import Belief
from hpo_core.space.configuration import Config, config_from_json, config_to_json, identity
from hpo_core.space.parameters import Boolean, Choice, Fixed, Float, Int, Ordinal
from hpo_core.space.search_space import SearchSpace

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
    rng = random.Random(seed)  # noqa: S311  (no secret)
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
