"""A network on scikit-learn's digits whose regularisation and learning rates follow their gradient."""

from __future__ import annotations

from functools import cache
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits

from hpo_flows import hypergradient as hg
from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.reference import gives_hypergradient

STEPS, LAST = 200, 100
SEED = 0
"""The same for all trials: the loss of two steps of a chain then differs by nothing but the step."""


def build() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu", name="first"),
            hg.RelaxedDropout(name="dropout"),
            keras.layers.Dense(10, name="last"),
        ]
    )


@cache
def problem() -> Any:
    """Kept from trial to trial, as TensorFlow takes seconds to trace it; 300 images to train on, 600 to validate."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x, y = (images[order] / 16.0).reshape(-1, 8, 8, 1), np.eye(10)[labels[order]]
    start, end = hg.learning_rate_knots(2)
    return hg.Bilevel(
        build,
        loss=hg.cross_entropy,
        train=(x[:300], y[:300]),
        validation=(x[300:900], y[300:900]),
        hyperparameters={
            "learning_rate_start": start,
            "learning_rate_end": end,
            "momentum": hg.momentum(),
            "l2_first": hg.l2(["first"]),
            "l2_last": hg.l2(["last"]),
            "dropout": hg.dropout("dropout"),
            "label_smoothing": hg.label_smoothing(),
            "shift": hg.shift(),
        },
        batch=50,
    )


@gives_hypergradient
def train(trial: TrialContext) -> dict[str, float]:
    """The validation loss of a configuration, and its derivative by all eight of them."""
    found = hg.reverse(problem(), trial.config, steps=STEPS, last=LAST, seed=SEED)
    trial.report_hypergradient(found.hypergradient)
    return {"val_loss": found.loss, "peak_memory_mib": found.peak / 2**20}
