"""A CNN on PyTorch."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import json

import keras
import keras_tuner as kt
from sklearn.datasets import load_digits

x, y = load_digits(return_X_y=True)
x = (x / 16).reshape(-1, 8, 8, 1).astype("float32")
x_train, y_train, x_val, y_val = x[:600], y[:600], x[600:800], y[600:800]


def build_model(hp):
    model = keras.Sequential()
    model.add(keras.Input((8, 8, 1)))
    for i in range(hp.Int("layers", 1, 2)):
        model.add(keras.layers.Conv2D(hp.Int(f"filters_{i}", 4, 16, step=4), 3, padding="same", activation="relu"))
        model.add(keras.layers.MaxPooling2D())
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dropout(hp.Float("dropout", 0.1, 0.3)))
    model.add(keras.layers.Dense(10, activation="softmax"))
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=hp.Float("lr", 1e-3, 1e-2, sampling="log")),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


tuner = kt.RandomSearch(build_model, objective="val_accuracy", max_trials=3, overwrite=True, project_name="on_torch")
tuner.search(x_train, y_train, epochs=1, validation_data=(x_val, y_val))

best_model = tuner.get_best_models()[0]
print(
    json.dumps(
        {
            "backend": keras.backend.backend(),
            "trials": len(tuner.oracle.trials),
            "score": tuner.oracle.get_best_trials(1)[0].score,
            "shape": list(best_model.predict(x_val, verbose=0).shape),
        }
    )
)
