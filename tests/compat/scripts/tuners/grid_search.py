"""Every combination of a small grid, once; a second search adds nothing."""

import json

import keras
import keras_tuner
from sklearn.datasets import load_wine
from sklearn.preprocessing import scale

x, y = load_wine(return_X_y=True)
x = scale(x)


def build_model(hp):
    model = keras.Sequential()
    model.add(keras.Input((13,)))
    model.add(keras.layers.Dense(hp.Int("units", min_value=8, max_value=24, step=8), activation="relu"))
    if hp.Boolean("dropout"):
        model.add(keras.layers.Dropout(rate=0.25))
    model.add(keras.layers.Dense(3, activation="softmax"))
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


build_model(keras_tuner.HyperParameters())

tuner = keras_tuner.GridSearch(
    hypermodel=build_model,
    objective="val_accuracy",
    executions_per_trial=1,
    overwrite=True,
    directory="grid",
    project_name="wine",
)
tuner.search(x, y, epochs=1, validation_split=0.3, verbose=0)
tuner.search(x, y, epochs=1, validation_split=0.3, verbose=0)

combinations = sorted({tuple(sorted(t.hyperparameters.values.items())) for t in tuner.oracle.trials.values()})
print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "combinations": [list(map(list, each)) for each in combinations],
            "score": tuner.oracle.get_best_trials(1)[0].score,
            "keys": sorted(tuner.get_best_hyperparameters()[0].values),
            "models": len(tuner.get_best_models(num_models=3)),
            "shape": list(tuner.get_best_models()[0].predict(x, verbose=0).shape),
        }
    )
)
