"""Gradient-based tuning of one penalty and one learning rate a layer, beside `bayesian` and `tpe`; and what it costs.

A network of six dense layers on 1,000 of scikit-learn's digits: 12 hyperparameters, 100 steps of SGD with momentum.
Strategies are asked and told in this process, so nothing but trainings is measured. A training with its hypergradient
counts as so many plain ones as it takes time.

    python -m benchmarks.gradient_layers cost
    python -m benchmarks.gradient_layers run --seeds 5 --budget 60 --out layers.json
    python -m benchmarks.gradient_layers plot --out layers.json --image docs/images/gradient-layers.png
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.measure import table
from hpo_core import Float, SearchSpace
from hpo_core.history import History
from hpo_core.strategies import make_strategy
from hpo_core.trial import TrialState

LAYERS = 6
STEPS, LAST = 100, 50
BATCH = 64
WIDTH = 48

STRATEGIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gradient (adam)": ("gradient", {}),
    "gradient (sgd)": ("gradient", {"optimizer": "sgd"}),
    "bayesian": ("bayesian", {}),
    "tpe": ("tpe", {}),
    "random": ("random", {}),
}


def space() -> SearchSpace:
    parameters: dict[str, Any] = {}
    for i in range(LAYERS):
        parameters[f"l2_{i}"] = Float(low=1e-6, high=1e-1, log=True)
        parameters[f"learning_rate_{i}"] = Float(low=1e-3, high=1.0, log=True)
    return SearchSpace(parameters)


def digits() -> dict[str, Any]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = (x[order] / 16.0).astype("float32"), np.eye(10, dtype="float32")[y[order]]
    return {"train": (x[:1000], y[:1000]), "validation": (x[1000:], y[1000:])}


@cache
def problem(width: int = WIDTH) -> Any:
    import keras

    from flows import hypergradient as hg

    def build() -> Any:
        hidden = [keras.layers.Dense(width, activation="relu", name=f"layer_{i}") for i in range(LAYERS - 1)]
        return keras.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(10, name=f"layer_{LAYERS - 1}")])

    places = {}
    for i in range(LAYERS):
        places[f"l2_{i}"] = hg.l2([f"layer_{i}"])
        places[f"learning_rate_{i}"] = hg.learning_rate([f"layer_{i}"])
    return hg.Bilevel(
        build, loss=hg.cross_entropy, hyperparameters=places, optimizer=hg.SGD(momentum=0.9), batch=BATCH, **digits()
    )


def trial(config: Mapping[str, Any], *, gradient: bool, seed: int = 0, width: int = WIDTH) -> tuple[float, Any]:
    """Validation loss, and its hypergradient if asked for."""
    from flows import hypergradient as hg

    if gradient:
        found = hg.reverse(problem(width), config, steps=STEPS, last=LAST, seed=seed)
        return found.loss, found.hypergradient
    return hg.train(problem(width), config, steps=STEPS, seed=seed).loss, {}


def study(label: str, seed: int, budget: float, ratio: float) -> list[tuple[float, float]]:
    """Trainings' worth spent, and the best loss by then, after each trial."""
    name, settings = STRATEGIES[label]
    strategy, history, here = make_strategy(name, settings), History(), space()
    gradient, spent, curve = name == "gradient", 0.0, []
    while spent + (cost := ratio if gradient else 1.0) <= budget:
        proposals = strategy.propose(here, history, 1, seed=seed)
        loss, slopes = trial(proposals[0].config, gradient=gradient, seed=seed)
        pending = history.with_pending(proposals).trials[-1]
        if np.isfinite(loss):
            done = replace(pending, state=TrialState.COMPLETE, loss=loss)
            finite = {key: value for key, value in slopes.items() if np.isfinite(value)}
            history = History((*history, replace(done, hypergradient=finite)))
        else:
            history = History((*history, replace(pending, state=TrialState.FAILED)))
        spent += cost
        best = history.incumbent
        curve.append((spent, float("nan") if best is None or best.loss is None else best.loss))
    return curve


