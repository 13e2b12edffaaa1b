"""What the results of ``regret.py`` say: tables and a plot.

Means are over instances, of the mean over an instance's seeds; intervals are Student's at 95 % over the instances,
which is what speaks for data that nobody has. Ranks are over studies. Everything compares studies of the same
instance, seed and batch alone.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks import instances
from benchmarks.measure import table as markdown

CHECKPOINTS = (20, 50, 100)

Key = tuple[str, int]
"""An instance and a seed."""
Regret = dict[str, dict[Key, Any]]
"""By strategy and study, the regret after each trial, shape ``(trials,)``."""


def read(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The studies of some files; a last line that an interruption cut short is passed over."""
    lines = [line for path in paths if path.exists() for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines if line.endswith("}")]


def _selected(args: argparse.Namespace) -> tuple[Regret, dict[str, float]]:
    """The regret of the strategies, group and batch that were asked for; by strategy, milliseconds a proposal."""
    wanted = set(instances.names(args.half, args.group))
    lines = [line for line in read(args.results) if line["batch"] == args.batch and line["instance"] in wanted]
    labels = args.strategies or list(dict.fromkeys(line["strategy"] for line in lines))
    regret: Regret = {label: {} for label in labels}
    spent: dict[str, list[float]] = {label: [] for label in labels}
    for line in lines:
        if line["strategy"] in regret and line["trials"] >= args.at[-1]:
            regret[line["strategy"]][line["instance"], line["seed"]] = np.array(line["regret"][: args.at[-1]])
            spent[line["strategy"]].append(1e3 * line["seconds"] / line["trials"])
    if not any(regret.values()):
        raise SystemExit(f"no study of {args.group} in batches of {args.batch} in {', '.join(map(str, args.results))}")
    return _from_best(regret), {label: float(np.mean(times)) for label, times in spent.items() if times}


def _from_best(regret: Regret) -> Regret:
    """Regret that is never negative.

    The best known loss of a live training is what a few hundred trials found, so where a study found better, all are
    measured from that. A new best of a recorded one counts as the best, as its definition has it.
    """
    lowest: dict[str, float] = defaultdict(float)
    for studies in regret.values():
        for (name, _), values in studies.items():
            if name.startswith("live/"):
                lowest[name] = min(lowest[name], float(values.min()))
    return {
        label: {
            key: np.maximum(values - lowest[key[0]], 0.0) / (1.0 - lowest[key[0]]) for key, values in studies.items()
        }
        for label, studies in regret.items()
    }


def _shared(regret: Regret) -> list[Key]:
    found = set.intersection(*(set(studies) for studies in regret.values()))
    if not found:
        raise SystemExit(f"no study was run for all of {', '.join(regret)}; name fewer with --strategies")
    return sorted(found)


def over_instances(studies: dict[Key, Any], keys: Sequence[Key]) -> Any:
    """The mean over seeds for each instance, shape ``(instances, trials)``."""
    by: dict[str, list[Any]] = defaultdict(list)
    for key in keys:
        by[key[0]].append(studies[key])
    return np.array([np.mean(values, axis=0) for values in by.values()])


def interval(values: Any) -> tuple[Any, Any]:
    """The mean of the first axis, and half the width of its interval; infinite for one value."""
    n = len(values)
    if n < 2:
        return values[0], np.full(values.shape[1:], np.inf)
    return values.mean(axis=0), stats.t.ppf(0.975, n - 1) * values.std(axis=0, ddof=1) / np.sqrt(n)


def _at(values: Any, checkpoints: Sequence[int]) -> Any:
    return values[..., [at - 1 for at in checkpoints]]


def coverage_of(keys: Sequence[Key]) -> str:
    names = {name for name, _ in keys}
    seeds = sorted({seed for _, seed in keys})
    return f"{len(keys)} studies: {len(names)} instances, seeds {', '.join(map(str, seeds))}"


def _families(keys: Sequence[Key]) -> Iterator[tuple[str, list[Key]]]:
    grouped: dict[str, list[Key]] = defaultdict(list)
    for key in keys:
        grouped[key[0].split("/")[0]].append(key)
    yield from grouped.items()


