"""What a study's answer is worth where losses are noisy: the true regret of the configuration that it returns.

    python -m benchmarks.noise run bayesian bayesian+repeats random peer:optuna_gp peer:optuna_tpe_multivariate
    python -m benchmarks.noise table noise.jsonl
    python -m benchmarks.noise versus bayesian noise.jsonl
    python -m benchmarks.noise plot noise.jsonl --out noise.png
    python -m benchmarks.noise run bayesian random --group small --trials 30 --out small.jsonl
    python -m benchmarks.noise table small.jsonl --kinds returned --by-instance --at 10 20 30

``run`` appends one JSON line a study, in two processes, and passes over studies that the file has. True regret is 0 at
the best known configuration and 1 where ten random trials lead. *Returned* is the trial of lowest observed loss; *best
tried* is what an oracle would return. *Confirmed* is what a study with ``repeats: auto`` returns, and only strategies
whose name ends in ``+repeats`` have it: they repeat the best of the first trials to learn the noise, and the last part
of each budget confirms what the first trials of the same study found. Equal trial numbers of a seed have equal noise,
so strategies are paired.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import noisy_instances as instances
from benchmarks import standings
from benchmarks.contenders import Contender, Contenders, Ours, PeerEnded
from benchmarks.measure import table as markdown
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.selection.repeats import Repeats
from hpo_core.strategies.make import expected

Line = Mapping[str, Any]
"""A study of the results: strategy, instance, seed, processor seconds and trials."""

CHECKPOINTS = (10, 20, 30, 50)
REPEATS = "+repeats"
WORST = 10.0
"""What a study counts whose trials have all failed, and at most what any configuration counts."""


def study(contender: Contender, instance: instances.Noisy, seed: int, trials: int, repeats: bool) -> list[Line]:
    """Runs one study: configuration, loss, true regret and notes of each trial."""
    history = History()
    while len(history) < trials:
        probe = Repeats().probe(history, None, trials) if repeats else None
        if probe is not None:
            trial = _trained(instance, seed, history, probe.config, probe.notes)
            assert isinstance(contender, Ours)  # peers do not repeat
            contender.done.append(trial)
        else:
            asked = [instance.space.validated(config) for config in contender.ask(1)]
            if not asked:
                break
            trial = _trained(instance, seed, history, asked[0], {})
            contender.tell([trial.loss])
        history = history.with_trials([trial])
    return [
        {"config": t.config, "loss": t.loss, "regret": _true_regret(instance, t), "notes": dict(t.notes)}
        for t in history
    ]


def _trained(
    instance: instances.Noisy, seed: int, history: History, config: Mapping[str, Any], notes: Mapping[str, Any]
) -> Trial:
    number = history.next_number
    loss = instance.loss(config, 10_000 * seed + number)
    return Trial(number, config, TrialState.FAILED if loss is None else TrialState.COMPLETE, loss, notes=notes)


def _true_regret(instance: instances.Noisy, trial: Trial) -> float:
    return round(min(instance.true_regret(trial.config), WORST), 6)


def _studies(labels: Sequence[str], names: Sequence[str], trials: int, python: str | None, seed: int) -> list[Any]:
    """One seed's lines; a function of its arguments, so that processes can share the seeds."""
    lines = []
    with Contenders(python) as contenders:
        for label, name in itertools.product(labels, names):
            instance = instances.load(name)
            try:
                contender = contenders.open(label.removesuffix(REPEATS), instance.space, seed, trials)
                found = study(contender, instance, seed, trials, label.endswith(REPEATS))
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


def _history(line: Line, at: int) -> History:
    """The first trials of a study."""
    return History(
        Trial(
            n, t["config"], TrialState.FAILED if t["loss"] is None else TrialState.COMPLETE, t["loss"], notes=t["notes"]
        )
        for n, t in enumerate(line["trials"][:at])
    )


def _returned(line: Line, at: int) -> float:
    best = _history(line, at).luckiest
    return WORST if best is None else float(line["trials"][best.number]["regret"])


def _tried(line: Line, at: int) -> float:
    return float(min(t["regret"] for t in line["trials"][:at]))


def _confirmed(line: Line, at: int) -> float:
    """What a study of ``at`` trials returns whose last trials confirm; NaN if none of so short a study do."""
    repeats, instance = Repeats(), instances.load(line["instance"])
    if not line["strategy"].endswith(REPEATS) or not repeats.confirmations(at):
        return math.nan
    history = _history(line, at - repeats.left(_history(line, at), None, at))
    expect = partial(expected, instance.space, seed=line["seed"])
    while len(history) < at and (again := repeats.confirm(history, None, at - len(history), expect)) is not None:
        history = history.with_trials([_trained(instance, line["seed"], history, again.config, again.notes)])
    return WORST if history.incumbent is None else _true_regret(instance, history.incumbent)


KINDS = {"returned": _returned, "best tried": _tried, "confirmed": _confirmed}


