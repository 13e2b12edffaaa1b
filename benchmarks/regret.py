"""How fast strategies and peers find good configurations: normalised regret by trial.

    python -m benchmarks.regret run bayesian tpe random --half develop --seeds 5 --out results.jsonl
    python -m benchmarks.regret run peer:optuna_tpe --python ../peers/bin/python --out results.jsonl
    python -m benchmarks.regret table --out results.jsonl

``run`` appends one JSON line a study and passes over studies that the file has, so it may be interrupted. Settings
follow a strategy's name (``bayesian:start=8,transform=log``). Regret is 0 at the best loss known and 1 at what ten
random trials reach on average. With ``--batch 8`` eight proposals are asked for, and none is answered before all.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import instances
from hpo_core.history import History
from hpo_core.strategies import Strategy, make_strategy
from hpo_core.trial import Trial, TrialState

CHECKPOINTS = (20, 50, 100)
PEER = Path(__file__).parent / "peers" / "ask.py"

Ask = Callable[[int], list[Mapping[str, Any]]]
Tell = Callable[[list[float]], None]


def make(name: str) -> Strategy:
    """One of our strategies; ``name`` may carry settings."""
    label, _, text = name.partition(":")
    settings = {key: _value(value) for key, value in (pair.split("=") for pair in text.split(",") if pair)}
    return make_strategy(label, settings)


def ours(name: str, instance: instances.Instance, seed: int) -> tuple[Ask, Tell]:
    """One of our strategies as ask and tell."""
    strategy = make(name)
    done: list[Trial] = []
    asked: list[Mapping[str, Any]] = []

    def ask(n: int) -> list[Mapping[str, Any]]:
        asked[:] = [p.config for p in strategy.propose(instance.space, History(done), n, seed=seed)]
        return list(asked)

    def tell(losses: list[float]) -> None:
        for config, loss in zip(asked, losses, strict=True):
            done.append(Trial(len(done), config, TrialState.COMPLETE, loss))

    return ask, tell


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


@contextmanager
def theirs(name: str, instance: instances.Instance, seed: int, python: str) -> Iterator[tuple[Ask, Tell]]:
    """A peer in a process of its own, with its own interpreter; it ends with the context."""
    process = subprocess.Popen([python, str(PEER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None

    def send(message: Mapping[str, Any]) -> Any:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{name} ended with {process.wait()}")
        return json.loads(answer)

    send({"peer": name, "space": json.loads(instance.space.to_json()), "seed": seed})

    def ask(n: int) -> list[Mapping[str, Any]]:
        configs: list[Mapping[str, Any]] = send({"ask": n})
        return configs

    def tell(losses: list[float]) -> None:
        send({"tell": losses})

    with process:  # closes the pipe, which ends the peer, and waits for it
        yield ask, tell


def study(name: str, instance: instances.Instance, seed: int, trials: int, batch: int, python: str) -> dict[str, Any]:
    """Runs one study; the regret of the best trial so far after each trial."""
    opened = (
        theirs(name.removeprefix("peer:"), instance, seed, python)
        if name.startswith("peer:")
        else nullcontext(ours(name, instance, seed))
    )
    losses: list[float] = []
    seconds = 0.0
    with opened as (ask, tell):
        while len(losses) < trials:
            begin = time.perf_counter()
            configs = ask(min(batch, trials - len(losses)))
            seconds += time.perf_counter() - begin
            if not configs:
                break
            news = [instance.loss(instance.space.validated(config)) for config in configs]
            tell(news)
            losses += news
    regret = [round(instance.regret(best), 6) for best in itertools.accumulate(losses, min)]
    regret += regret[-1:] * (trials - len(regret))
    return {
        "strategy": name,
        "instance": instance.name,
        "seed": seed,
        "batch": batch,
        "trials": trials,
        "seconds": round(seconds, 3),
        "regret": regret,
    }


def _key(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return line["strategy"], line["instance"], line["seed"], line["batch"], line["trials"]


def read(path: Path) -> list[dict[str, Any]]:
    """The studies of a file; a last line that an interruption cut short is passed over."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def run(args: argparse.Namespace) -> None:
    done = {_key(line) for line in read(args.out)}
    wanted = args.instances or instances.names(args.half)
    for seed, name, label in itertools.product(
        range(args.first_seed, args.first_seed + args.seeds), wanted, args.names
    ):
        if (label, name, seed, args.batch, args.trials) in done:
            continue
        line = study(label, instances.load(name), seed, args.trials, args.batch, args.python)
        with args.out.open("a") as out:
            out.write(json.dumps(line) + "\n")


