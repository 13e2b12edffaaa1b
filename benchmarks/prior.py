"""What a belief costs if it is wrong, and saves if it is right: trials to the same regret as without it.

    python -m benchmarks.prior run bayesian --seeds 5 --out prior.jsonl
    python -m benchmarks.prior table prior.jsonl

A right belief is about the best of ``DRAWN`` random configurations, parameter by parameter; a wrong one is about the
worst of as many. They are drawn for each seed anew. The table says how many trials it takes until the mean regret is as
low as without a belief after so many trials.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import instances, regret, standings
from benchmarks.contenders import Contenders
from benchmarks.measure import table
from hpo_core.base.seeding import trial_rng
from hpo_core.space.belief import Belief
from hpo_core.space.configuration import Config
from hpo_core.space.search_space import SearchSpace

NAMES = (
    "lcbench/3945", "lcbench/168910", "rbv2_rpart/1468", "fcnet/naval_propulsion", "hpobench_mlp/kc1", "nb201/cifar10",
)  # fmt: skip
"""Instances to develop on, one or two of each family whose parameters are all active."""

DRAWN = 200

BELIEFS = ("none", "right:medium", "right:high", "wrong:medium", "wrong:high")

AT = (20, 40)


def believed(space: SearchSpace, loss: Callable[[Config], float], belief: str, seed: int) -> SearchSpace:
    """The space with a belief about every parameter."""
    if belief == "none":
        return space
    side, _, confidence = belief.partition(":")
    rng = trial_rng(seed, 0, stream=11)
    configs = [space.decode(u) for u in rng.random((DRAWN, space.dimensions))]
    losses = [loss(config) for config in configs]
    config = configs[int(np.argmin(losses) if side == "right" else np.argmax(losses))]
    beliefs = {name: Belief(value, confidence) for name, value in config.items()}  # type: ignore[arg-type]
    return SearchSpace(space.parameters, space.constraints, beliefs)


def run(args: argparse.Namespace) -> None:
    done = {_key(line) for line in standings.read([args.out])}
    with Contenders() as contenders:
        for seed, name, label, belief in itertools.product(range(args.seeds), args.instances, args.names, args.beliefs):
            if (label, name, seed, belief) not in done:
                instance = instances.load(name)
                space = believed(instance.space, lambda config, of=instance: of.loss(config, 0), belief, seed)
                instance = replace(instance, space=space)
                line = regret.study(contenders, label, instance, seed, args.trials, 1) | {"belief": belief}
                with args.out.open("a") as out:
                    out.write(json.dumps(line) + "\n")
                print(label, name, seed, belief, line["regret"][-1], file=sys.stderr)


def _key(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return line["strategy"], line["instance"], line["seed"], line["belief"]


def trials_to(curve: Sequence[float], target: float) -> int | None:
    """After how many trials a curve of regret reaches a target; None if it does not."""
    return next((n for n, value in enumerate(curve, 1) if value <= target), None)


def show(args: argparse.Namespace) -> None:
    """The mean regret with each belief, and the trials that it takes to that without."""
    lines = standings.read(args.results)
    for label in dict.fromkeys(line["strategy"] for line in lines):
        own = {_key(line)[1:]: line["regret"] for line in lines if line["strategy"] == label}
        beliefs = [belief for belief in BELIEFS if any(key[2] == belief for key in own)]
        shared = set.intersection(*({key[:2] for key in own if key[2] == belief} for belief in beliefs))
        curves = {b: np.mean([own[(*key, b)] for key in sorted(shared)], axis=0) for b in beliefs}
        targets = [float(curves["none"][n - 1]) for n in args.at]
        rows = [
            [
                belief,
                *(float(curve[n - 1]) for n in args.at),
                *(trials_to(curve, target) for target in targets),
            ]
            for belief, curve in curves.items()
        ]
        print(f"\n{label}: {len(shared)} studies with each belief\n")
        head = [*(f"regret at {n}" for n in args.at), *(f"trials to that of none at {n}" for n in args.at)]
        print(table(["belief", *head], rows))


def command_line() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="run studies")
    runs.set_defaults(action=run)
    runs.add_argument("names", nargs="+", help="strategies")
    runs.add_argument("--out", type=Path, default=Path("prior.jsonl"))
    runs.add_argument("--instances", nargs="*", default=list(NAMES))
    runs.add_argument("--beliefs", nargs="*", default=list(BELIEFS), choices=BELIEFS)
    runs.add_argument("--seeds", type=int, default=5)
    runs.add_argument("--trials", type=int, default=50)
    shows = commands.add_parser("table", help=show.__doc__)
    shows.set_defaults(action=show)
    shows.add_argument("results", type=Path, nargs="+")
    shows.add_argument("--at", nargs="+", type=int, default=list(AT))
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    command_line()
