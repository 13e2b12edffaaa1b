"""The imports of older scripts, and everything that can be printed about a search."""

import contextlib
import io
import json

from keras_tuner.engine.hyperparameters import HyperParameters
from keras_tuner.tuners import RandomSearch
from sklearn.datasets import load_iris
from tensorflow import keras
from tensorflow.keras import layers

(x, y) = load_iris(return_X_y=True)


def build_model(hp: HyperParameters):
    model = keras.Sequential()
    for i in range(hp.Int("num_layers", 2, 3)):
        model.add(
            layers.Dense(
                units=hp.Int("units_" + str(i), min_value=4, max_value=16, step=4),
                activation=hp.Choice("act_" + str(i), ["relu", "sigmoid"]),
            )
        )
    model.add(layers.Dense(3, activation="softmax"))
    model.compile(
        optimizer=keras.optimizers.Adam(hp.Choice("learning_rate", [1e-2, 1e-3])),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


tuner = RandomSearch(
    build_model,
    objective="val_accuracy",
    max_trials=3,
    executions_per_trial=1,
    directory="project",
    project_name="Iris flowers",
)


def printed(function, *args, **kwargs):
    """What a function prints, which is shown as well."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        function(*args, **kwargs)
    print(out.getvalue())
    return out.getvalue()


space = printed(tuner.search_space_summary)
searched = printed(tuner.search, x, y, epochs=1, validation_data=(x, y))
results = printed(tuner.results_summary)
one = printed(tuner.oracle.get_best_trials(1)[0].summary)


def holds(text, *parts):
    return [part in text for part in parts]


print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "score": tuner.oracle.get_best_trials(1)[0].score,
            "space": holds(
                space, "Search space summary", "Default search space size: ", "num_layers (Int)", "'ordered': True"
            ),
            "search": holds(
                searched, "Trial 3 Complete", "Best val_accuracy So Far: ", "Total elapsed time: ", "Best Value So Far"
            ),
            "results": holds(
                results,
                "Results summary",
                "Results in ",
                "Showing 10 best trials",
                "Score: ",
                "Trial 0",
                "Hyperparameters:",
            ),
            "one": holds(one, "summary", "Hyperparameters:", "num_layers: ", "learning_rate: ", "Score: "),
            "shape": list(tuner.get_best_models(1)[0].predict(x, verbose=0).shape),
        }
    )
)
