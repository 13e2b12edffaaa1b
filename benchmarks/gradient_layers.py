"""Gradient-based tuning of one penalty and one learning rate a layer, beside `bayesian` and `tpe`; and what it costs.

A network of six dense layers on 1,000 of scikit-learn's digits: 12 hyperparameters, 100 steps of SGD with momentum.
Strategies are asked and told in this process, so nothing but trainings is measured. A training with its hypergradient
counts as so many plain ones as it takes time.

    python -m benchmarks.gradient_layers cost
    python -m benchmarks.gradient_layers run --seeds 10 11 12 --budget 40 --out layers.json
    python -m benchmarks.gradient_layers plot --out layers.json --image docs/images/gradient-layers.png
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.measure import table
from hpo_core import Float, SearchSpace
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal, TrialState
from hpo_core.strategies.make import make_strategy

LAYERS = 6
STEPS, LAST = 100, 50
BATCH = 64
WIDTH = 48


@dataclass(frozen=True)
class Phase:
    """A part of a study: up to so many plain trainings' worth, with one value for all layers or one for each."""

    strategy: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    shared: bool = False
    budget: float = math.inf


START = Phase("bayesian", shared=True, budget=10)

METHODS: dict[str, tuple[Phase, ...]] = {
    "gradient (adam)": (Phase("gradient"),),
    "gradient (sgd)": (Phase("gradient", {"optimizer": "sgd"}),),
    "bayesian, then gradient": (START, Phase("gradient", {"chains": 1, "rate": 0.2})),
    "bayesian, one rate for all": (Phase("bayesian", shared=True),),
    "bayesian": (Phase("bayesian"),),
    "tpe": (Phase("tpe"),),
    "random": (Phase("random"),),
}


def space(shared: bool = False) -> SearchSpace:
    """The space of one penalty and one learning rate for each layer, or for all."""
    parameters: dict[str, Any] = {}
    for end in [""] if shared else [f"_{i}" for i in range(LAYERS)]:
        parameters[f"l2{end}"] = Float(low=1e-6, high=1e-1, log=True)
        parameters[f"learning_rate{end}"] = Float(low=1e-3, high=1.0, log=True)
    return SearchSpace(parameters)


