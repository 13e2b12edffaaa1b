"""Gradient-based tuning of one penalty and one learning rate a layer, beside `bayesian` and `tpe`; and what it costs.

A network of six dense layers on 1,000 of scikit-learn's digits: 12 hyperparameters, 100 steps of SGD with momentum.
Strategies are asked and told in this process, so nothing but trainings is measured. A training with its hypergradient
counts as so many plain ones as it takes time.

    python -m benchmarks.gradient_layers cost
    python -m benchmarks.gradient_layers run --seeds 3 --budget 40 --out layers.json
    python -m benchmarks.gradient_layers plot --out layers.json --image docs/images/gradient-layers.png
"""

from __future__ import annotations

import argparse
import json
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
from hpo_core.history.history import History
from hpo_core.history.trial import TrialState
from hpo_core.strategies.make import make_strategy

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
def problem(width: int = WIDTH, jit_compile: bool = True) -> Any:
    import keras

    from hpo_flows import hypergradient as hg

    def build() -> Any:
        hidden = [keras.layers.Dense(width, activation="relu", name=f"layer_{i}") for i in range(LAYERS - 1)]
        return keras.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(10, name=f"layer_{LAYERS - 1}")])

    places = {}
    for i in range(LAYERS):
        places[f"l2_{i}"] = hg.l2([f"layer_{i}"])
        places[f"learning_rate_{i}"] = hg.learning_rate([f"layer_{i}"])
    return hg.Bilevel(
        build,
        loss=hg.cross_entropy,
        hyperparameters=places,
        optimizer=hg.SGD(momentum=0.9),
        batch=BATCH,
        jit_compile=jit_compile,
        **digits(),
    )


def trial(config: Mapping[str, Any], *, gradient: bool, seed: int = 0, width: int = WIDTH) -> tuple[float, Any]:
    """Validation loss, and its hypergradient if asked for."""
    from hpo_flows import hypergradient as hg

    if gradient:
        found = hg.reverse(problem(width), config, steps=STEPS, last=LAST, seed=seed)
        return found.loss, found.hypergradient
    return hg.train(problem(width), config, steps=STEPS, seed=seed).loss, {}


def study(label: str, seed: int, trials: int) -> list[float]:
    """The best loss after each trial."""
    name, settings = STRATEGIES[label]
    strategy, history, here = make_strategy(name, settings), History(), space()
    gradient, curve = name == "gradient", []
    for _ in range(trials):
        proposals = strategy.propose(here, history, 1, seed=seed)
        loss, slopes = trial(proposals[0].config, gradient=gradient, seed=seed)
        pending = history.with_pending(proposals).trials[-1]
        if np.isfinite(loss):
            done = replace(pending, state=TrialState.COMPLETE, loss=loss)
            finite = {key: value for key, value in slopes.items() if np.isfinite(value)}
            history = History((*history, replace(done, hypergradient=finite)))
        else:
            history = History((*history, replace(pending, state=TrialState.FAILED)))
        best = history.incumbent
        curve.append(float("nan") if best is None or best.loss is None else best.loss)
    return curve


# -- what a hypergradient costs -----------------------------------------------------------------------------------


MODES: dict[str, dict[str, int]] = {
    "none": {},
    "last quarter": {"last": STEPS // 4},
    "last half": {"last": LAST},
    "all, from every 10th state": {"stride": 10},
    "all": {},
}


def cost(widths: tuple[int, ...] = (WIDTH, 256), times: int = 3) -> str:
    """Processor time and memory of each mode, cheapest first, so that the peak of a process is that of its mode."""
    from hpo_flows import hypergradient as hg

    middle, rows = space().decode(np.full(2 * LAYERS, 0.5)), []

    def run(mode: str, width: int) -> Any:
        if mode == "none":
            return hg.train(problem(width), middle, steps=STEPS)
        return hg.reverse(problem(width), middle, steps=STEPS, **MODES[mode])

    def timed(mode: str, width: int) -> tuple[float, Any]:
        started = time.process_time()
        found = run(mode, width)
        return time.process_time() - started, found

    for width in widths:
        plain = 0.0
        for mode in MODES:
            first, found = timed(mode, width)
            seconds = median(timed(mode, width)[0] for _ in range(times))
            plain = plain or seconds
            rows.append([width, mode, seconds, seconds / plain, first, found.held / 2**20, found.peak / 2**20])
    head = ["width", "steps walked back", "s", "/ plain", "first, s", "states held, MiB", "peak of process, MiB"]
    return table(head, rows)


# -- the rest -----------------------------------------------------------------------------------------------------


def report(runs: Mapping[str, Any], ratio: float, at: tuple[float, ...] = (10, 20, 40)) -> str:
    rows = []
    for label, curves in runs.items():
        values = [[_at(label, curve, spent, ratio) for curve in curves] for spent in at]
        ends = values[-1]
        rows.append([label, *(float(np.mean(v)) for v in values), float(np.std(ends) / np.sqrt(len(ends)))])
    return table(["strategy", *(f"at {spent:g}" for spent in at), "error at the end"], rows)


def _at(label: str, curve: list[float], spent: float, ratio: float) -> float:
    """The best loss once so many plain trainings' worth is spent."""
    trials = int(spent / (ratio if label.startswith("gradient") else 1.0) + 1e-9)
    return curve[min(trials, len(curve)) - 1] if trials else float("nan")


def plot(runs: Mapping[str, Any], ratio: float, budget: float, image: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.8))
    grid = np.arange(4.0, budget + 0.5, 0.5)
    for label, curves in runs.items():
        values = np.array([[_at(label, curve, spent, ratio) for spent in grid] for curve in curves])
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
    for name in ("run", "plot"):
        command = commands.add_parser(name)
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--seeds", type=int, default=3)
        command.add_argument("--budget", type=float, default=40)
        command.add_argument("--ratio", type=float, default=3.0, help="What a trial with hypergradient costs.")
        command.add_argument("--image", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    if given.command == "cost":
        print(cost())
    else:
        runs = json.loads(given.out.read_text()) if given.out.exists() else {}
        if given.command == "run":
            for seed in range(given.seeds):
                for label, (name, _) in STRATEGIES.items():
                    if len(runs.get(label, [])) > seed:
                        continue
                    trials = round(given.budget / (given.ratio if name == "gradient" else 1.0))
                    runs.setdefault(label, []).append(study(label, seed, trials))
                    given.out.write_text(json.dumps(runs))
        print(report(runs, given.ratio))
        if given.image:
            plot(runs, given.ratio, given.budget, given.image)
