"""A small convolutional network on Fashion-MNIST (70,000 images of clothes, 28x28), in Keras."""

from __future__ import annotations

import gzip
import os
from functools import cache
from pathlib import Path

import keras
import numpy as np

from hpo_flows.objectives.context import TrialContext
from hpo_flows.objectives.metrics import classification_metrics, log_pictures

FOLDERS = ("~/.keras/datasets/fashion-mnist", "/usr/share/datasets/fashion-mnist")
"""Where ``keras.datasets.fashion_mnist.load_data()`` and Debian's package ``dataset-fashion-mnist`` put it."""

CLASSES = ["t-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
EPOCHS = 6
BATCH = 128


@cache
def clothes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images in [0, 1], shape (n, 28, 28, 1), labels, and which rows are the data set's own test images.

    Raises:
        FileNotFoundError: The data set is not on this machine; the message says how to get it.
    """
    given = os.environ.get("FASHION_MNIST")
    folders = [Path(folder).expanduser() for folder in ([given] if given else FOLDERS)]
    arrays = next((found for folder in folders if (found := _read(folder)) is not None), None)
    if arrays is None:
        looked = ", ".join(str(folder) for folder in folders)
        raise FileNotFoundError(
            f"Fashion-MNIST is not in {looked}; install Debian's package dataset-fashion-mnist, run "
            "keras.datasets.fashion_mnist.load_data() once where there is a network, or name the folder that holds its "
            "four .gz files, or an .npz file of them, in the variable FASHION_MNIST"
        )
    x_train, y_train, x_test, y_test = arrays
    images = np.concatenate([x_train, x_test]).reshape(-1, 28, 28, 1).astype("float32") / 255
    labels = np.concatenate([y_train, y_test]).astype("int64").reshape(-1)
    return images, labels, np.arange(len(y_train), len(labels))


def _read(folder: Path) -> list[np.ndarray] | None:
    """``x_train, y_train, x_test, y_test`` from a folder; None if it does not hold them."""
    if packed := sorted(folder.glob("*.npz")):
        with np.load(packed[0]) as file:
            return [file[name] for name in ("x_train", "y_train", "x_test", "y_test")]
    names = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    if not all((folder / name).is_file() for name in names):
        return None
    # An idx file: a head of 4 bytes and 4 more a dimension, then one byte a value.
    heads = (16, 8, 16, 8)
    return [
        np.frombuffer(gzip.decompress((folder / name).read_bytes()), np.uint8, offset=head)
        for name, head in zip(names, heads, strict=True)
    ]


def build(trial: TrialContext) -> keras.Model:
    """The network of a configuration."""
    config = trial.config
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(config["filters"], 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(2 * config["filters"], 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dropout(config["dropout"]),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    optimizer = keras.optimizers.Adam(config["learning_rate"])
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"], steps_per_execution=16)
    return model


def train(trial: TrialContext) -> dict[str, float]:
    """Train one configuration; its metrics on the images that the phase of the study holds out."""
    keras.utils.set_random_seed(trial.seed)
    images, labels, test = clothes()
    rows, held_out = trial.split(len(labels), stratify=labels, test=test, validation=1 / 6)
    trial.log_dataset("fashion-mnist", images, labels)
    model = build(trial)
    report = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: trial.report(epoch, logs))
    model.fit(images[rows], labels[rows], batch_size=BATCH, epochs=EPOCHS, callbacks=[report], verbose=0)
    probabilities = model.predict(images[held_out], batch_size=512, verbose=0)
    names, truth = np.array(CLASSES), labels[held_out]
    trial.on_best(
        lambda: log_pictures(trial, names[truth], names[probabilities.argmax(axis=1)], probabilities, CLASSES)
    )
    trial.log_model(model, images[held_out][:5])
    return classification_metrics(truth, probabilities.argmax(axis=1), probabilities)
