"""What a study's answer is worth where losses are noisy: the true regret of the configuration that it returns.

    python -m benchmarks.noise run bayesian tpe random peer:optuna_gp peer:optuna_tpe_multivariate --out noise.jsonl
    python -m benchmarks.noise table noise.jsonl
    python -m benchmarks.noise versus bayesian noise.jsonl
    python -m benchmarks.noise small noise-small.jsonl

``run`` appends one JSON line a study, in two processes, and passes over studies that the file has. ``--group small``
takes the problems without noise. True regret is 0 at the best known configuration and 1 where ten random trials lead.
*Returned* is the trial of lowest observed loss; *best tried* is what an oracle would return. *Confirmed* is what is
returned if the last part of the budget goes to repeats: the first trials of the same study are the search, and
``next_repeat`` says which configuration is trained again. Names that end in ``+probe`` repeat the incumbent once within
the search, as a study does that finds out whether its objective is noisy. Equal trial numbers of a seed have equal
noise, so strategies are paired; intervals are 95 % over the means of instances, or over studies where so said.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import multiprocessing
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks import noisy_instances as instances
from benchmarks.contenders import Contender, Contenders, PeerEnded
from benchmarks import standings
from benchmarks.measure import table as markdown

from hpo_core.space.configuration import identity

Config = Mapping[str, Any]
Observed = Sequence[tuple[Config, float | None]]
"""The trials of a study in order: configurations and losses, None for failed ones."""

CHECKPOINTS = (10, 20, 30, 50)
PROBE = 11
"""The number of the trial that is a repeat of the incumbent, in studies that measure their noise."""

SHARE, TOP = 0.2, 4
"""The share of a budget that goes to repeats, and how many configurations enter them."""


def study(contender: Contender, instance: instances.Noisy, seed: int, trials: int, probe: bool) -> list[dict[str, Any]]:
    """Runs one study: configuration, loss and true regret of each trial."""
    done: list[tuple[Config, float | None]] = []
    while len(done) < trials:
        if probe and len(done) == PROBE:
            config = min(done, key=lambda trial: math.inf if trial[1] is None else trial[1])[0]
            done.append((config, instance.loss(config, 10_000 * seed + len(done))))
            contender.history([done[-1]])
            continue
        asked = [instance.space.validated(config) for config in contender.ask(1)]
        if not asked:
            break
        done.append((asked[0], instance.loss(asked[0], 10_000 * seed + len(done))))
        contender.tell([done[-1][1]])
    return [
        {"config": config, "loss": loss, "regret": round(min(instance.true_regret(config), 1e6), 6)}
        for config, loss in done
    ]


def next_repeat(history: Observed, searched: int) -> Config:
    """The configuration to train once more after ``searched`` trials of search: sequential halving over the best four.

    All four are repeated once, then the better two by the mean of all their losses take turns.
    """
    means, _, configs = observations(history[:searched])
    finalists = sorted(means, key=lambda key: means[key])[:TOP]
    means, counts, _ = observations(history)
    if len(history) - searched >= len(finalists):
        finalists = sorted(finalists, key=lambda key: means[key])[: max(len(finalists) // 2, 1)]
    return configs[min(finalists, key=lambda key: (counts[key], means[key]))]


def observations(history: Observed) -> tuple[dict[str, float], dict[str, int], dict[str, Config]]:
    """The mean and the number of losses of each configuration that has one, and the configurations, by identity."""
    losses: dict[str, list[float]] = defaultdict(list)
    configs: dict[str, Config] = {}
    for config, loss in history:
        if loss is not None:
            losses[identity(config)].append(loss)
            configs[identity(config)] = config
    return {k: math.fsum(v) / len(v) for k, v in losses.items()}, {k: len(v) for k, v in losses.items()}, configs


def confirmed(instance: instances.Noisy, seed: int, trials: Sequence[Mapping[str, Any]], budget: int) -> float:
    """The true regret of what is returned if the last part of a budget repeats what the trials before it found.

    Of configurations that were repeated the lowest mean wins.
    """
    searched = budget - round(SHARE * budget)
    history: list[tuple[Config, float | None]] = [(t["config"], t["loss"]) for t in trials[:searched]]
    if not observations(history)[0]:
        return 1e6
    while len(history) < budget:
        config = next_repeat(history, searched)
        history.append((config, instance.loss(config, 10_000 * seed + len(history))))
    means, counts, configs = observations(history)
    winner = min((key for key in means if counts[key] > 1), key=lambda key: means[key])
    return min(instance.true_regret(configs[winner]), 1e6)


def _studies(labels: Sequence[str], names: Sequence[str], trials: int, python: str | None, seed: int) -> list[Any]:
    """One seed's lines; a function of its arguments, so that processes can share the seeds."""
    lines = []
    with Contenders(python) as contenders:
        for label, name in itertools.product(labels, names):
            instance = instances.load(name)
            try:
                contender = contenders.open(label.removesuffix("+probe"), instance.space, seed, trials)
                found = study(contender, instance, seed, trials, label.endswith("+probe"))
            except PeerEnded as error:
                print(f"{label} on {name}, seed {seed}: {error}", file=sys.stderr)
                contenders.forget(label)
                continue
            line = {"strategy": label, "instance": name, "seed": seed, "seconds": round(contender.seconds(), 3)}
            lines.append(line | {"trials": found})
    return lines


