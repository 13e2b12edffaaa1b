"""Problems with two or three objectives: functions with known fronts, and surrogates of accuracy, time and memory.

A problem gives a configuration's losses, all minimised. Its reference is the corner below which hypervolume counts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import instances
from hpo_core.base.arrays import Array
from hpo_core.base.seeding import trial_rng
from hpo_core.numerics.pareto import hypervolume
from hpo_core.space.parameters import Float
from hpo_core.space.search_space import SearchSpace

Config = Mapping[str, Any]
Losses = tuple[float, ...]

DIMENSIONS = 6
"""How many parameters the functions have here, as hyperparameters are few."""

DRAWS = 1_000


@dataclass(frozen=True)
class Problem:
    """Something with several losses.

    Args:
        name: Its name.
        space: Its search space.
        losses: The losses of a configuration.
        objectives: How many there are.
        corner: The reference of its hypervolume; None for what 9 of 10 random configurations are better than in each
            loss, so that heavy tails of time and memory do not count.
        largest: The hypervolume of the true front; None if it is not known.
    """

    name: str
    space: SearchSpace
    losses: Callable[[Config], Losses]
    objectives: int
    corner: tuple[float, ...] | None = None
    largest: float | None = None

    @functools.cached_property
    def drawn(self) -> Array:
        """The losses of random configurations, shape ``(DRAWS, objectives)``."""
        rng = trial_rng(0, 0)
        rows = rng.random((DRAWS, self.space.dimensions))
        return np.array([self.losses(self.space.decode(row)) for row in rows])

    @functools.cached_property
    def reference(self) -> Array:
        return np.quantile(self.drawn, 0.9, axis=0) if self.corner is None else np.array(self.corner)

    @functools.cached_property
    def usual(self) -> float:
        """The expected hypervolume of 20 random configurations."""
        rng = trial_rng(1, 0)
        volumes = [hypervolume(rng.choice(self.drawn, 20), self.reference) for _ in range(300)]
        return float(np.mean(volumes))


def _front_of_zdt3() -> float:
    first = np.linspace(0, 1, 20_001)
    losses = np.column_stack([first, 1 - np.sqrt(first) - first * np.sin(10 * math.pi * first)])
    return hypervolume(losses, np.array([11.0, 11.0]))


def _zdt(shape: Callable[[float, float], float]) -> Callable[[Config], Losses]:
    """A function of Zitzler, Deb and Thiele (2000), doi:10.1162/106365600568202: the first loss is a parameter."""

    def losses(config: Config) -> Losses:
        first, *others = config.values()
        g = 1 + 9 * sum(others) / len(others)
        return first, g * shape(first, g)

    return losses


def dtlz2(config: Config) -> Losses:
    """Deb et al. (2005): the front is an eighth of a sphere."""
    a, b, *others = config.values()
    g = 1 + sum((x - 0.5) ** 2 for x in others)
    a, b = a * math.pi / 2, b * math.pi / 2
    return g * math.cos(a) * math.cos(b), g * math.cos(a) * math.sin(b), g * math.sin(a)


_ZDT: dict[str, tuple[Callable[[float, float], float], float]] = {
    "zdt1": (lambda f, g: 1 - math.sqrt(f / g), 121 - 1 / 3),
    "zdt2": (lambda f, g: 1 - (f / g) ** 2, 121 - 2 / 3),
    "zdt3": (lambda f, g: 1 - math.sqrt(f / g) - f / g * math.sin(10 * math.pi * f), _front_of_zdt3()),
}

_SURROGATES = {
    "lcbench": (("val_accuracy", "time"), ("168335", "7593")),
    "rbv2_rpart": (("acc", "timetrain"), ("1468", "23381")),
    "rbv2_xgboost": (("acc", "timetrain", "memory"), ("42", "458")),
}
"""By scenario, the metrics and the instances, of those to develop on."""

NAMES = (*_ZDT, "dtlz2", *(f"{family}/{task}" for family, (_, tasks) in _SURROGATES.items() for task in tasks))


@functools.cache
def load(name: str) -> Problem:
    """The problem of a name."""
    space = SearchSpace({f"x{i}": Float(low=0, high=1) for i in range(DIMENSIONS)})
    if name in _ZDT:
        shape, largest = _ZDT[name]
        return Problem(name, space, _zdt(shape), 2, (11.0, 11.0), largest)
    if name == "dtlz2":
        return Problem(name, space, dtlz2, 3, (1.1, 1.1, 1.1), 1.1**3 - math.pi / 6)
    return _surrogate(name)


def _surrogate(name: str) -> Problem:
    family, _, task = name.partition("/")
    surrogate, (metrics, _) = instances.scenario(family), _SURROGATES[family]
    full = {"repl": 10} if "repl" in surrogate.fidelity else {}

    def losses(config: Config) -> Losses:
        found = surrogate.evaluate(dict(config), task, **full)
        accuracy, *costs = (float(found[metric]) for metric in metrics)
        return -accuracy, *costs

    return Problem(name, instances.load(name).space, losses, len(metrics))