def coverage(args: argparse.Namespace) -> None:
    """What was measured: instances of each half and seeds, by strategy and batch"""
    halves = {
        name: half
        for group in ("suite", "live")
        for half in ("develop", "confirm")
        for name in instances.names(half, group)
    }
    found: dict[tuple[str, str, int], list[Key]] = defaultdict(list)
    for line in read(args.results):
        group = "live" if line["instance"].startswith("live/") else "suite"
        found[group, line["strategy"], line["batch"]].append((line["instance"], line["seed"]))
    rows = []
    for (group, strategy, batch), keys in sorted(found.items(), key=lambda item: (item[0][0] == "live", *item[0][1:])):
        names = {name for name, _ in keys}
        develop = sum(halves[name] == "develop" for name in names)
        by_seed = " ".join(f"{seed}:{sum(s == seed for _, s in keys)}" for seed in sorted({seed for _, seed in keys}))
        rows.append([group, strategy, batch, len(keys), f"{develop} + {len(names) - develop}", by_seed])
    print(markdown(["group", "strategy", "batch", "studies", "develop + confirm", "instances by seed"], rows))


def table(args: argparse.Namespace) -> None:
    """Mean regret and mean rank on the studies that all share"""
    regret, spent = _selected(args)
    shared = _shared(regret)
    for family, keys in [*(_families(shared) if args.families else ()), (args.group, shared)]:
        values = np.array([[_at(studies[key], args.at) for key in keys] for studies in regret.values()])
        ranks = stats.rankdata(values, axis=0).mean(axis=1)
        rows = []
        for label, rank in zip(regret, ranks, strict=True):
            mean, half = interval(_at(over_instances(regret[label], keys), args.at))
            cells = [f"{m:.3f} ±{h:.3f}" for m, h in zip(mean, half, strict=True)]
            rows.append([label, *cells, " ".join(f"{r:.2f}" for r in rank), f"{spent[label]:.0f}"])
        print(f"\n{family}, batches of {args.batch}, {coverage_of(keys)}\n")
        print(markdown(["strategy", *(f"regret {at}" for at in args.at), "ranks", "ms"], rows))


def versus(args: argparse.Namespace) -> None:
    """One strategy beside each other, on the studies that the two share"""
    regret, _ = _selected(args)
    ours = regret.pop(args.ours, {})
    rows = []
    for label, theirs in regret.items():
        keys = sorted(set(ours) & set(theirs))
        if not keys:
            continue
        mine, other = (_at(over_instances(studies, keys), args.at) for studies in (ours, theirs))
        mean, half = interval(mine - other)
        for i, at in enumerate(args.at):
            a, b = float(mine[:, i].mean()), float(other[:, i].mean())
            ratio = f"{a / b:.2f}" if b else None
            difference = f"{mean[i]:+.3f} ±{half[i]:.3f}"
            rows.append(
                [label if i == 0 else "", len(keys) if i == 0 else "", at, f"{a:.3f}", f"{b:.3f}", difference, ratio]
            )
    print(f"\n{args.group}, batches of {args.batch}\n")
    print(markdown(["peer", "studies", "trial", args.ours, "peer's", "difference", "ratio"], rows))


def plot(args: argparse.Namespace) -> None:
    """A picture of mean regret by trial with its intervals, on the studies that all share"""
    from matplotlib.figure import Figure

    regret, _ = _selected(args)
    keys = _shared(regret)
    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    floor = 1.0
    for label, studies in regret.items():
        mean, half = interval(over_instances(studies, keys))
        trials = np.arange(1, len(mean) + 1)
        is_peer = label.startswith("peer:") or label == "random"
        (line,) = axes.plot(trials, mean, "--" if is_peer else "-", lw=1.3 if is_peer else 2.2, label=label)
        # On a log scale an interval that reaches 0 has no lower end to draw.
        low = np.maximum(mean - half, mean / 10)
        axes.fill_between(trials, low, mean + half, color=line.get_color(), alpha=0.1, lw=0)
        floor = min(floor, mean[-1])
    axes.set(
        yscale="log",
        xlim=(min(5, len(mean) - 1), len(mean)),
        ylim=(max(floor / 2, 1e-3), 2),
        xlabel="trial",
        ylabel="mean normalised regret",
    )
    axes.set_title(f"{args.group}, batches of {args.batch}, {coverage_of(keys)}", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    args.png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.png)
    print(args.png)
