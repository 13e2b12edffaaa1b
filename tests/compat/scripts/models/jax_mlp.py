"""A small network on JAX, with Hyperband."""

import os

os.environ["KERAS_BACKEND"] = "jax"

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
    model.add(keras.layers.Flatten())
    for i in range(hp.Int("layers", 1, 2)):
        model.add(keras.layers.Dense(hp.Int(f"units_{i}", 8, 32, step=8), activation="relu"))
    model.add(keras.layers.Dropout(hp.Float("dropout", 0.1, 0.3)))
    model.add(keras.layers.Dense(10, activation="softmax"))
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=hp.Float("lr", 1e-3, 1e-2, sampling="log")),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


tuner = kt.Hyperband(build_model, objective="val_accuracy", max_epochs=3, overwrite=True, project_name="on_jax")
tuner.search(x_train, y_train, callbacks=[keras.callbacks.EarlyStopping(patience=2)], validation_data=(x_val, y_val))

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
