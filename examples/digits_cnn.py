"""A small convolutional network on scikit-learn's images of digits (1,797 of 8x8 pixels), in Keras."""

from __future__ import annotations

from functools import cache

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from hpo_flows.objectives.context import TrialContext

EPOCHS = 8
BATCH = 64
MODEL = "model.keras"


@cache
def digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images in [0, 1], shape (n, 8, 8, 1), and labels; split 60 / 20 / 20, the same for every trial."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16.0).reshape(-1, 8, 8, 1).astype("float32")
    x_train, x_rest, y_train, y_rest = train_test_split(images, labels, test_size=0.4, random_state=0, stratify=labels)
    x_val, x_test, y_val, y_test = train_test_split(x_rest, y_rest, test_size=0.5, random_state=0, stratify=y_rest)
    return {"train": (x_train, y_train), "validation": (x_val, y_val), "test": (x_test, y_test)}


def build(trial: TrialContext) -> keras.Model:
    """The network of a configuration."""
    config = trial.config
    if config["optimizer"] == "sgd":
        optimizer = keras.optimizers.SGD(config["learning_rate"], momentum=config["momentum"])
    else:
        optimizer = keras.optimizers.Adam(config["learning_rate"])
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(config["filters"], 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(config["filters"], 3, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], steps_per_execution=8)
    return model


def shuffled(images: np.ndarray, labels: np.ndarray, seed: int, epoch: tf.Variable) -> tf.data.Dataset:
    """Batches in an order that follows from the seed and the epoch alone."""

    def order(_: tf.Tensor) -> tf.data.Dataset:
        indices = tf.random.experimental.stateless_shuffle(tf.range(len(labels)), seed=[seed, epoch])
        return tf.data.Dataset.from_tensor_slices(indices)

    batches = tf.data.Dataset.from_tensors(0).flat_map(order).batch(BATCH)
    batches = batches.map(lambda some: (tf.gather(images, some), tf.gather(labels, some)))
    return batches.apply(tf.data.experimental.assert_cardinality(-(-len(labels) // BATCH)))


class Report(keras.callbacks.Callback):
    """Reports each epoch, and ends the training when the study's rule says so."""

    def __init__(self, trial: TrialContext, epoch: tf.Variable) -> None:
        super().__init__()
        self.trial, self.epoch = trial, epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.epoch.assign(epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self.model.stop_training = not self.trial.report(epoch, logs)


def train(trial: TrialContext) -> dict[str, float]:
    """Train one configuration; returns its accuracy on the validation and the test images.

    In a study with a fidelity it trains for that many epochs, goes on where its parent trial ended, and leaves its own
    network for the trials after it. The order of the images follows from the seed and the epoch alone, so a training
    that was continued is the same as one that never paused.
    """
    keras.backend.clear_session()  # of what the trial before has left
    keras.utils.set_random_seed(trial.seed)
    data = digits()
    validation = tf.data.Dataset.from_tensor_slices(data["validation"]).batch(512).cache()
    model = build(trial) if trial.resume_from is None else keras.models.load_model(trial.resume_from / MODEL)
    epoch = tf.Variable(0)
    batches = shuffled(*data["train"], trial.seed, epoch)
    done = int(model.optimizer.iterations) // len(batches)
    model.fit(
        batches,
        initial_epoch=done,
        epochs=EPOCHS if trial.fidelity is None else int(trial.fidelity),
        validation_data=validation,
        callbacks=[Report(trial, epoch)],
        shuffle=False,  # the batches are
        verbose=0,
    )
    if trial.fidelity is not None:
        model.save(trial.checkpoint / MODEL)
    val_loss, val_accuracy = model.evaluate(validation, verbose=0)
    test_loss, test_accuracy = model.evaluate(*data["test"], verbose=0)
    trial.log_model(model, data["test"][0][:5])  # kept if the trial is the best so far
    return {"val_accuracy": val_accuracy, "val_loss": val_loss, "test_accuracy": test_accuracy, "test_loss": test_loss}
