"""How soon strategies find a good configuration that keeps limits on results, beside Optuna's samplers.

    python -m benchmarks.limits run bayesian tpe random peer:optuna_tpe_limits --seeds 10 --out limits.jsonl
    python -m benchmarks.limits table limits.jsonl

``run`` appends one JSON line a study, and passes over studies that the file has. Regret is that of the best feasible
trial: 0 at the best known, 1 at 20 random configurations (``limited.py``). ``table`` shows its mean over problems and
seeds, and problem by problem, for the studies that all strategies share.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import limited
from benchmarks.command import Key, command, side_by_side
from benchmarks.contenders import Contenders

AT = (20, 50, 100)


def study(contenders: Contenders, name: str, problem: limited.Problem, seed: int, trials: int) -> dict[str, Any]:
    """Runs one study; returns a line of the results."""
    contender = contenders.open(name, problem.space, seed, trials)
    outcomes: list[limited.Outcome] = []
    for _ in range(trials):
        (config,) = contender.ask(1)
        outcomes.append(problem.outcome(config))
        loss, excess = outcomes[-1]
        contender.tell([loss], [excess])
    regret = [round(each, 6) for each in problem.regret(outcomes)]
    seconds = round(contender.seconds(), 3)
    return {"strategy": name, "problem": problem.name, "seed": seed, "regret": regret, "seconds": seconds}


def run(names: list[str], problems: list[str], seeds: int, trials: int, out: Path, python: str | None) -> None:
    done = {_key(line) for line in _read(out)}
    with Contenders(python) as contenders, out.open("a") as file:
        for seed in range(seeds):
            for problem in problems:
                for name in names:
                    if (name, problem, seed) not in done:
                        line = study(contenders, name, limited.load(problem), seed, trials)
                        print(json.dumps(line), file=file, flush=True)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _key(line: dict[str, Any]) -> tuple[str, str, int]:
    return line["strategy"], line["problem"], line["seed"]


def table(path: Path) -> None:
    regrets = {_key(line): line["regret"] for line in _read(path)}

    def mean(keys: list[Key]) -> list[float]:
        curves = [regrets[key] for key in keys]
        return [sum(curve[at - 1] for curve in curves) / len(curves) for at in AT if at <= len(curves[0])]

    print(*side_by_side(regrets, f"regret after {', '.join(map(str, AT))} trials", mean), sep="\n")


if __name__ == "__main__":
    command(__doc__, limited.NAMES, 10, run, table)
