"""How soon strategies find a good Pareto front of two or three objectives, beside Optuna's samplers and Ax.

    python -m benchmarks.fronts run bayesian tpe random peer:optuna_tpe peer:optuna_nsga --seeds 5 --out fronts.jsonl
    python -m benchmarks.fronts table fronts.jsonl

``run`` appends one JSON line a study, and passes over studies that the file has. ``table`` shows what is missing of the
hypervolume (``several.py``): 0 at the true front, or that of all studies in the file where it is not known, and 1 at 20
random configurations. It gives the geometric mean over problems and seeds, and problem by problem, for the studies that
all strategies share.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import several
from benchmarks.contenders import Contenders
from hpo_core.base.arrays import Array
from hpo_core.numerics.pareto import hypervolume, nondominated

AT = (20, 50, 100)

LEAST = 1e-4
"""What is missing counts as at least so much, since no logarithm of 0 is finite."""

Key = tuple[str, str, int]


def study(contenders: Contenders, name: str, problem: several.Problem, seed: int, trials: int) -> dict[str, Any]:
    """Runs one study; returns a line of the results."""
    contender = contenders.open(name, problem.space, seed, trials, problem.objectives)
    found: list[several.Losses] = []
    for _ in range(trials):
        (config,) = contender.ask(1)
        found.append(problem.losses(config))
        contender.tell([found[-1]])
    losses = [[float(f"{each:.9g}") for each in row] for row in found]
    seconds = round(contender.seconds(), 3)
    return {"strategy": name, "problem": problem.name, "seed": seed, "losses": losses, "seconds": seconds}


def run(names: list[str], problems: list[str], seeds: int, trials: int, out: Path, python: str | None) -> None:
    done = set(_read(out))
    with Contenders(python) as contenders, out.open("a") as file:
        for seed in range(seeds):
            for problem in problems:
                for name in names:
                    if (name, problem, seed) not in done:
                        line = study(contenders, name, several.load(problem), seed, trials)
                        print(json.dumps(line), file=file, flush=True)


def _read(path: Path) -> dict[Key, Array]:
    """The losses of each study, shape ``(trials, objectives)``."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {(line["strategy"], line["problem"], line["seed"]): np.array(line["losses"]) for line in lines}


def missing(studies: dict[Key, Array]) -> dict[Key, list[float]]:
    """What is missing of the hypervolume after each of ``AT`` trials, by study."""

    @functools.cache
    def largest(problem: str) -> float:
        known = several.load(problem)
        if known.largest is not None:
            return known.largest
        rows = np.vstack([known.drawn, *(losses for key, losses in studies.items() if key[1] == problem)])
        return hypervolume(rows[nondominated(rows)], known.reference)

    def share(problem: str, losses: Array) -> float:
        known = several.load(problem)
        gap = largest(problem) - hypervolume(losses, known.reference)
        return max(gap / (largest(problem) - known.usual), LEAST)

    return {key: [share(key[1], losses[:at]) for at in AT if at <= len(losses)] for key, losses in studies.items()}


def table(path: Path) -> None:
    found = missing(_read(path))
    names = list(dict.fromkeys(name for name, _, _ in found))
    pairs = sorted({key[1:] for key in found if all((name, *key[1:]) in found for name in names)})
    print(f"{len(pairs)} studies each; missing hypervolume after {', '.join(map(str, AT))} trials, geometric means")
    for problem in ["all", *dict.fromkeys(problem for problem, _ in pairs)]:
        print(f"\n{problem}")
        shared = [pair for pair in pairs if problem in ("all", pair[0])]
        for name in names:
            logarithms = np.log([found[(name, *pair)] for pair in shared])
            print(f"  {name:28} " + "  ".join(f"{math.exp(mean):8.4f}" for mean in logarithms.mean(axis=0)))


def cli() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("names", nargs="+")
    running.add_argument("--problems", nargs="+", default=list(several.NAMES))
    running.add_argument("--seeds", type=int, default=5)
    running.add_argument("--trials", type=int, default=100)
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--python", help="the interpreter that has the peers")
    commands.add_parser("table").add_argument("file", type=Path)
    given = parser.parse_args()
    if given.command == "run":
        run(given.names, given.problems, given.seeds, given.trials, given.out, given.python)
    else:
        table(given.file)


if __name__ == "__main__":
    cli()
