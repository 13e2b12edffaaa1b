"""The network that `keras_memory` and `keras_overhead` train: small, and over and over again."""

from __future__ import annotations

from functools import cache
from typing import Any

from hpo_flows.keras.space.hyperparameters import HyperParameters
from hpo_flows.keras.training.objective import keras_objective
from hpo_flows.objectives.context import TrialContext


@cache
def digits() -> dict[str, Any]:
    """scikit-learn's images of digits, as arguments of ``model.fit``."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = (images / 16.0).reshape(-1, 8, 8, 1).astype("float32")
    return {"x": x[:1200], "y": labels[:1200], "validation_data": (x[1200:], labels[1200:]), "batch_size": 64}


def build_model(hp: HyperParameters) -> Any:
    """Two convolutions."""
    import keras

    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(hp.Int("filters", 8, 64), 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(hp.Int("filters", 8, 64), 3, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def bare(trial: TrialContext, epochs: int = 2) -> float:
    """The training of a trial without anything around it; returns its last validation accuracy."""
    import keras

    keras.utils.set_random_seed(trial.seed)
    history = build_model(HyperParameters(trial.config)).fit(**digits(), epochs=epochs, verbose=0)
    keras.backend.clear_session()
    return float(history.history["val_accuracy"][-1])


objective = keras_objective(build_model, digits, epochs=2, objective="val_accuracy", keep_model=True)