def every_layer(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with a value for each layer."""
    return {
        f"{name}_{i}": config.get(name, config.get(f"{name}_{i}"))
        for i in range(LAYERS)
        for name in ("l2", "learning_rate")
    }


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


def trial(config: Mapping[str, Any], *, gradient: bool, seed: int = 0, last: int = LAST) -> tuple[float, Any]:
    """Validation loss, and its hypergradient if asked for."""
    from hpo_flows import hypergradient as hg

    if gradient:
        found = hg.reverse(problem(), config, steps=STEPS, last=last, seed=seed)
        return found.loss, found.hypergradient
    return hg.train(problem(), config, steps=STEPS, seed=seed).loss, {}


Curve = list[tuple[float, float]]
"""What was spent, in plain trainings, and the best loss by then."""


def study(phases: Sequence[Phase], seed: int, budget: float, ratio: float, last: int = LAST) -> Curve:
    """A later phase begins at the best configuration of the one before, as a trial that a user enqueued."""
    curve: Curve = []
    start: Proposal | None = None
    spent = 0.0
    for phase in phases:
        strategy, history, here = make_strategy(phase.strategy, phase.settings), History(), space(phase.shared)
        gradient = phase.strategy == "gradient"
        cost, end = ratio if gradient else 1.0, min(budget, spent + phase.budget)
        while spent + cost <= end + 1e-9:
            proposal = start or strategy.propose(here, history, 1, seed=seed)[0]
            start = None
            loss, slopes = trial(every_layer(proposal.config), gradient=gradient, seed=seed, last=last)
            history = _told(history, proposal, loss, slopes)
            spent += cost
            best = history.incumbent
            found = math.nan if best is None or best.loss is None else best.loss
            curve.append((spent, float(np.fmin(found, curve[-1][1] if curve else math.nan))))
        if history.incumbent is not None:
            start = Proposal(every_layer(history.incumbent.config))
    return curve


def _told(history: History, proposal: Proposal, loss: float, slopes: Mapping[str, float]) -> History:
    pending = history.with_pending([proposal]).trials[-1]
    if not np.isfinite(loss):
        return History((*history, replace(pending, state=TrialState.FAILED)))
    finite = {key: value for key, value in slopes.items() if np.isfinite(value)}
    return History((*history, replace(pending, state=TrialState.COMPLETE, loss=loss, hypergradient=finite)))


# -- what a hypergradient costs -----------------------------------------------------------------------------------


MODES: dict[str, dict[str, Any]] = {
    "none": {},
    "last quarter": {"last": STEPS // 4},
    "last half": {"last": LAST},
    "all, from every 10th state": {"stride": 10},
    "all": {},
}


def cost(widths: Sequence[int], times: int = 5) -> str:
    """Processor time and memory of each mode, cheapest first, so that the peak of a process is that of its mode."""
    from hpo_flows import hypergradient as hg

    middle, rows = space().decode(np.full(2 * LAYERS, 0.5)), []

    def run(mode: str, width: int, xla: bool) -> Any:
        if mode == "none":
            return hg.train(problem(width, xla), middle, steps=STEPS)
        return hg.reverse(problem(width, xla), middle, steps=STEPS, **MODES[mode])

    def timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, float, Any]:
        """Seconds of the first call, the median of later ones, and the result."""
        seconds, found = [], None
        for _ in range(1 + times):
            started = time.process_time()
            found = function(*arguments)
            seconds.append(time.process_time() - started)
        return seconds[0], median(seconds[1:]), found

    for width in widths:
        first, keras_s, _ = timed(fit, width, middle)
        rows.append([width, "Keras' fit", keras_s, 1.0, "", first, "", ""])
        for xla in (False, True):
            plain = 0.0
            for mode in MODES:
                first, seconds, found = timed(run, mode, width, xla)
                plain = plain or seconds
                label = f"{mode}, XLA" if xla else mode
                held, peak = found.held / 2**20, found.peak / 2**20
                rows.append([width, label, seconds, seconds / keras_s, seconds / plain, first, held, peak])
    head = [
        "width",
        "steps walked back",
        "s",
        "/ Keras",
        "/ none",
        "first, s",
        "states held, MiB",
        "peak of process, MiB",
    ]
    return table(head, rows)


def fit(width: int, config: Mapping[str, Any]) -> None:
    """The same training by Keras: as many steps (7 epochs of 15 batches are 105), and the validation loss."""
    import keras

    model = problem(width, False).build()
    for i, layer in enumerate(model.layers):
        layer.kernel_regularizer = keras.regularizers.L2(config[f"l2_{i}"])
    model.compile(
        optimizer=keras.optimizers.SGD(config["learning_rate_0"], momentum=0.9),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
    )
    sets = digits()
    x, y = sets["train"]
    steps = len(x) // BATCH
    model.fit(x[: steps * BATCH], y[: steps * BATCH], batch_size=BATCH, epochs=round(STEPS / steps), verbose=0)
    model.evaluate(*sets["validation"], batch_size=len(sets["validation"][0]), verbose=0)


# -- the rest -----------------------------------------------------------------------------------------------------


def report(runs: Mapping[str, list[Curve]], at: tuple[float, ...] = (10, 20, 40)) -> str:
    """The best loss after so much, and paired by seed with `bayesian` at the end."""
    rows = []
    for label, curves in runs.items():
        values = np.array([[_at(curve, spent) for spent in at] for curve in curves])
        pairs = zip(curves, runs.get("bayesian", []), strict=False)
        less = [_at(curve, at[-1]) - _at(other, at[-1]) for curve, other in pairs]
        rows.append([label, len(curves), *values.mean(axis=0), float(np.mean(less)), _error(less)])
    return table(["method", "seeds", *(f"at {spent:g}" for spent in at), "less bayesian", "error"], rows)


def _error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else math.nan


def _at(curve: Curve, spent: float) -> float:
    """The best loss once so many plain trainings' worth is spent."""
    return min((loss for at, loss in map(tuple, curve) if at <= spent + 1e-9), default=math.nan)


def plot(runs: Mapping[str, list[Curve]], budget: float, image: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.8))
    grid = np.arange(4.0, budget + 0.5, 0.5)
    for label, curves in runs.items():
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
    command = commands.add_parser("cost")
    command.add_argument("--widths", type=int, nargs="+", default=[WIDTH, 256])
    for name in ("run", "plot"):
        command = commands.add_parser(name)
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
        command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
        command.add_argument("--budget", type=float, default=40)
        command.add_argument("--ratio", type=float, default=2.0, help="What a trial with hypergradient costs.")
        command.add_argument("--image", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    if given.command == "cost":
        print(cost(given.widths))
    else:
        kept = json.loads(given.out.read_text()) if given.out.exists() else {}
        for seed in given.seeds if given.command == "run" else ():
            for label in given.methods:
                if str(seed) not in kept.setdefault(label, {}):
                    kept[label][str(seed)] = study(METHODS[label], seed, given.budget, given.ratio)
                    given.out.write_text(json.dumps(kept))
        shared = {seed for seed in map(str, given.seeds) if all(seed in kept.get(label, {}) for label in given.methods)}
        runs = {label: [kept[label][seed] for seed in sorted(shared)] for label in given.methods}
        print(report(runs))
        if given.image:
            plot(runs, given.budget, given.image)
