"""The objective of study.yaml: a small network on scikit-learn's digits. Replace data and network by your own."""

from __future__ import annotations

from typing import Any

import keras
from sklearn.datasets import load_digits

from hpo_flows.keras import callbacks

EPOCHS = 10

images, labels = load_digits(return_X_y=True)
images = (images / 16).reshape(-1, 8, 8, 1).astype("float32")


def build(config: dict[str, Any]) -> Any:
    """The network of a configuration."""
    network = keras.Sequential([keras.Input((8, 8, 1))])
    network.add(keras.layers.Conv2D(config["filters"], 3, padding="same", activation="relu"))
    network.add(keras.layers.MaxPooling2D())
    network.add(keras.layers.Flatten())
    network.add(keras.layers.Dropout(config["dropout"]))
    network.add(keras.layers.Dense(10, activation="softmax"))
    optimizer = keras.optimizers.Adam(config["learning_rate"])
    network.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return network


def train(trial: Any) -> dict[str, float]:
    """Train a network with the configuration of a trial, and return its metrics on the images that are held out.

    Args:
        trial: A hpo_flows.TrialContext. ``trial.config`` has a value for each parameter of study.yaml,
            ``trial.seed`` is the trial's own seed.
    """
    keras.utils.set_random_seed(trial.seed)
    # The split is the same for every trial. 20 % of the rows are kept for `final:` and `champion:`, and not seen here.
    rows, held_out = trial.split(labels, stratify=labels)
    network = trial.champion  # a model to score instead of training one; None unless study.yaml has `champion:`
    if network is None:
        network = build(trial.config)
        network.fit(
            images[rows],
            labels[rows],
            validation_data=(images[held_out], labels[held_out]),
            batch_size=64,
            epochs=EPOCHS,
            callbacks=callbacks(trial),  # curves in MLflow, and the callbacks of study.yaml
            verbose=0,
        )
    trial.log_model(network, images[held_out][:5])  # kept in MLflow if this is the best trial so far
    loss, accuracy = network.evaluate(images[held_out], labels[held_out], verbose=0)
    return {"val_accuracy": accuracy, "val_loss": loss}