# -- what a hypergradient costs -----------------------------------------------------------------------------------


MODES = {
    "plain": {},
    "last quarter": {"last": STEPS // 4},
    "last half": {"last": LAST},
    "all steps": {},
    "all steps, every 10th state": {"stride": 10},
}


def one_mode(mode: str, width: int) -> dict[str, float]:
    """Processor time and memory of one mode, in a process that has run no other."""
    from flows import hypergradient as hg

    middle = space().decode(np.full(2 * LAYERS, 0.5))

    def run() -> Any:
        if mode == "plain":
            return hg.train(problem(width), middle, steps=STEPS)
        return hg.reverse(problem(width), middle, steps=STEPS, **MODES[mode])

    started = time.process_time()
    held = run().held
    first = time.process_time() - started
    times = []
    for _ in range(3):
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": median(times), "first": first, "held": held / 2**20, "peak": peak}


def cost(widths: tuple[int, ...] = (WIDTH, 256)) -> str:
    rows = []
    for width in widths:
        base = None
        for mode in MODES:
            command = [sys.executable, "-m", "benchmarks.gradient_layers", "mode", mode, "--width", str(width)]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            facts = json.loads(output.splitlines()[-1])
            base = base or facts
            ratio = facts["seconds"] / base["seconds"]
            rows.append([width, mode, facts["seconds"], ratio, facts["first"], facts["held"], facts["peak"]])
    head = ["width", "walked back", "s a training", "/ plain", "first, s", "states held, MiB", "peak memory, MiB"]
    return table(head, rows)


# -- the rest -----------------------------------------------------------------------------------------------------


def report(runs: Mapping[str, Any], at: tuple[float, ...] = (10, 20, 40, 60)) -> str:
    rows = []
    for label, curves in runs["curves"].items():
        values = [[_at(curve, spent) for curve in curves] for spent in at]
        ends = values[-1]
        rows.append([label, *(float(np.mean(v)) for v in values), float(np.std(ends) / np.sqrt(len(ends)))])
    return table(["strategy", *(f"at {spent:g}" for spent in at), "error at the end"], rows)


def _at(curve: list[tuple[float, float]], spent: float) -> float:
    reached = [loss for when, loss in curve if when <= spent + 1e-9]
    return reached[-1] if reached else float("nan")


def plot(runs: Mapping[str, Any], image: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.8))
    grid = np.arange(3.0, runs["budget"] + 0.5, 0.5)
    for label, curves in runs["curves"].items():
        values = np.array([[_at(curve, spent) for spent in grid] for curve in curves])
        middle, error = values.mean(axis=0), values.std(axis=0) / np.sqrt(len(values))
        (line,) = axes.plot(grid, middle, label=label)
        axes.fill_between(grid, middle - error, middle + error, alpha=0.2, color=line.get_color(), linewidth=0)
    axes.set(xlabel="plain trainings' worth of time", ylabel="best validation loss", yscale="log")
    axes.legend()
    figure.tight_layout()
    figure.savefig(image, dpi=110)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("cost")
    mode = commands.add_parser("mode")
    mode.add_argument("mode", choices=MODES)
    mode.add_argument("--width", type=int, default=WIDTH)
    for name in ("run", "plot"):
        command = commands.add_parser(name)
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--seeds", type=int, default=5)
        command.add_argument("--budget", type=float, default=60)
        command.add_argument("--ratio", type=float, default=2.5, help="What a trial with hypergradient costs.")
        command.add_argument("--image", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    if given.command == "cost":
        print(cost())
    elif given.command == "mode":
        print(json.dumps(one_mode(given.mode, given.width)))
    else:
        if given.command == "run":
            curves = {
                label: [study(label, seed, given.budget, given.ratio) for seed in range(given.seeds)]
                for label in STRATEGIES
            }
            given.out.write_text(json.dumps({"budget": given.budget, "ratio": given.ratio, "curves": curves}))
        runs = json.loads(given.out.read_text())
        print(report(runs))
        if given.image:
            plot(runs, given.image)
