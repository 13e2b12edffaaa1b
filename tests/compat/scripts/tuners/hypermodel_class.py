"""A HyperModel whose fit tunes training, too; ranges given from outside, everything else fixed."""

import json

import keras
import keras_tuner
import numpy as np


class Regression(keras_tuner.HyperModel):
    def __init__(self, outputs, **kwargs):
        super().__init__(**kwargs)
        self.outputs = outputs

    def build(self, hp):
        model = keras.Sequential()
        model.add(keras.layers.Dense(hp.Choice("units", [8, 16, 32]), activation="relu"))
        if hp.Boolean("batch_norm"):
            model.add(keras.layers.BatchNormalization())
        model.add(keras.layers.Dense(self.outputs))
        model.compile(keras.optimizers.Adam(hp.Float("lr", 1e-4, 1e-2, sampling="log")), loss="mse", metrics=["mse"])
        return model

    def fit(self, hp, model, x, y, *args, validation_data=None, **kwargs):
        if hp.Boolean("normalize"):
            x = (x - x.mean(0)) / x.std(0)
        return model.fit(
            x,
            y,
            *args,
            validation_data=validation_data,
            batch_size=hp.Choice("batch_size", [16, 32, 64]),
            shuffle=hp.Boolean("shuffle", default=True),
            **kwargs,
        )


rng = np.random.default_rng(0)
x = rng.random((300, 6)).astype("float32")
y = (x @ rng.random((6, 2))).astype("float32")

hp = keras_tuner.HyperParameters()
hp.Float("lr", min_value=1e-3, max_value=3e-2, sampling="log")
hp.Fixed("units", value=16)

tuner = keras_tuner.RandomSearch(
    Regression(outputs=2, name="regression"),
    hyperparameters=hp,
    tune_new_entries=True,
    objective="val_mse",
    max_trials=3,
    directory="regression",
    project_name="override",
    loss="mae",
    overwrite=True,
)
tuner.search(x[:200], y[:200], epochs=2, validation_data=(x[200:], y[200:]))

best_hp = tuner.get_best_hyperparameters()[0]
hypermodel = Regression(outputs=2)
model = hypermodel.build(best_hp)
history = hypermodel.fit(best_hp, model, x, y, epochs=1, verbose=0)
print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "score": tuner.oracle.get_best_trials(1)[0].score,
            "keys": sorted(best_hp.values),
            "units": best_hp.get("units"),
            "lr_in_range": 1e-3 <= best_hp.get("lr") <= 3e-2,
            "epochs": len(history.epoch),
            "shape": list(model.predict(x, verbose=0).shape),
        }
    )
)