def _families(names: list[str]) -> Iterator[tuple[str, list[str]]]:
    grouped: dict[str, list[str]] = defaultdict(list)
    for name in names:
        grouped[name.split("/")[0]].append(name)
    yield from grouped.items()
    yield "all", names


def table(args: argparse.Namespace) -> None:
    """Mean regret with a 95 % interval over instances and seeds, and mean rank, of the studies that all share."""
    lines = [line for line in read(args.out) if line["batch"] == args.batch]
    labels = args.names or list(dict.fromkeys(line["strategy"] for line in lines))
    by: dict[tuple[str, int], dict[str, dict[str, Any]]] = defaultdict(dict)
    wanted = set(instances.names(args.half))
    for line in lines:
        if line["strategy"] in labels and line["instance"] in wanted:
            by[line["instance"], line["seed"]][line["strategy"]] = line
    shared = {key: found for key, found in by.items() if len(found) == len(labels)}
    if not shared:
        raise SystemExit(f"no study in {args.out} was run for all of {', '.join(labels)}")
    for family, members in _families(sorted({name for name, _ in shared})):
        keys = [key for key in shared if key[0] in members]
        print(f"\n{family}: {len(members)} instances, {len(keys)} studies each, batches of {args.batch}")
        print(f"| {'strategy':40} |" + "".join(f" regret {at:>3}        |" for at in args.at) + " ranks | ms |")
        print("|---|" + "---|" * (len(args.at) + 2))
        regret = np.array([[[shared[k][s]["regret"][at - 1] for at in args.at] for k in keys] for s in labels])
        below = (regret[None] < regret[:, None]).sum(axis=1)
        ranks = 1 + below + ((regret[None] == regret[:, None]).sum(axis=1) - 1) / 2
        for i, label in enumerate(labels):
            cells = "".join(f" {mean:.3f} ±{half:.3f}   |" for mean, half in map(_interval, regret[i].T))
            rank = " ".join(f"{value:.2f}" for value in ranks[i].mean(axis=0))
            cost = np.mean([1e3 * shared[k][label]["seconds"] / shared[k][label]["trials"] for k in keys])
            print(f"| {label:40} |{cells} {rank} | {cost:.0f} |")


def _interval(values: Any) -> tuple[float, float]:
    return float(np.mean(values)), 1.96 * float(np.std(values)) / math.sqrt(len(values))


def command_line() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for command, action in (("run", run), ("table", table)):
        sub = commands.add_parser(command)
        sub.set_defaults(action=action)
        sub.add_argument("names", nargs="*" if command == "table" else "+", help="strategies, or peer:NAME")
        sub.add_argument("--out", type=Path, default=Path("regret.jsonl"))
        sub.add_argument("--half", choices=instances.HALVES, default="all")
        sub.add_argument("--batch", type=int, default=1)
        if command == "table":
            sub.add_argument("--at", nargs="+", type=int, default=list(CHECKPOINTS), help="after so many trials")
        if command == "run":
            sub.add_argument("--instances", nargs="*", help="instead of a half of the suite")
            sub.add_argument("--seeds", type=int, default=5)
            sub.add_argument("--first-seed", type=int, default=0)
            sub.add_argument("--trials", type=int, default=100)
            sub.add_argument("--python", default=sys.executable, help="the interpreter that has the peer")
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    command_line()
