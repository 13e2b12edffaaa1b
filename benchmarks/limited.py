"""Problems with limits on results: engineering with known answers, and surrogates of xgboost within time and memory.

A problem gives a configuration's loss and its excess beyond each limit (at most 0: kept).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import instances
from hpo_core.base.seeding import trial_rng
from hpo_core.history.limits import violation
from hpo_core.space.parameters import Float, Int
from hpo_core.space.search_space import SearchSpace

Config = Mapping[str, Any]
Outcome = tuple[float, dict[str, float]]

RANDOM, RANDOM_QUICK = 1_000, 40_000
"""How many random configurations tell what losses are usual, and what times and memories: of surrogates, which take a
millisecond each, and of formulas."""


@dataclass(frozen=True)
class Problem:
    """Something to minimise within limits.

    Args:
        name: Its name.
        space: Its search space.
        outcome: The loss and the excesses of a configuration.
        best: The lowest loss of a feasible configuration that is known.
        draws: How many random configurations tell what is usual.
    """

    name: str
    space: SearchSpace
    outcome: Callable[[Config], Outcome]
    best: float
    draws: int = RANDOM_QUICK

    @functools.cached_property
    def reference(self) -> tuple[float, float]:
        """The expected best feasible loss of 20 random configurations, and the median of the feasible ones."""
        return _reference([self.outcome(config) for config in _drawn(self.space, self.draws)])

    def regret(self, outcomes: list[Outcome]) -> list[float]:
        """The regret of the best feasible trial, after each trial: 0 at the best known, 1 at 20 random configurations.

        As long as none is feasible, it is that of the median feasible configuration.
        """
        usual, median = self.reference
        best, found = max(median, usual), list[float]()
        for loss, excess in outcomes:
            best = min(best, loss) if violation(excess) == 0 else best
            found.append((best - self.best) / (usual - self.best))
        return found


def _drawn(space: SearchSpace, count: int = RANDOM) -> list[Config]:
    rng = trial_rng(0, 0)
    return [space.decode(row) for row in rng.random((count, space.dimensions))]


def _reference(outcomes: list[Outcome]) -> tuple[float, float]:
    losses = np.array([loss if violation(excess) == 0 else math.inf for loss, excess in outcomes])
    feasible = np.sort(losses[np.isfinite(losses)])
    draws = trial_rng(1, 0).choice(losses, (2_000, 20))
    best = draws.min(axis=1)
    median = float(np.median(feasible))
    return float(np.where(np.isfinite(best), best, median).mean()), median


def gardner(x: Config) -> Outcome:
    """Gardner et al. (2014), the first simulation."""
    a, b = x["a"], x["b"]
    return math.cos(2 * a) * math.cos(b) + math.sin(a), {
        "c": math.cos(a) * math.cos(b) - math.sin(a) * math.sin(b) - 0.5
    }


def gardner_narrow(x: Config) -> Outcome:
    """Gardner et al. (2014), the second simulation: the feasible region is small."""
    a, b = x["a"], x["b"]
    return math.sin(a) + b, {"c": math.sin(a) * math.sin(b) + 0.95}


def welded_beam(x: Config) -> Outcome:
    """The cost of a welded beam under a load of 6,000 lb (Coello Coello 2000)."""
    h, l, t, b = x["h"], x["l"], x["t"], x["b"]  # noqa: E741  (the literature's names)
    load, reach, young, shear = 6_000.0, 14.0, 30e6, 12e6
    arm = math.hypot(l / 2, (h + t) / 2)
    polar = 2 * (math.sqrt(2) * h * l * (l * l / 12 + ((h + t) / 2) ** 2))
    first, second = load / (math.sqrt(2) * h * l), load * (reach + l / 2) * arm / polar
    stress = math.sqrt(first**2 + first * second * l / arm + second**2)
    bending = 6 * load * reach / (b * t * t)
    deflection = 4 * load * reach**3 / (young * t**3 * b)
    buckling = 4.013 * young * t * b**3 / 6 / reach**2 * (1 - t / (2 * reach) * math.sqrt(young / (4 * shear)))
    cost = 1.10471 * h * h * l + 0.04811 * t * b * (14 + l)
    return cost, {
        "stress": stress / 13_600 - 1,
        "bending": bending / 30_000 - 1,
        "weld": h - b,
        "deflection": deflection / 0.25 - 1,
        "buckling": 1 - buckling / load,
    }


def pressure_vessel(x: Config) -> Outcome:
    """The cost of a pressure vessel; thicknesses come in sixteenths of an inch (Coello Coello 2000)."""
    shell, head, r, length = x["shell"] / 16, x["head"] / 16, x["radius"], x["length"]
    cost = 0.6224 * shell * r * length + 1.7781 * head * r * r + 3.1661 * shell**2 * length + 19.84 * shell**2 * r
    volume = math.pi * r * r * length + 4 / 3 * math.pi * r**3
    return cost, {"shell": 0.0193 * r - shell, "head": 0.00954 * r - head, "volume": 1 - volume / 1_296_000}


def speed_reducer(x: Config) -> Outcome:
    """The weight of a speed reducer, with eleven limits (Golinski 1970)."""
    a, b, c, d, e, f, g = (x[name] for name in "abcdefg")
    weight = 0.7854 * a * b * b * (3.3333 * c * c + 14.9334 * c - 43.0934) - 1.508 * a * (f * f + g * g)
    weight += 7.4777 * (f**3 + g**3) + 0.7854 * (d * f * f + e * g * g)
    limits = [
        27 / (a * b * b * c),
        397.5 / (a * b * b * c * c),
        1.93 * d**3 / (b * c * f**4),
        1.93 * e**3 / (b * c * g**4),
        math.sqrt((745 * d / (b * c)) ** 2 + 16.9e6) / (110 * f**3),
        math.sqrt((745 * e / (b * c)) ** 2 + 157.5e6) / (85 * g**3),
        b * c / 40,
        5 * b / a,
        a / (12 * b),
        (1.5 * f + 1.9) / d,
        (1.1 * g + 1.9) / e,
    ]
    return weight, {f"limit {i}": value - 1 for i, value in enumerate(limits, 1)}


def _square(*names: str) -> SearchSpace:
    return SearchSpace({name: Float(low=0, high=6) for name in names})


_ENGINEERING: dict[str, tuple[Callable[[Config], Outcome], SearchSpace, float]] = {
    "gardner": (gardner, _square("a", "b"), -2.0),
    "gardner_narrow": (gardner_narrow, _square("a", "b"), 0.2532),
    "welded_beam": (
        welded_beam,
        SearchSpace(
            {
                "h": Float(low=0.125, high=5),
                "l": Float(low=0.1, high=10),
                "t": Float(low=0.1, high=10),
                "b": Float(low=0.1, high=5),
            }
        ),
        1.7248,
    ),
    "pressure_vessel": (
        pressure_vessel,
        SearchSpace(
            {
                "shell": Int(low=1, high=99),
                "head": Int(low=1, high=99),
                "radius": Float(low=10, high=200),
                "length": Float(low=10, high=200),
            }
        ),
        6059.714,
    ),
    "speed_reducer": (
        speed_reducer,
        SearchSpace(
            {
                "a": Float(low=2.6, high=3.6),
                "b": Float(low=0.7, high=0.8),
                "c": Int(low=17, high=28),
                "d": Float(low=7.3, high=8.3),
                "e": Float(low=7.3, high=8.3),
                "f": Float(low=2.9, high=3.9),
                "g": Float(low=5.0, high=5.5),
            }
        ),
        2994.42,
    ),
}

_QUICK = ("42", "24", "458", "40983")
"""Instances of rbv2_xgboost to develop on, of those where the quick ones are not all alike."""

NAMES = (*_ENGINEERING, *(f"xgboost/{task}" for task in _QUICK))


@functools.cache
def load(name: str) -> Problem:
    """The problem of a name."""
    if name in _ENGINEERING:
        outcome, space, best = _ENGINEERING[name]
        return Problem(name, space, outcome, best)
    return _quick(name.partition("/")[2])


def _quick(task: str) -> Problem:
    """An xgboost within the time and the memory of the median random configuration."""
    instance, surrogate = instances.load(f"rbv2_xgboost/{task}"), instances.scenario("rbv2_xgboost")
    limited = ("timetrain", "memory")

    def metrics(config: Config) -> Mapping[str, float]:
        found: Mapping[str, float] = surrogate.evaluate(dict(config), task, repl=10)
        return found

    drawn = [metrics(config) for config in _drawn(instance.space)]
    bounds = {metric: float(np.median([each[metric] for each in drawn])) for metric in limited}

    def outcome(config: Config) -> Outcome:
        found = metrics(config)
        return instance.loss(config, 0), {m: found[m] / bounds[m] - 1 for m in limited}

    best = min(loss for loss, excess in map(outcome, _drawn(instance.space)) if violation(excess) == 0)
    return Problem(f"xgboost/{task}", instance.space, outcome, best, RANDOM)
