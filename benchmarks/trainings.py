"""Recorded trainings that can be cut short: the loss and the cost of a configuration at any fidelity.

From the same data as :mod:`benchmarks.instances`: learning curves of lcbench (epochs) and TaskSet (steps), and the
shares of a training set of rbv2_xgboost, where a larger share is a training of its own.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import instances
from hpo_core.history.fidelity import Fidelity
from hpo_core.space.configuration import identity
from hpo_core.space.parameters import Float
from hpo_core.space.search_space import SearchSpace

Config = Mapping[str, Any]

PANEL = {"lcbench": 6, "taskset": 6, "rbv2_xgboost": 4}
"""How many instances of each family are measured: the first of the suite."""


@dataclass(frozen=True)
class Task:
    """Something to tune whose trainings can be cut short.

    Args:
        name: ``family/task``.
        space: Its search space.
        fidelity: From the least to a full training.
        continues: Whether a training goes on where it was cut short; otherwise more of it is a training of its own.
        losses: Of a configuration at some fidelities, shape ``(n,)``; infinite where it diverged.
        seconds: What it cost to get from nothing to each of these fidelities, recorded or modelled, shape ``(n,)``.
        best: The lowest loss known.
        reference: The expected lowest loss of 10 random full trainings.
    """

    name: str
    space: SearchSpace
    fidelity: Fidelity
    continues: bool
    losses: Callable[[Config, Sequence[float]], Any]
    seconds: Callable[[Config, Sequence[float]], Any]
    best: float
    reference: float

    def regret(self, loss: float) -> float:
        """0 at the best loss known, 1 where 10 random full trainings lead on average."""
        return max(0.0, (loss - self.best) / (self.reference - self.best))

    def between(self, start: float, end: float) -> list[float]:
        """The fidelities at which a training that goes from one to another shows a loss, ascending."""
        if not self.continues:
            return [end]
        return [float(step) for step in range(int(start) + 1, round(end) + 1)]


def names() -> list[str]:
    """The tasks of the panel."""
    suite = json.loads((instances.data_folder() / "suite.json").read_text())
    listed = suite["yahpo"] | {"taskset": suite["taskset"]}
    return [f"{family}/{task}" for family, count in PANEL.items() for task in listed[family][:count]]


@functools.cache
def load(name: str) -> Task:
    """The task of a name."""
    family, task = name.split("/")
    return _taskset(task) if family == "taskset" else _surrogate(family, task)


def _surrogate(family: str, task: str) -> Task:
    plain, surrogate = instances.load(f"{family}/{task}"), instances.scenario(family)
    epochs = family == "lcbench"
    # An untrained network says nothing: the data's README wants brackets to start at 2.
    fidelity = Fidelity("epochs", 2, 52) if epochs else Fidelity("share", 1 / 27, 1.0)
    target, cost = ("val_accuracy", "time") if epochs else ("acc", "timetrain")

    @functools.cache
    def recorded(config: tuple[tuple[str, Any], ...], at: tuple[float, ...]) -> tuple[Any, Any]:
        rows = [dict(config) | ({"epoch": round(step)} if epochs else {"trainsize": step, "repl": 10}) for step in at]
        found = surrogate.evaluate(rows, task)
        return np.array([-row[target] for row in found]), np.array([max(row[cost], 1e-3) for row in found])

    return Task(
        plain.name,
        plain.space,
        fidelity,
        epochs,
        lambda config, at: recorded(tuple(config.items()), tuple(at))[0],
        lambda config, at: np.maximum.accumulate(recorded(tuple(config.items()), tuple(at))[1]),
        plain.best,
        plain.reference,
    )


def _taskset(task: str) -> Task:
    module = instances.module("taskset", "taskset")
    table = module.TaskSet(task)
    rows: dict[str, int] = {}

    def row(config: Config) -> int:
        """The recorded training nearest to a configuration; two configurations have two."""
        key = identity(config)
        if key not in rows:
            full = {
                k: 1.0 - v if scale == "one_minus" else v for (k, v), (_, _, scale) in _paired(config, module.SPACE)
            }
            rows[key] = table.nearest(full, list(rows.values()))
        return rows[key]

    final = np.sort(np.minimum.accumulate([table.curve(i) for i in range(len(table.HP))], axis=1)[:, -1])
    above = (1.0 - np.arange(len(final) + 1) / len(final)) ** 10
    space = SearchSpace({k: Float(low=low, high=high, log=True) for k, (low, high, _) in module.SPACE.items()})
    return Task(
        f"taskset/{task}",
        space,
        Fidelity("steps", 2, 51),
        True,
        lambda config, at: table.curve(row(config))[[round(step) - 1 for step in at]],
        lambda config, at: np.array(at, dtype=float),  # no times are recorded
        table.best,
        float((final * (above[:-1] - above[1:])).sum()),
    )


def _paired(config: Config, space: Mapping[str, Any]) -> Any:
    return [((key, config[key]), space[key]) for key in space]
