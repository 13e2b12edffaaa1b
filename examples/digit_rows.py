"""A recurrent network in Keras that reads scikit-learn's images of digits row by row, as sequences of 8 steps."""

from __future__ import annotations

from functools import cache

import keras
import numpy as np
from sklearn.datasets import load_digits

from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.metrics import classification_metrics, log_pictures

EPOCHS = 15
BATCH = 64


@cache
def sequences() -> tuple[np.ndarray, np.ndarray]:
    """Rows of pixels in [0, 1], shape (n, 8 steps, 8 pixels), and labels."""
    images, labels = load_digits(return_X_y=True)
    return (images / 16.0).reshape(-1, 8, 8).astype("float32"), labels


def build(trial: TrialContext) -> keras.Model:
    """The network of a configuration."""
    config = trial.config
    cell = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}[str(config["cell"])]
    model = keras.Sequential([keras.Input((8, 8)), cell(config["units"]), keras.layers.Dense(10, activation="softmax")])
    optimizer = keras.optimizers.Adam(config["learning_rate"])
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], steps_per_execution=8)
    return model


def train(trial: TrialContext) -> dict[str, float]:
    """Train one configuration; its metrics on the sequences that the phase of the study holds out."""
    keras.utils.set_random_seed(trial.seed)
    x, y = sequences()
    rows, held_out = trial.split(len(y), stratify=y)
    trial.log_dataset("digits", x, y)
    model = build(trial)
    report = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: trial.report(epoch, logs))
    model.fit(x[rows], y[rows], batch_size=BATCH, epochs=EPOCHS, callbacks=[report], verbose=0)
    probabilities = model.predict(x[held_out], verbose=0)
    predicted = probabilities.argmax(axis=1)
    trial.on_best(lambda: log_pictures(trial, y[held_out], predicted, probabilities))
    trial.log_model(model, x[held_out][:5])
    return classification_metrics(y[held_out], predicted, probabilities)
