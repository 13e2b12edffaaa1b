"""Hyperband with early stopping; then the best configuration is trained for its best number of epochs."""

import json

import keras
import keras_tuner as kt
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

data = load_digits()
img_train, img_test = (data.images[:800] / 16.0).astype("float32"), (data.images[800:1100] / 16.0).astype("float32")
label_train, label_test = data.target[:800], data.target[800:1100]


def model_builder(hp):
    model = keras.Sequential()
    model.add(keras.layers.Flatten(input_shape=(8, 8)))
    # Tune the number of units in the first Dense layer
    hp_units = hp.Int("units", min_value=32, max_value=128, step=32)
    model.add(keras.layers.Dense(units=hp_units, activation="relu"))
    model.add(keras.layers.Dense(10))
    # Tune the learning rate of the optimizer
    hp_learning_rate = hp.Choice("learning_rate", values=[1e-2, 1e-3, 1e-4])
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate=hp_learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


tuner = kt.Hyperband(
    model_builder, objective="val_accuracy", max_epochs=3, factor=3, directory="my_dir", project_name="intro_to_kt"
)
stop_early = tf.keras.callbacks.EarlyStopping(monitor="val_loss", patience=5)
tuner.search(img_train, label_train, epochs=3, validation_split=0.2, callbacks=[stop_early])

best_hps = tuner.get_best_hyperparameters(num_trials=1)[0]
print(f"""
The hyperparameter search is complete. The optimal number of units in the first densely-connected
layer is {best_hps.get("units")} and the optimal learning rate for the optimizer
is {best_hps.get("learning_rate")}.
""")

model = tuner.hypermodel.build(best_hps)
history = model.fit(img_train, label_train, epochs=3, validation_split=0.2, verbose=0)
per_epoch = history.history["val_accuracy"]
best_epoch = per_epoch.index(max(per_epoch)) + 1
hypermodel = tuner.hypermodel.build(best_hps)
hypermodel.fit(img_train, label_train, epochs=best_epoch, validation_split=0.2, verbose=0)
result = hypermodel.evaluate(img_test, label_test, verbose=0)
print("[test loss, test accuracy]:", result)

print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "score": tuner.oracle.get_best_trials(1)[0].score,
            "keys": sorted(set(best_hps.values) - {"tuner/trial_id"}),  # only a promoted trial has it
            "epochs_known": best_hps.get("tuner/epochs") in range(1, 4),
            "test_score": result[1],
            "shape": list(np.shape(hypermodel.predict(img_test, verbose=0))),
        }
    )
)
