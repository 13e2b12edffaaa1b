"""A script as it is written for KerasTuner, on scikit-learn's images of digits; only its import is another.

    python -m examples.keras_tuner_style [FOLDER]

Run it again and it goes on: the study is stored in FOLDER (``mlflow.db``), or where MLFLOW_TRACKING_URI says.
"""

from __future__ import annotations

import sys

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import hpo_flows.keras as kt  # instead of: import keras_tuner as kt


def build_model(hp: kt.HyperParameters) -> keras.Model:
    """Dense layers, as many and as wide as ``hp`` says."""
    model = keras.Sequential([keras.Input((64,))])
    for i in range(hp.Int("layers", 1, 3)):
        model.add(keras.layers.Dense(hp.Int(f"units_{i}", 16, 64, step=16), activation="relu"))
    if hp.Boolean("dropout"):
        model.add(keras.layers.Dropout(hp.Float("rate", 0.1, 0.5)))
    model.add(keras.layers.Dense(10, activation="softmax"))
    optimizer = keras.optimizers.Adam(hp.Float("learning_rate", 1e-4, 1e-1, sampling="log"))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main(folder: str | None = None) -> None:
    images, labels = load_digits(return_X_y=True)
    x, x_val, y, y_val = train_test_split(
        (images / 16.0).astype("float32"), labels, test_size=0.3, random_state=0, stratify=labels
    )
    tuner = kt.Hyperband(
        build_model,
        objective="val_accuracy",
        max_epochs=9,
        factor=3,
        directory=folder,
        project_name="digits-hyperband",
    )
    tuner.search_space_summary()
    stop = keras.callbacks.EarlyStopping("val_loss", patience=3, restore_best_weights=True)
    tuner.search(x, y, validation_data=(x_val, y_val), callbacks=[stop])
    tuner.results_summary(3)
    print(tuner.get_best_hyperparameters()[0].values)
    (model,) = tuner.get_best_models()
    print("loss and accuracy of the best model:", model.evaluate(x_val, y_val, verbose=0))


if __name__ == "__main__":
    main(*sys.argv[1:2])
