"""What ending poor trials after some of their folds saves, on live trainings that are cross-validated in each trial.

    python -m benchmarks.folds run wine_svm digits_forest --strategies random bayesian --out folds.jsonl
    python -m benchmarks.folds table folds.jsonl

Each study may train so many folds; ``run`` appends one JSON line a study and passes over those that the file has. Both
kinds of a study have the same seed, and with ``random`` the same configurations. True regret is that of the
configuration that the study returns, 0 at the best known and 1 where ten random trials lead (``benchmarks.live``).
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import live, standings
from benchmarks.contenders import make
from benchmarks.live_tasks import TASKS, Task
from benchmarks.measure import table as markdown
from hpo_core.history.history import History
from hpo_core.history.trial import Trial, TrialState
from hpo_core.selection.folds import as_whole, verdict

Line = Mapping[str, Any]
DIVISIONS = 50_000
"""The seeds of divisions count up from here, so that they are none of a trial's."""

KINDS = ("all", "early", "early, own folds")
"""All folds of every trial; trials that end early, in folds that all share; the same, in folds of each trial's own."""


def study(name: str, task: str, seed: int, kind: str, of: int, trainings: int) -> tuple[list[list[float]], int]:
    """Runs one study.

    Returns:
        After each trial, how many folds were trained so far and the true regret of what would be returned; and the
        number of trials that ended early.
    """
    strategy, history = make(name), History()
    spent, course = 0, list[list[float]]()
    reference, known = live.references()[task], dict[str, float]()
    while spent < trainings:
        asked = strategy.propose(TASKS[task].space, as_whole(history), 1, seed=seed)
        if not asked:
            break
        trial = Trial(history.next_number, asked[0].config, TrialState.RUNNING, folds_wanted=of)
        trial = _trained(TASKS[task], trial, history, 1000 * seed + trial.number, DIVISIONS + seed, kind)
        history, spent = history.with_trials([trial]), spent + len(trial.folds)
        best = history.incumbent
        assert best is not None
        if best.identity not in known:
            loss = live.expected_loss(TASKS[task], best.config)
            known[best.identity] = (loss - reference["best"]) / (reference["reference"] - reference["best"])
        course.append([spent, round(known[best.identity], 6)])
    return course, sum(not trial.whole for trial in history)


def _trained(task: Task, trial: Trial, history: History, noise: int, division: int, kind: str) -> Trial:
    """The trial, with as many folds as the rule leaves it."""
    losses = live.fold_losses(task, trial.config, noise, noise if "own" in kind else division, trial.folds_wanted)
    for loss in losses:
        trial = replace(trial, folds=(*trial.folds, loss))
        if kind != "all" and verdict(history, trial):
            break
    return replace(trial, state=TrialState.COMPLETE, loss=float(np.mean(trial.folds)))


def run(args: argparse.Namespace) -> None:
    """Run the studies that the file lacks"""
    done = {(line["strategy"], line["instance"], line["seed"], line["kind"]) for line in standings.read([args.out])}
    with args.out.open("a") as out:
        for seed, task, name, kind in itertools.product(range(args.seeds), args.tasks, args.strategies, args.kinds):
            if (name, task, seed, kind) in done:
                continue
            course, ended = study(name, task, seed, kind, args.folds, args.trainings)
            line = {"strategy": name, "instance": task, "seed": seed, "kind": kind, "ended": ended, "course": course}
            out.write(json.dumps(line) + "\n")
            out.flush()


def _regret(line: Line, trainings: float) -> float:
    """That of what is returned once so many folds are trained; 1 before the first trial has ended."""
    return next((regret for spent, regret in reversed(line["course"]) if spent <= trainings), 1.0)


def table(args: argparse.Namespace) -> None:
    """True regret by fold trainings; over instances, and less that of all folds with twice the trainings"""
    lines = standings.read(args.results)
    by_kind: dict[tuple[str, str], dict[standings.Key, Line]] = defaultdict(dict)
    for line in lines:
        by_kind[line["strategy"], line["kind"]][line["instance"], line["seed"]] = line
    most = max(line["course"][-1][0] for line in lines)
    at = [most // 8, most // 4, most // 2, most]
    rows: list[Sequence[Any]] = []
    for (name, kind), studies in by_kind.items():
        full = by_kind[name, "all"]
        keys = sorted(set(studies) & set(full))
        row: list[Any] = [name, kind, len(keys), f"{np.mean([len(studies[key]['course']) for key in keys]):.0f}"]
        row += [f"{np.mean([_regret(studies[key], count) for key in keys]):.3f}" for count in at]
        for less, share in ((1, 1.0), (2, 0.5)):
            gaps = [_regret(studies[key], most * share) - _regret(full[key], most) for key in keys]
            half = 1.96 * np.std(gaps, ddof=1) / np.sqrt(len(gaps))
            row.append("" if kind == "all" and less == 1 else f"{np.mean(gaps):+.3f} ±{half:.3f}")
        rows.append(row)
    headings = ["strategy", "folds", "studies", "trials", *(f"{count} folds" for count in at)]
    print(markdown([*headings, "less all folds", "half of them less all folds"], rows))


def command_line() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help=run.__doc__)
    runs.set_defaults(action=run)
    runs.add_argument("tasks", nargs="+", choices=TASKS, metavar="TASK")
    runs.add_argument("--strategies", nargs="+", default=["random", "bayesian"])
    runs.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS[:2]))
    runs.add_argument("--seeds", type=int, default=5)
    runs.add_argument("--folds", type=int, default=5)
    runs.add_argument("--trainings", type=int, default=200, help="how many folds a study may train")
    runs.add_argument("--out", type=Path, default=Path("folds.jsonl"))
    shows = commands.add_parser("table", help=table.__doc__)
    shows.set_defaults(action=table)
    shows.add_argument("results", type=Path, nargs="+")
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    command_line()
