"""Data cleaning: half of the training labels are wrong, and a weight for each example is carried from trial to trial.

The weights are too many for a configuration. A trial takes them from its parent's checkpoint, moves them along their
hypergradient, and leaves them in its own; beside them the network's penalty is an ordinary hyperparameter.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits

from hpo_flows import hypergradient as hg
from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.reference import gives_hypergradient

TRAIN = 600
STEPS = 60
VECTOR_STEPS = 5


def build() -> keras.Model:
    return keras.Sequential([keras.Input((64,)), keras.layers.Dense(10, kernel_initializer="zeros")])


@cache
def data() -> dict[str, Any]:
    """Digits; of every second training image the label is a random other one."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(y))
    x, y = x[order] / 16.0, y[order]
    labels = y[:TRAIN].copy()
    labels[::2] = (labels[::2] + rng.integers(1, 10, TRAIN // 2)) % 10
    eye = np.eye(10)
    return {
        "train": (x[:TRAIN], eye[labels]),
        "validation": (x[TRAIN:1000], eye[y[TRAIN:1000]]),
        "test": (x[1000:], y[1000:]),
    }


@cache
def problem() -> Any:
    sets = data()
    return hg.Bilevel(
        build,
        loss=hg.cross_entropy,
        train=sets["train"],
        validation=sets["validation"],
        hyperparameters={"l2": hg.l2(), "example_weights": hg.example_weights()},
        optimizer=hg.SGD(0.5, 0.9),
    )


@gives_hypergradient
def train(trial: TrialContext) -> dict[str, float]:
    """Some steps of all weights, and the derivative by the penalty where they end."""
    parent = trial.resume_from
    vector = hg.VectorAdam.start(TRAIN, value=1.0, scale=2.0) if parent is None else hg.VectorAdam.load(parent)
    for _ in range(VECTOR_STEPS):
        found = hg.reverse(problem(), {"l2": trial.config["l2"], "example_weights": vector.value}, steps=STEPS)
        vector = vector.step(found.hypergradient["example_weights"], rate=0.5)
    values = {"l2": trial.config["l2"], "example_weights": vector.value}
    found = hg.reverse(problem(), values, steps=STEPS)
    trial.report_hypergradient(found.hypergradient)
    vector.save(trial.checkpoint)
    x, y = data()["test"]
    accuracy = float((problem().predict(found.state, x, values).argmax(axis=1) == y).mean())
    kept = {"wrong_weight": float(vector.value[::2].mean()), "right_weight": float(vector.value[1::2].mean())}
    return {"val_loss": found.loss, "test_accuracy": accuracy, **kept}
