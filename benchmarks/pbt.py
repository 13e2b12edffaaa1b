"""Compares population based training with Hyperband, ASHA and random search, on a network that is really trained.

Recorded learning curves (TaskSet, LCBench) cannot answer this: each is the curve of one configuration, and a child of
a population goes on from its parent's weights with another. So a small network is trained on scikit-learn's digits,
in numpy: learning rate, momentum, weight decay and dropout are tuned, for 27 epochs. All strategies may spend the same
number of epochs, of which a smaller population leaves some; a trial that goes on from another pays for what it adds.
What counts is the loss on test images of the model with the lowest validation loss, of whatever fidelity.

    python -m benchmarks.pbt --seeds 10 --trainings 10 20
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from hpo_core import Fidelity, Float, History, Proposal, SearchSpace, TrialState
from hpo_core.base.arrays import Array
from hpo_core.strategies.make import make_strategy

EPOCHS, BATCH, WIDTH = 27, 32, 48
SPACE = SearchSpace(
    {
        "learning_rate": Float(low=1e-4, high=1.0, log=True),
        "momentum": Float(low=0.01, high=0.99, log=True, reverse=True),
        "weight_decay": Float(low=1e-6, high=1e-1, log=True),
        "dropout": Float(low=0.0, high=0.6),
    }
)
FIDELITY = Fidelity("epochs", 1, EPOCHS, 3)
Parts = dict[str, Array]


def contenders(trainings: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """The strategies, by label; a population as large as the budget trains to its end."""
    return {
        "pbt": ("pbt", {"population": trainings, "generations": 9}),
        "pbt of half the size": ("pbt", {"population": trainings // 2, "generations": 9}),
        "hyperband": ("hyperband", {}),
        "asha": ("asha", {}),
        "random": ("random", {}),
    }


class Network:
    """A network of one hidden layer with its optimizer's state; it can be copied, and trained with other settings."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.weights = {"a": rng.normal(0, 0.15, (64, WIDTH)), "b": rng.normal(0, 0.15, (WIDTH, 10))}
        self.velocity = {name: np.zeros_like(value) for name, value in self.weights.items()}
        self.epochs = 0

    def copy(self) -> Network:
        other = Network(0)
        other.weights = {name: value.copy() for name, value in self.weights.items()}
        other.velocity = {name: value.copy() for name, value in self.velocity.items()}
        other.epochs = self.epochs
        return other

    def train(self, config: Mapping[str, Any], until: int, data: Parts, seed: int) -> None:
        X, y = data["X"], data["y"]
        for epoch in range(self.epochs, until):
            rng = np.random.default_rng([seed, epoch])
            order = rng.permutation(len(X))
            for start in range(0, len(X), BATCH):
                rows = order[start : start + BATCH]
                kept = (rng.random((len(rows), WIDTH)) >= config["dropout"]) / (1 - config["dropout"])
                hidden = np.maximum(X[rows] @ self.weights["a"], 0) * kept
                error = (softmax(hidden @ self.weights["b"]) - y[rows]) / len(rows)
                slopes = {"b": hidden.T @ error}
                slopes["a"] = X[rows].T @ ((error @ self.weights["b"].T) * (hidden > 0) * kept)
                for name, slope in slopes.items():
                    slope = np.clip(slope + config["weight_decay"] * self.weights[name], -1, 1)
                    self.velocity[name] = config["momentum"] * self.velocity[name] - config["learning_rate"] * slope
                    self.weights[name] += self.velocity[name]
        self.epochs = until

    def loss(self, X: Array, y: Array) -> float:
        p = softmax(np.maximum(X @ self.weights["a"], 0) @ self.weights["b"])
        return float(min(-np.log(np.maximum((p * y).sum(axis=1), 1e-12)).mean(), 30.0))


def softmax(z: Array) -> Array:
    e: Array = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def digits(seed: int) -> Parts:
    """600 images to train on, a tenth of them with a wrong label; 400 to validate; the rest to test."""
    from sklearn.datasets import load_digits

    X, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(X))
    X, labels = X[order] / 16.0, labels[order]
    y = np.eye(10)[labels]
    wrong = rng.random(600) < 0.1
    y[:600][wrong] = np.eye(10)[rng.integers(10, size=int(wrong.sum()))]
    return {"X": X[:600], "y": y[:600], "Xv": X[600:1000], "yv": y[600:1000], "Xt": X[1000:], "yt": y[1000:]}


def tune(name: str, settings: Mapping[str, Any], trainings: int, seed: int) -> tuple[float, float]:
    """The validation loss of the best model, and its loss on the test images."""
    fidelity = None if name == "random" else FIDELITY
    strategy, history, data = make_strategy(name, settings, fidelity), History(), digits(seed)
    networks: dict[int, Network] = {}
    spent, best = 0.0, (np.inf, np.inf)
    while spent < trainings * EPOCHS:
        found = strategy.propose(SPACE, history, 1, seed=seed)
        if not found:
            break
        (proposal,) = found
        number, until = history.next_number, round(proposal.fidelity or EPOCHS)
        network = Network(1000 * seed + number) if proposal.parent is None else networks[proposal.parent].copy()
        spent += until - network.epochs
        with np.errstate(all="ignore"):
            network.train(proposal.config, until, data, seed=1000 * seed + number)
        networks[number] = network
        loss = network.loss(data["Xv"], data["yv"])
        loss = loss if np.isfinite(loss) else 30.0
        best = min(best, (loss, network.loss(data["Xt"], data["yt"])))
        history = _told(history, proposal, loss)
    return best


def _told(history: History, proposal: Proposal, loss: float) -> History:
    running = history.with_pending([proposal]).trials[-1]
    return History((*history, replace(running, state=TrialState.COMPLETE, loss=loss)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trainings", type=int, nargs="+", default=[10, 20])
    given = parser.parse_args()
    for trainings in given.trainings:
        found = {
            label: np.array([tune(name, settings, trainings, seed) for seed in range(given.seeds)])
            for label, (name, settings) in contenders(trainings).items()
        }
        print(f"\n{trainings} full trainings, {given.seeds} seeds: validation loss, test loss, p (pbt no better)")
        for label, losses in found.items():
            p = stats.ttest_rel(found["pbt"][:, 1], losses[:, 1], alternative="less").pvalue
            shown = "" if label == "pbt" else f"  {p:.3f}"
            print(f"{label:22} {losses[:, 0].mean():.4f}  {losses[:, 1].mean():.4f}{shown}")


if __name__ == "__main__":
    main()
