"""A script as users of KerasTuner write it, for `keras_overhead`: ten trials of five epochs, each in one of three ways.

python -m benchmarks.keras_ten_trials kerastuner|process|none FOLDER
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from benchmarks.keras_digits import digits

TRIALS, EPOCHS = 10, 5


def build_model(hp: Any) -> Any:
    import keras

    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(hp.Int("filters", 8, 64, step=8), 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(hp.Int("units", 32, 128, step=32), activation="relu"),
            keras.layers.Dropout(hp.Float("dropout", 0.0, 0.5)),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    optimizer = keras.optimizers.Adam(hp.Float("learning_rate", 1e-4, 1e-2, sampling="log"))
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main(way: str, folder: str) -> None:
    os.environ["HPO_HOME"] = f"{folder}/home"
    import keras

    kt: Any = importlib.import_module("keras_tuner" if way == "kerastuner" else "hpo_flows.keras")
    more = {} if way == "kerastuner" else {"isolation": way, "progress": False}
    tuner = kt.RandomSearch(
        build_model, "val_accuracy", max_trials=TRIALS, seed=1, directory=folder, project_name="digits", **more
    )
    tuner.search(**digits(), epochs=EPOCHS, verbose=0, callbacks=[keras.callbacks.EarlyStopping(patience=EPOCHS)])
    tuner.get_best_models()
    print(tuner.get_best_hyperparameters()[0].values)


if __name__ == "__main__":
    main(*sys.argv[1:])
