"""How soon strategies find a good Pareto front of two or three objectives, beside Optuna's samplers and Ax.

    python -m benchmarks.fronts run bayesian tpe random peer:optuna_tpe peer:optuna_nsga --seeds 5 --out fronts.jsonl
    python -m benchmarks.fronts table fronts.jsonl

``run`` appends one JSON line a study, and passes over studies that the file has. ``table`` shows what is missing of the
hypervolume (``several.py``): 0 at the true front, or that of all studies in the file where it is not known, and 1 at 20
random configurations. It gives the geometric mean over problems and seeds, and problem by problem, for the studies that
all strategies share.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import several
from benchmarks.command import Key, command, side_by_side
from benchmarks.contenders import Contenders
from hpo_core.base.arrays import Array
from hpo_core.numerics.pareto import hypervolume, nondominated

AT = (20, 50, 100)

LEAST = 1e-4
"""What is missing counts as at least so much, since no logarithm of 0 is finite."""


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

    def mean(keys: list[Key]) -> list[float]:
        return np.exp(np.log([found[key] for key in keys]).mean(axis=0)).tolist()  # type: ignore[no-any-return]

    told = f"missing hypervolume after {', '.join(map(str, AT))} trials, geometric means"
    print(*side_by_side(found, told, mean), sep="\n")


if __name__ == "__main__":
    command(__doc__, several.NAMES, 5, run, table)
