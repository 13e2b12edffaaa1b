"""Data cleaning: half of the training labels are wrong, and each of 2,000 examples has a weight to be found.

Softmax regression on Fashion-MNIST: 2,000 images to train on, of which every second has a random label, 1,000 clean
ones to validate, 3,000 to test (Franceschi et al. 2017, arXiv:1703.01785, section 5.1). What is compared: all examples
alike; only those that are right (the oracle); hypergradients by every weight, not knowing which are right; and `tpe` on
one weight for each of ten groups. It is told a good grouping: by the loss under the network that was trained on all.

    HPO_BENCH_DATA=... python -m benchmarks.gradient_cleaning --image docs/images/gradient-cleaning.png
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import table
from hpo_core import Float, SearchSpace
from hpo_core.history.history import History
from hpo_core.history.trial import TrialState
from hpo_core.strategies.make import make_strategy

TRAIN, VALIDATION = 2000, 1000
STEPS = 40
GROUPS = 10


def images(seed: int) -> dict[str, Any]:
    """The sets, with ``wrong``: which of the training labels were replaced by random others."""
    with np.load(Path(os.environ["HPO_BENCH_DATA"]) / "images" / "fashion_mnist_15k.npz") as kept:
        x, y, x_test, y_test = (kept[name] for name in ("x_train", "y_train", "x_test", "y_test"))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))[: TRAIN + VALIDATION]
    x, y = x[order].reshape(len(order), -1).astype("float32") / 255.0, y[order].astype(int)
    wrong = np.arange(TRAIN) % 2 == 0
    labels = y[:TRAIN].copy()
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, wrong.sum())) % 10
    eye = np.eye(10, dtype="float32")
    return {
        "train": (x[:TRAIN], eye[labels]),
        "validation": (x[TRAIN:], eye[y[TRAIN:]]),
        "test": (x_test.reshape(len(x_test), -1).astype("float32") / 255.0, y_test),
        "wrong": wrong,
    }


class Cleaning:
    """The problem for one seed."""

    def __init__(self, seed: int) -> None:
        import keras

        from hpo_flows import hypergradient as hg

        self.data, self.hg = images(seed), hg

        def build() -> Any:
            return keras.Sequential([keras.Input((784,)), keras.layers.Dense(10, kernel_initializer="zeros")])

        self.problem = hg.Bilevel(
            build,
            loss=hg.cross_entropy,
            train=self.data["train"],
            validation=self.data["validation"],
            hyperparameters={"weights": hg.example_weights()},
            optimizer=hg.SGD(0.05, 0.9),
        )

    def train(self, weights: Any) -> tuple[float, float, Any]:
        """Validation loss, test accuracy and the end of a training with these weights."""
        values = {"weights": np.asarray(weights, dtype=float)}
        found = self.hg.train(self.problem, values, steps=STEPS)
        return found.loss, self.accuracy(found.state, values), found.state

    def accuracy(self, state: Any, values: Any) -> float:
        x, y = self.data["test"]
        return float((self.problem.predict(state, x, values).argmax(axis=1) == y).mean())

    def by_hypergradient(self, steps: int) -> tuple[list[float], Any]:
        """Test accuracy after each step on all weights, and the weights where the validation loss was lowest."""
        vector, curve, best = self.hg.VectorAdam.start(TRAIN, value=1.0, scale=2.0), [], (np.inf, 0.0, None)
        for _ in range(steps):
            found = self.hg.reverse(self.problem, {"weights": vector.value}, steps=STEPS)
            here = (found.loss, self.accuracy(found.state, {"weights": vector.value}), vector.value)
            best = min(best, here, key=lambda each: each[0])
            curve.append(best[1])
            vector = vector.step(found.hypergradient["weights"], rate=0.5)
        return curve, best[2]

    def by_tpe(self, trials: int, seed: int) -> list[float]:
        """Test accuracy of the incumbent after each trial, with a weight for each group."""
        _, _, state = self.train(np.ones(TRAIN))
        x, y = self.data["train"]
        logits = self.problem.predict(state, x, {"weights": np.ones(TRAIN)})
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        loss = -np.log((p * y).sum(axis=1) / p.sum(axis=1) + 1e-12)
        group = np.argsort(np.argsort(loss)) * GROUPS // TRAIN
        space = SearchSpace({f"group_{i}": Float(low=0.0, high=2.0) for i in range(GROUPS)})
        history, curve, accuracy = History(), [], {}
        for _ in range(trials):
            proposals = make_strategy("tpe").propose(space, history, 1, seed=seed)
            weights = np.array([proposals[0].config[f"group_{i}"] for i in range(GROUPS)])[group]
            loss_here, accuracy[history.next_number], _ = self.train(weights)
            pending = history.with_pending(proposals).trials[-1]
            history = History((*history, replace(pending, state=TrialState.COMPLETE, loss=loss_here)))
            assert history.incumbent is not None
            curve.append(accuracy[history.incumbent.number])
        return curve


def main_with(seeds: int, steps: int, ratio: float, image: Path | None) -> None:
    rows, curves = [], []
    for seed in range(seeds):
        cleaning, started = Cleaning(seed), time.process_time()
        wrong = cleaning.data["wrong"]
        everything, oracle = cleaning.train(np.ones(TRAIN))[1], cleaning.train(2.0 * ~wrong)[1]
        found, weights = cleaning.by_hypergradient(steps)
        told_apart = float((weights[wrong] < np.median(weights)).mean())
        groups = cleaning.by_tpe(round(steps * ratio), seed)
        rows.append([seed, everything, found[-1], groups[-1], oracle, told_apart, time.process_time() - started])
        curves.append((everything, oracle, found, groups))
        print(rows[-1], flush=True)
    rows.append(["mean", *(float(np.mean([row[i] for row in rows])) for i in range(1, 7))])
    head = ["seed", "all", "hypergradient", "tpe on groups", "oracle", "wrong ones below the median", "processor s"]
    print(table(head, rows))
    if image is not None:
        plot(curves, ratio, image)


def plot(curves: list[Any], ratio: float, image: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    everything, oracle = (float(np.mean([curve[i] for curve in curves])) for i in (0, 1))
    found, groups = (np.mean([curve[i] for curve in curves], axis=0) for i in (2, 3))
    figure, axes = pyplot.subplots(figsize=(6.4, 3.8))
    axes.plot(ratio * np.arange(1, len(found) + 1), found, label="hypergradient, 2,000 weights")
    axes.plot(np.arange(1, len(groups) + 1), groups, label="tpe, 10 weights of groups")
    axes.axhline(oracle, color="grey", linestyle="--", label="the right half alone (oracle)")
    axes.axhline(everything, color="grey", linestyle=":", label="all examples alike")
    axes.set(xlabel="plain trainings' worth of time", ylabel="test accuracy")
    axes.legend()
    figure.tight_layout()
    figure.savefig(image, dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--ratio", type=float, default=2.0, help="What a trial with hypergradient costs.")
    parser.add_argument("--image", type=Path)
    given = parser.parse_args()
    main_with(given.seeds, given.steps, given.ratio, given.image)