def run(args: argparse.Namespace) -> None:
    """Run the studies that the file lacks"""
    done = {(line["strategy"], line["seed"], line["instance"]) for line in standings.read([args.out])}
    names = args.instances or instances.names(args.group)
    work = [
        ([label], missing, args.trials, args.python, seed)
        for label, seed in itertools.product(args.names, range(args.first_seed, args.first_seed + args.seeds))
        if (missing := [name for name in names if (label, seed, name) not in done])
    ]
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool, args.out.open("a") as out:
        for lines in pool.imap_unordered(_unpacked, work):
            out.write("".join(json.dumps(line) + "\n" for line in lines))
            out.flush()


def _unpacked(work: tuple[Any, ...]) -> list[Any]:
    return _studies(*work)


Studies = dict[tuple[str, int], Any]
"""By instance and seed, true regret by checkpoint, shape ``(checkpoints,)``."""


def _returned(line: Mapping[str, Any], at: int) -> float:
    trials = [t for t in line["trials"][:at] if t["loss"] is not None]
    return float(min(trials, key=lambda t: t["loss"])["regret"]) if trials else 1e6


def _tried(line: Mapping[str, Any], at: int) -> float:
    return float(min(t["regret"] for t in line["trials"][:at]))


def _confirmed(line: Mapping[str, Any], at: int) -> float:
    return confirmed(instances.load(line["instance"]), line["seed"], line["trials"], at)


KINDS = {"returned": _returned, "best tried": _tried, "confirmed": _confirmed}


def _regrets(lines: Sequence[Mapping[str, Any]], kind: str, checkpoints: Sequence[int]) -> dict[str, Studies]:
    found: dict[str, Studies] = defaultdict(dict)
    for line in lines:
        values = [KINDS[kind](line, at) for at in checkpoints]
        # A study whose trials all failed returns nothing; it counts as ten times what random trials lead to.
        found[line["strategy"]][line["instance"], line["seed"]] = np.minimum(values, 10.0)
    return found


def _interval(values: Any) -> list[str]:
    mean, half = standings.interval(values)
    return [f"{m:.3f} ±{h:.3f}" for m, h in zip(mean, half, strict=True)]


def table(args: argparse.Namespace) -> None:
    """Mean true regret by strategy, of what is returned, confirmed and tried, on the studies that all share"""
    lines = [line for path in args.results for line in standings.read([path])]
    labels = args.strategies or list(dict.fromkeys(line["strategy"] for line in lines))
    rows = []
    for kind in args.kinds:
        regrets = _regrets([line for line in lines if line["strategy"] in labels], kind, args.at)
        shared = sorted(set.intersection(*(set(regrets[label]) for label in labels)))
        for label in labels:
            mean, half = standings.interval(standings.over_instances(regrets[label], shared))
            rows.append([kind, label, *(f"{m:.3f} ±{h:.3f}" for m, h in zip(mean, half, strict=True))])
    print(f"\n{standings.coverage_of(shared)}\n")
    print(markdown(["true regret of", "strategy", *map(str, args.at)], rows))


def versus(args: argparse.Namespace) -> None:
    """One strategy less each other, paired: means over studies and their intervals"""
    lines = [line for path in args.results for line in standings.read([path])]
    rows = []
    for kind in args.kinds:
        regrets = _regrets(lines, kind, args.at)
        ours = regrets.pop(args.ours)
        for label, theirs in regrets.items():
            keys = sorted(set(ours) & set(theirs))
            mean, half = standings.interval(np.array([ours[key] - theirs[key] for key in keys]))
            rows.append([kind, label, len(keys), *(f"{m:+.3f} ±{h:.3f}" for m, h in zip(mean, half, strict=True))])
    print(markdown([f"{args.ours} less", "strategy", "studies", *map(str, args.at)], rows))


def command_line() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help=run.__doc__)
    runs.set_defaults(action=run)
    runs.add_argument("names", nargs="+", help="strategies, or peer:NAME; each may end in +probe")
    runs.add_argument("--out", type=Path, default=Path("noise.jsonl"))
    runs.add_argument("--group", choices=("tables", "small"), default="tables")
    runs.add_argument("--instances", nargs="*", help="instead of a group")
    runs.add_argument("--seeds", type=int, default=10)
    runs.add_argument("--first-seed", type=int, default=0)
    runs.add_argument("--trials", type=int, default=50)
    runs.add_argument("--processes", type=int, default=2)
    runs.add_argument("--python", help="the interpreter that has the peers, if not that of `make peers`")
    for action in (table, versus):
        shows = commands.add_parser(action.__name__, help=action.__doc__)
        shows.set_defaults(action=action)
        if action is versus:
            shows.add_argument("ours", help="the strategy to compare the others with")
        shows.add_argument("results", type=Path, nargs="+")
        shows.add_argument("--at", nargs="+", type=int, default=list(CHECKPOINTS), help="after so many trials")
        shows.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
        shows.add_argument("--strategies", nargs="*", help="these alone, in this order")
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    command_line()
