"""What a result costs where trainings differ in cost: regret by cost spent, with and without ``cost``, beside peers.

    python -m benchmarks.cost_aware run bayesian bayesian+cost random peer:optuna_tpe --half develop --seeds 5
    python -m benchmarks.cost_aware table costs.jsonl

The budget is what ``TRIALS`` random trainings cost on average, by the training times that lcbench and rbv2_xgboost
recorded; a study ends there. Regret is 0 at the best loss known and 1 at what ten random trials reach on average; only
what is done within a share of the budget counts there. ``+cost`` tells a strategy what each trial cost.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import instances, standings
from benchmarks.contenders import Contenders, Ours
from benchmarks.measure import table
from hpo_core.base.seeding import trial_rng

FAMILIES = {"lcbench": "time", "rbv2_xgboost": "timetrain"}
"""The scenarios that recorded what trainings took, with the name of that target."""

TRIALS = 100
"""The budget in random trainings."""

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

LEAST = 1e-3
"""A surrogate may predict a time at or below 0."""


@dataclass(frozen=True)
class Priced:
    """An instance whose trainings have costs.

    Args:
        instance: The instance.
        target: The surrogate's target that is the cost.
    """

    instance: instances.Instance
    target: str

    def cost(self, config: Mapping[str, Any]) -> float:
        family, task = self.instance.name.split("/")
        surrogate = instances.scenario(family)
        fidelity = {"repl": 10} if "repl" in surrogate.fidelity else {}
        return max(float(surrogate.evaluate(dict(config), task, **fidelity)[self.target]), LEAST)

    def budget(self) -> float:
        rng, space = trial_rng(0, 0), self.instance.space
        return TRIALS * float(np.mean([self.cost(space.decode(u)) for u in rng.random((1_000, space.dimensions))]))


@cache
def load(name: str) -> tuple[Priced, float]:
    """An instance of a name, and its budget."""
    priced = Priced(instances.load(name), FAMILIES[name.split("/")[0]])
    return priced, priced.budget()


def names(half: str) -> list[str]:
    return [name for name in instances.names(half) if name.split("/")[0] in FAMILIES]


def study(contenders: Contenders, label: str, name: str, seed: int, until: float, most: int) -> dict[str, Any]:
    """Runs one study: the cost spent and the incumbent's regret after each trial, as a line of the results."""
    priced, budget = load(name)
    strategy, _, told = label.partition("+")
    contender = contenders.open(strategy, priced.instance.space, seed, TRIALS)
    spent, best, line = 0.0, np.inf, list[tuple[float, float]]()
    while spent < until * budget and len(line) < most:
        asked = contender.ask(1)
        if not asked:
            break
        config = priced.instance.space.validated(asked[0])
        loss, cost = priced.instance.loss(config, 0), priced.cost(config)
        spent, best = spent + cost, min(best, loss)
        contender.tell([loss])
        if told:
            assert isinstance(contender, Ours)
            contender.done[-1] = replace(contender.done[-1], cost=cost)
        line.append((round(spent / budget, 6), round(priced.instance.regret(best), 6)))
    return {"strategy": label, "instance": name, "seed": seed, "until": until, "line": line}


def regret_at(line: Sequence[tuple[float, float]], share: float) -> float:
    """The regret of what is done within a share of the budget; of the first trial, where that took longer."""
    return [regret for spent, regret in line if spent <= share or regret == line[0][1]][-1]


def run(args: argparse.Namespace) -> None:
    done = {(line["strategy"], line["instance"], line["seed"]) for line in standings.read([args.out])}
    wanted = args.instances or names(args.half)
    with Contenders(args.python) as contenders:
        for seed, name, label in itertools.product(range(args.seeds), wanted, args.names):
            if (label, name, seed) not in done:
                line = study(contenders, label, name, seed, args.until, args.most)
                with args.out.open("a") as out:
                    out.write(json.dumps(line) + "\n")
                print(label, name, seed, len(line["line"]), line["line"][-1], file=sys.stderr)


def show(args: argparse.Namespace) -> None:
    """The mean regret at shares of the budget."""
    lines = standings.read(args.results)
    labels = list(dict.fromkeys(line["strategy"] for line in lines))
    studies = [
        {(each["instance"], each["seed"]): each["line"] for each in lines if each["strategy"] == label}
        for label in labels
    ]
    wanted = set(names(args.half))
    shared = sorted(key for key in set.intersection(*map(set, studies)) if key[0] in wanted)
    for family in [*FAMILIES, ""]:
        keys = [key for key in shared if key[0].startswith(family)]
        if not keys:
            continue
        rows = [
            [label, *(float(np.mean([regret_at(each[key], share) for key in keys])) for share in args.at)]
            for label, each in zip(labels, studies, strict=True)
        ]
        print(f"\n{family or 'all'}: {len(keys)} studies\n")
        print(table(["regret at a share of the budget of", *(f"{share:g}" for share in args.at)], rows))


def command_line() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="run studies")
    runs.set_defaults(action=run)
    runs.add_argument("names", nargs="+", help="strategies, with +cost or without, or peer:NAME")
    runs.add_argument("--out", type=Path, default=Path("costs.jsonl"))
    runs.add_argument("--instances", nargs="*", help="instead of a half")
    runs.add_argument("--seeds", type=int, default=5)
    runs.add_argument("--until", type=float, default=1.0, help="the share of the budget where studies end")
    runs.add_argument("--most", type=int, default=1000, help="the number of trials where studies end, too")
    runs.add_argument("--python", help="the interpreter that has the peers, if not that of `make peers`")
    shows = commands.add_parser("table", help=show.__doc__)
    shows.set_defaults(action=show)
    shows.add_argument("results", type=Path, nargs="+")
    shows.add_argument("--at", nargs="+", type=float, default=list(SHARES))
    for sub in commands.choices.values():
        sub.add_argument("--half", choices=instances.HALVES, default="all")
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    command_line()
