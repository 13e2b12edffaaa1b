"""What one proposal costs as a study grows: processor milliseconds, ours beside Optuna's.

    python -m benchmarks.cost

A history of random trials of rbv2_xgboost (14 parameters, 8 of them conditional) is told, and configurations are asked
for one at a time, on one thread. Numbers are medians of three after a first one, as a study goes on; where the first
takes more than ten seconds, it is the number, and where it takes a minute, longer histories are left out.
"""

from __future__ import annotations

import argparse
import sys
from statistics import median
from typing import Any

import numpy as np

from benchmarks import instances
from benchmarks.contenders import Contender, Contenders
from benchmarks.measure import table

NAMES = ("bayesian", "tpe", "peer:optuna_tpe", "peer:optuna_tpe_multivariate", "peer:optuna_gp")
LENGTHS = (10, 30, 100, 300, 1000, 3000, 10000)
REPEATS = 3
SLOW, MOST = 10.0, 60.0


def seconds(contender: Contender, instance: instances.Instance, trials: list[Any]) -> float:
    contender.history(trials)
    times: list[float] = []
    while len(times) <= REPEATS:
        begin = contender.seconds()
        (config,) = contender.ask(1)
        times.append(contender.seconds() - begin)
        if times[0] > SLOW:
            return times[0]
        contender.tell([instance.loss(config, 0)])
    return median(times[1:])


def command_line() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, help="strategies, or peer:NAME of Optuna")
    parser.add_argument("--lengths", nargs="*", type=int, default=LENGTHS)
    args = parser.parse_args()
    instance = instances.load(next(name for name in instances.names() if name.startswith("rbv2_xgboost")))
    rng = np.random.default_rng(0)
    trials: list[Any] = []
    for u in rng.random((max(args.lengths), instance.space.dimensions)):
        config = instance.space.decode(u)
        trials.append((config, instance.loss(config, 0)))
    rows: list[list[Any]] = [[n, *[None] * len(args.names)] for n in args.lengths]
    with Contenders() as contenders:
        for column, name in enumerate(args.names, start=1):
            for row in rows:
                contender = contenders.open(name, instance.space, 0, row[0] + REPEATS + 1)
                spent = seconds(contender, instance, trials[: row[0]])
                row[column] = 1e3 * spent
                print(f"{name} at {row[0]}: {row[column]:.3g} ms", file=sys.stderr)
                if spent > MOST:
                    break
    print(table(["trials", *args.names], rows))


if __name__ == "__main__":
    command_line()
