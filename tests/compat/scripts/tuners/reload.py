"""A search that is picked up: by a second tuner with overwrite=False, before and after more trials."""

import json

import keras
import keras_tuner as kt
from sklearn.datasets import load_iris

x, y = load_iris(return_X_y=True)


def build_model(hp):
    model = keras.Sequential([keras.Input((4,))])
    model.add(keras.layers.Dense(hp.Int("units", 4, 32, step=4), activation="relu"))
    model.add(keras.layers.Dense(3, activation="softmax"))
    model.compile(
        keras.optimizers.Adam(hp.Float("lr", 1e-3, 1e-1, sampling="log")),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def make_tuner(max_trials, overwrite=False):
    return kt.BayesianOptimization(
        build_model,
        objective=kt.Objective("accuracy", "max"),
        max_trials=max_trials,
        seed=1,
        directory="kept",
        project_name="iris",
        overwrite=overwrite,
    )


first = make_tuner(2, overwrite=True)
first.search(x, y, epochs=1, verbose=0)
best = first.get_best_hyperparameters()[0].values

second = make_tuner(4, overwrite=False)
known = len(second.oracle.trials)
same_best = second.get_best_hyperparameters()[0].values == best
model = second.get_best_models()[0]
second.search(x, y, epochs=1, verbose=0)

third = make_tuner(4)
third.search(x, y, epochs=1, verbose=0)  # nothing is left to do
third.reload()
print(
    json.dumps(
        {
            "known": known,
            "same_best": same_best,
            "trials": [len(second.oracle.trials), len(third.oracle.trials)],
            "score": third.oracle.get_best_trials(1)[0].score,
            "keys": sorted(third.get_best_hyperparameters()[0].values),
            "shape": list(model.predict(x, verbose=0).shape),
        }
    )
)
