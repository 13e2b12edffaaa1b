"""The benchmark instances: recorded and live trainings as a space, a loss, and two values to measure regret by.

The data is looked for in the folder named by ``HPO_BENCH_DATA``, else in ``../shared/benchmarks`` beside the
repository. Its ``suite.json`` names the instances; those at even positions are for decisions, the others confirm them.
Live trainings (``live.py``) need no data.
"""

from __future__ import annotations

import functools
import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import live
from hpo_core.space.parameters import Choice, Float, Int, Ordinal
from hpo_core.space.search_space import SearchSpace

HALVES = ("develop", "confirm", "all")
GROUPS = ("suite", "panel", "live")

PANEL = {
    "fcnet": 3,
    "hpobench_mlp": 2,
    "nb201": 1,
    "lcbench": 4,
    "rbv2_xgboost": 2,
    "rbv2_rpart": 2,
    "rbv2_super_v0": 2,
}
"""For peers that take seconds a proposal: the first so many instances of each family, eight of each half."""


@dataclass(frozen=True)
class Instance:
    """One thing to tune.

    Args:
        name: ``family/task``.
        space: Its search space.
        loss: The loss of a configuration, lower is better. Live ones are noisy: equal whole numbers, equal noise.
        best: The lowest loss known.
        reference: The expected lowest loss of 10 random configurations.
        expected: What regret is measured by where the loss is noisy.
    """

    name: str
    space: SearchSpace
    loss: Callable[[Mapping[str, Any], int], float]
    best: float
    reference: float
    expected: Callable[[Mapping[str, Any]], float] | None = None

    def regret(self, loss: float) -> float:
        """0 at the best known loss, 1 where 10 random trials lead on average; negative at a new best."""
        return (loss - self.best) / (self.reference - self.best)


def data_folder() -> Path:
    """The folder of the benchmark data.

    Raises:
        SystemExit: There is none; the message says how to name it.
    """
    default = Path(__file__).resolve().parents[1].parent / "shared" / "benchmarks"
    folder = Path(os.environ.get("HPO_BENCH_DATA", default))
    if not (folder / "suite.json").is_file():
        raise SystemExit(f"no benchmark data in {folder}: set HPO_BENCH_DATA to the folder that holds suite.json")
    return folder


def names(half: str = "all", group: str = "suite") -> list[str]:
    """The instances of a group in its order, tables first: all, or every second one."""
    if group == "live":
        every = [f"live/{task}" for task in live.TASKS]
    else:
        suite = json.loads((data_folder() / "suite.json").read_text())
        every = ["/".join(pair) for pair in suite["tabular"]]
        every += [f"{scenario}/{task}" for scenario, tasks in suite["yahpo"].items() for task in tasks]
    chosen = {"develop": every[::2], "confirm": every[1::2], "all": every}[half]
    if group != "panel":
        return chosen
    families = [name.split("/")[0] for name in every]
    return [
        name for i, name in enumerate(every) if families[:i].count(families[i]) < PANEL[families[i]] and name in chosen
    ]


@functools.cache
def load(name: str) -> Instance:
    """The instance of a name."""
    family, task = name.split("/")
    if family == "live":
        return _live(task)
    return _table(family, task) if family in ("fcnet", "hpobench_mlp", "nb201") else _surrogate(family, task)


def _live(name: str) -> Instance:
    task, known = live.TASKS[name], live.references()[name]
    return Instance(
        f"live/{name}",
        task.space,
        functools.partial(live.observed_loss, task),
        known["best"],
        known["reference"],
        functools.partial(live.expected_loss, task),
    )


def module(folder: str, name: str) -> Any:
    path = str(data_folder() / folder)
    if path not in sys.path:
        sys.path.append(path)
    return importlib.import_module(name)


def _table(family: str, task: str) -> Instance:
    table = module("tabular", "tabular").Table(family, task)
    space = SearchSpace(
        {
            name: Choice(choices=values) if isinstance(values[0], str) else Ordinal(choices=values)
            for name, values in table.space.items()
        }
    )
    losses = np.sort((table.sign * table.mean).ravel())
    # The lowest of 10 draws with replacement is above the i-th lowest cell with probability (1 - i/n)^10.
    above = (1.0 - np.arange(len(losses) + 1) / len(losses)) ** 10
    reference = float((losses * (above[:-1] - above[1:])).sum())
    return Instance(
        f"{family}/{task}",
        space,
        lambda config, _: float(table.sign * table.evaluate(config)),
        float(table.sign * table.best),
        reference,
    )


@functools.cache
def scenario(family: str) -> Any:
    return module("yahpo", "yahpo_lite").Yahpo(family)


def _surrogate(family: str, task: str) -> Instance:
    surrogate = scenario(family)
    reference = json.loads((data_folder() / "yahpo" / f"ref_{family}.json").read_text())
    target, sign = reference["target"], 1.0 if reference["minimise"] else -1.0
    known = reference["instances"][task]
    # The file has 8 and 16 draws; in the logarithm of their number the expected best is close to a line.
    eight, sixteen = (known["expected_best_of"][count] for count in ("8", "16"))
    ten = eight + (sixteen - eight) * math.log(10 / 8) / math.log(2)
    fidelity = {"repl": 10} if "repl" in surrogate.fidelity else {}
    return Instance(
        f"{family}/{task}",
        _surrogate_space(surrogate),
        lambda config, _: sign * surrogate.evaluate(dict(config), task, **fidelity)[target],
        sign * known["best_known"],
        sign * ten,
    )


def _surrogate_space(scenario: Any) -> SearchSpace:
    described = scenario.space()
    when: dict[str, dict[str, list[Any]]] = {name: {} for name in described}

    def add(child: str, condition: Mapping[str, Any]) -> None:
        if condition["type"] == "AND":
            for part in condition["conditions"]:
                add(child, part)
            return
        values = condition["values"] if condition["type"] == "IN" else [condition["value"]]
        when[child][condition["parent"]] = list(values)

    for condition in scenario.conditions:
        add(condition["child"], condition)
    parameters: dict[str, Any] = {}
    for name, p in described.items():
        if p["type"] == "categorical":
            parameters[name] = Choice(choices=p["choices"], when=when[name])
        elif p["type"] == "uniform_int":
            # A log scale starts at 1; the one range from 0 is short.
            parameters[name] = Int(low=p["lower"], high=p["upper"], log=p["log"], when=when[name])
        else:
            parameters[name] = Float(low=p["lower"], high=p["upper"], log=p["log"], when=when[name])
    return SearchSpace(parameters)