def _regrets(lines: Sequence[Line], kind: str, checkpoints: Sequence[int]) -> standings.Regret:
    """True regret by strategy and study, shape ``(checkpoints,)``."""
    found: standings.Regret = defaultdict(dict)
    for line in lines:
        found[line["strategy"]][line["instance"], line["seed"]] = np.array(
            [KINDS[kind](line, at) for at in checkpoints]
        )
    return found


def _cells(values: Any, sign: str = "") -> list[str | None]:
    mean, half = standings.interval(values)
    return [None if math.isnan(m) else f"{m:{sign}.3f} ±{h:.3f}" for m, h in zip(mean, half, strict=True)]


def _read(args: argparse.Namespace) -> list[Line]:
    lines = standings.read(args.results)
    return [line for line in lines if not args.strategies or line["strategy"] in args.strategies]


def table(args: argparse.Namespace) -> None:
    """Mean true regret of what is returned, tried and confirmed, on the studies that all share; over instances"""
    lines, rows = _read(args), []
    for kind in args.kinds:
        regrets = _regrets(lines, kind, args.at)
        shared = sorted(set.intersection(*(set(studies) for studies in regrets.values())))
        for label, studies in regrets.items():
            if args.by_instance:
                for name in dict.fromkeys(name for name, _ in shared):
                    values = np.array([studies[key] for key in shared if key[0] == name])
                    rows.append([kind, f"{label}, {name}", *_cells(values)])
            rows.append([kind, label, *_cells(standings.over_instances(studies, shared))])
    print(f"\n{standings.coverage_of(shared)}\n")
    print(markdown(["true regret", "strategy", *map(str, args.at)], rows))


def versus(args: argparse.Namespace) -> None:
    """One strategy less each other, by what each returns and the best that it tried; intervals over paired studies"""
    lines, rows = _read(args), []
    for kind in args.kinds:
        regrets = _regrets(lines, kind, args.at)
        ours = regrets.pop(args.ours)
        for label, theirs in regrets.items():
            keys = sorted(set(ours) & set(theirs))
            rows.append([kind, label, len(keys), *_cells(np.array([ours[key] - theirs[key] for key in keys]), "+")])
    print(markdown([f"{args.ours} less", "strategy", "studies", *map(str, args.at)], rows))


def plot(args: argparse.Namespace) -> None:
    """Draw the true regret of what is returned over that of the best trial, for each strategy"""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    lines, at = _read(args), range(10, 51, 5)
    labels = list(dict.fromkeys(line["strategy"] for line in lines))
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for label, colour in zip(labels, pyplot.rcParams["axes.prop_cycle"].by_key()["color"], strict=False):
        own = [line for line in lines if line["strategy"] == label]
        answer = "confirmed" if label.endswith(REPEATS) else "returned"
        for side, kind in zip(axes, (answer, "best tried"), strict=True):
            means = [float(np.mean([KINDS[kind](line, n) for line in own])) for n in at]
            name = label.removeprefix("peer:") + (f" ({len(own)} studies)" if side is axes[0] else "")
            side.plot(at, means, color=colour, label=name, linewidth=2.5 if label.endswith(REPEATS) else 1.5)
    for side, title in zip(
        axes, ("of the configuration that is named the best", "of the best that was tried"), strict=True
    ):
        side.set(title=title, xlabel="trials")
        side.grid(alpha=0.3)
    axes[0].set_ylabel("true regret")
    axes[0].legend(frameon=False)
    figure.savefig(args.out, dpi=110)


def command_line() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help=run.__doc__)
    runs.set_defaults(action=run)
    runs.add_argument("names", nargs="+", help="strategies, or peer:NAME; ours may end in +repeats")
    runs.add_argument("--out", type=Path, default=Path("noise.jsonl"))
    runs.add_argument("--group", choices=("tables", "live", "small"), default="tables")
    runs.add_argument("--instances", nargs="*", help="instead of a group")
    runs.add_argument("--seeds", type=int, default=10)
    runs.add_argument("--first-seed", type=int, default=0)
    runs.add_argument("--trials", type=int, default=50)
    runs.add_argument("--processes", type=int, default=2)
    runs.add_argument("--python", help="the interpreter that has the peers, if not that of `make peers`")
    for action in (table, versus, plot):
        shows = commands.add_parser(action.__name__, help=action.__doc__)
        shows.set_defaults(action=action)
        if action is table:
            shows.add_argument("--by-instance", action="store_true", help="each instance, too")
        elif action is versus:
            shows.add_argument("ours", help="the strategy to compare the others with")
        shows.add_argument("results", type=Path, nargs="+")
        if action is plot:
            shows.add_argument("--out", type=Path, default=Path("noise.png"))
        else:
            shows.add_argument("--at", nargs="+", type=int, default=list(CHECKPOINTS), help="after so many trials")
            shows.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
        shows.add_argument("--strategies", nargs="*", help="these alone, in this order")
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    command_line()
