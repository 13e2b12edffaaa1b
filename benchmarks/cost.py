"""What one proposal costs as a study grows: processor milliseconds, ours beside Optuna's.

    python -m benchmarks.cost

A history of random trials of rbv2_xgboost (14 parameters, 8 of them conditional) is told, then one configuration asked
for, on one thread. Numbers are medians of three, of fewer where these take a minute; where one proposal takes a minute,
longer histories are left out.
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any

import numpy as np

from benchmarks import instances
from benchmarks.contenders import Contenders
from benchmarks.measure import table

NAMES = ("bayesian", "tpe", "peer:optuna_tpe", "peer:optuna_tpe_multivariate", "peer:optuna_gp")
LENGTHS = (10, 30, 100, 300, 1000, 3000, 10000)
REPEATS = 3
MOST = 60.0


def seconds(contenders: Contenders, name: str, space: Any, trials: list[Any], seed: int) -> float:
    contender = contenders.open(name, space, seed, len(trials) + 1)
    contender.history(trials)
    begin = contender.seconds()
    contender.ask(1)
    return contender.seconds() - begin


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
            seconds(contenders, name, instance.space, trials[:10], 0)  # imports and caches
            for row in rows:
                times: list[float] = []
                while len(times) < REPEATS and sum(times) < MOST:
                    times.append(seconds(contenders, name, instance.space, trials[: row[0]], len(times)))
                row[column] = 1e3 * median(times)
                if median(times) > MOST:
                    break
    print(table(["trials", *args.names], rows))


if __name__ == "__main__":
    command_line()
