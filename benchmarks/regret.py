"""How fast strategies and peers find good configurations: normalised regret by trial.

    python -m benchmarks.regret run bayesian tpe random peer:optuna_tpe --half develop --seeds 5 --out results.jsonl
    python -m benchmarks.regret coverage results.jsonl
    python -m benchmarks.regret table results.jsonl
    python -m benchmarks.regret versus bayesian results.jsonl
    python -m benchmarks.regret plot results.jsonl --png regret.png

``run`` appends one JSON line a study and passes over studies that the file has, so it may be interrupted. Settings
follow a strategy's name (``bayesian:start=8,transform=log``). Regret is 0 at the best loss known and 1 at what ten
random trials reach on average. With ``--batch 8`` eight proposals are asked for, and none is answered before all.
``table`` and ``plot`` look at the studies that all named strategies share, ``versus`` at those that each pair shares.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import instances, standings
from benchmarks.contenders import Contender, Contenders, PeerEnded


def study(
    contenders: Contenders, name: str, instance: instances.Instance, seed: int, trials: int, batch: int
) -> dict[str, Any]:
    """Runs one study: the regret of the incumbent after each trial, as a line of the results."""
    contender = contenders.open(name, instance.space, seed, trials)
    begin, spent = time.perf_counter(), contender.seconds()
    losses, configs = _trials(contender, instance, seed, trials, batch)
    wall, spent = time.perf_counter() - begin, contender.seconds() - spent
    regret: list[float] = []
    for number, loss in enumerate(losses):
        if number and loss >= min(losses[:number]):
            regret.append(regret[-1])
        else:
            expected = instance.expected(configs[number]) if instance.expected else loss
            regret.append(round(instance.regret(expected), 6))
    regret += regret[-1:] * (trials - len(regret))
    return {
        "strategy": name,
        "instance": instance.name,
        "seed": seed,
        "batch": batch,
        "trials": trials,
        "seconds": round(spent, 3),
        "wall": round(wall, 3),
        "regret": regret,
    }


def _trials(
    contender: Contender, instance: instances.Instance, seed: int, trials: int, batch: int
) -> tuple[list[float], list[Mapping[str, Any]]]:
    losses: list[float] = []
    configs: list[Mapping[str, Any]] = []
    while len(losses) < trials:
        asked = [instance.space.validated(config) for config in contender.ask(min(batch, trials - len(losses)))]
        if not asked:
            break
        # Equal noise for equal trials of a seed, so that strategies are paired in it, too.
        news = [instance.loss(config, 10_000 * seed + len(losses) + i) for i, config in enumerate(asked)]
        contender.tell(news)
        losses += news
        configs += asked
    return losses, configs


def _key(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return line["strategy"], line["instance"], line["seed"], line["batch"], line["trials"]


def run(args: argparse.Namespace) -> None:
    done = {_key(line) for line in standings.read([args.out])}
    wanted = args.instances or instances.names(args.half, args.group)
    with Contenders(args.python) as contenders:
        for seed, name, label in itertools.product(
            range(args.first_seed, args.first_seed + args.seeds), wanted, args.names
        ):
            if (label, name, seed, args.batch, args.trials) in done:
                continue
            try:
                line = study(contenders, label, instances.load(name), seed, args.trials, args.batch)
            except PeerEnded as error:
                print(f"{label} on {name}, seed {seed}: {error}", file=sys.stderr)
                contenders.forget(label)
                continue
            with args.out.open("a") as out:
                out.write(json.dumps(line) + "\n")


def command_line() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    runs = commands.add_parser("run", help="run studies")
    runs.set_defaults(action=run)
    runs.add_argument("names", nargs="+", help="strategies, or peer:NAME")
    runs.add_argument("--out", type=Path, default=Path("regret.jsonl"))
    runs.add_argument("--instances", nargs="*", help="instead of a group")
    runs.add_argument("--seeds", type=int, default=5)
    runs.add_argument("--first-seed", type=int, default=0)
    runs.add_argument("--trials", type=int, default=100)
    runs.add_argument("--python", help="the interpreter that has the peers, if not that of `make peers`")

    for command in ("coverage", "table", "versus", "plot"):
        action = getattr(standings, command)
        shows = commands.add_parser(command, help=action.__doc__)
        shows.set_defaults(action=action)
        if command == "versus":
            shows.add_argument("ours", help="the strategy to compare the others with")
        shows.add_argument("results", type=Path, nargs="+")
        shows.add_argument(
            "--at", nargs="+", type=int, default=list(standings.CHECKPOINTS), help="after so many trials"
        )
        shows.add_argument("--strategies", nargs="*", help="these alone, in this order")
        if command == "table":
            shows.add_argument("--families", action="store_true", help="a table for each family, too")
        if command == "plot":
            shows.add_argument("--png", type=Path, default=Path("regret.png"))

    for sub in commands.choices.values():
        sub.add_argument("--group", choices=instances.GROUPS, default="suite")
        sub.add_argument("--half", choices=instances.HALVES, default="all")
        sub.add_argument("--batch", type=int, default=1)
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    command_line()
