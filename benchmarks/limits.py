"""How soon strategies find a good configuration that keeps limits on results, beside Optuna's samplers.

    python -m benchmarks.limits run bayesian tpe random peer:optuna_tpe_limits --seeds 10 --out limits.jsonl
    python -m benchmarks.limits table limits.jsonl

``run`` appends one JSON line a study, and passes over studies that the file has. Regret is that of the best feasible
trial: 0 at the best known, 1 at 20 random configurations (``limited.py``). ``table`` shows its mean over problems and
seeds, and problem by problem, for the studies that all strategies share.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import limited
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
    lines = {_key(line): line["regret"] for line in _read(path)}
    names = list(dict.fromkeys(name for name, _, _ in lines))
    pairs = sorted({key[1:] for key in lines if all((name, *key[1:]) in lines for name in names)})
    print(f"{len(pairs)} studies each; regret after {', '.join(map(str, AT))} trials")
    for problem in ["all", *dict.fromkeys(problem for problem, _ in pairs)]:
        print(f"\n{problem}")
        shared = [pair for pair in pairs if problem in ("all", pair[0])]
        for name in names:
            curves = [lines[(name, *pair)] for pair in shared]
            means = [sum(curve[at - 1] for curve in curves) / len(curves) for at in AT if at <= len(curves[0])]
            print(f"  {name:28} " + "  ".join(f"{mean:8.4f}" for mean in means))


def cli() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("names", nargs="+")
    running.add_argument("--problems", nargs="+", default=list(limited.NAMES))
    running.add_argument("--seeds", type=int, default=10)
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
