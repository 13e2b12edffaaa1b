"""What a warm start is worth: regret by trial on a task after random trials on other tasks of its family.

    python -m benchmarks.warm_start run bayesian bayesian+standardise bayesian+rank --half develop --out warm.jsonl
    python -m benchmarks.regret table warm.jsonl --half develop --at 1 5 10 20 50

``strategy+alignment`` knows ``--past`` random trials on each of ``--sources`` other tasks, those that follow the
target in the suite's order; with the alignment ``none``, as many on the target itself; a strategy alone, nothing.
Lines and table are those of ``benchmarks.regret``.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import instances
from benchmarks.contenders import make
from benchmarks.standings import read
from hpo_core.history.history import History
from hpo_core.history.prior import Observation, Source
from hpo_core.history.trial import Trial, TrialState
from hpo_core.strategies.make import make_strategy

FAMILIES = ("lcbench", "rbv2_xgboost")


@functools.cache
def source(name: str, past: int, seed: int, align: str) -> Source:
    """Random trials on a task, as another study would have left them."""
    instance = instances.load(name)
    proposals = make_strategy("random").propose(instance.space, History(), past, seed=1000 + seed)
    return Source(
        name, align, tuple(Observation(p.config, instance.loss(p.config, i)) for i, p in enumerate(proposals))
    )


def others(target: str, count: int) -> list[str]:
    """The tasks that follow the target among those of its family."""
    family = [name for name in instances.names() if name.split("/")[0] == target.split("/")[0]]
    at = family.index(target)
    return [family[(at + i) % len(family)] for i in range(1, count + 1)]


def study(label: str, target: str, seed: int, trials: int, sources: int, past: int) -> dict[str, Any]:
    """Runs one study; the regret of the best trial so far after each trial."""
    name, _, align = label.partition("+")
    strategy, instance = make(name), instances.load(target)
    tasks = [target] if align == "none" else others(target, sources)
    prior = [source(task, past, seed, align) for task in tasks] if align else []
    done: list[Trial] = []
    begin = time.perf_counter()
    for number in range(trials):
        (proposal,) = strategy.propose(instance.space, History(done, prior=prior), 1, seed=seed)
        done.append(Trial(number, proposal.config, TrialState.COMPLETE, instance.loss(proposal.config, number)))
    best = itertools.accumulate((trial.loss or 0.0 for trial in done), min)
    return {
        "strategy": label,
        "instance": target,
        "seed": seed,
        "batch": 1,
        "trials": trials,
        "seconds": round(time.perf_counter() - begin, 3),
        "regret": [round(instance.regret(loss), 6) for loss in best],
    }


def targets(half: str, count: int) -> list[str]:
    """The first tasks of each family in a half of the suite."""
    names = instances.names(half)
    return [name for family in FAMILIES for name in [n for n in names if n.startswith(family)][:count]]


def run(args: argparse.Namespace) -> None:
    done = {(line["strategy"], line["instance"], line["seed"]) for line in read([args.out])}
    for seed, name, label in itertools.product(range(args.seeds), targets(args.half, args.tasks), args.labels):
        if (label, name, seed) not in done:
            line = study(label, name, seed, args.trials, args.sources, args.past)
            with args.out.open("a") as out:
                out.write(json.dumps(line) + "\n")


def command_line(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(required=True).add_parser("run")
    sub.add_argument("labels", nargs="+", help="strategy, or strategy+alignment")
    sub.add_argument("--out", type=Path, default=Path("warm.jsonl"))
    sub.add_argument("--half", choices=instances.HALVES, default="develop")
    sub.add_argument("--tasks", type=int, default=4, help="targets a family")
    sub.add_argument("--seeds", type=int, default=3)
    sub.add_argument("--trials", type=int, default=50)
    sub.add_argument("--sources", type=int, default=3)
    sub.add_argument("--past", type=int, default=50)
    args = parser.parse_args(arguments)
    run(args)


if __name__ == "__main__":
    command_line()
