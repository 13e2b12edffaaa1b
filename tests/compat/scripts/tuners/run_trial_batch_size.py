"""The most common override: batch size and epochs are hyperparameters, set in run_trial."""

import json

import keras
import keras_tuner as kt
from sklearn.datasets import load_digits

x, y = load_digits(return_X_y=True)
x = x / 16


def build_model(hp):
    model = keras.Sequential([keras.Input((64,))])
    model.add(keras.layers.Dense(hp.Int("units", 16, 64, step=16), activation="relu"))
    model.add(keras.layers.Dense(10, activation="softmax"))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class MyTuner(kt.tuners.BayesianOptimization):
    def run_trial(self, trial, *args, **kwargs):
        kwargs["batch_size"] = trial.hyperparameters.Int("batch_size", 32, 128, step=32)
        kwargs["epochs"] = trial.hyperparameters.Int("epochs", 1, 3)
        return super().run_trial(trial, *args, **kwargs)


class Counts(keras.callbacks.Callback):
    """Prints what fit was called with."""

    def on_train_begin(self, logs=None):
        print("steps", self.params["steps"], "epochs", self.params["epochs"])


tuner = MyTuner(
    build_model, objective="val_accuracy", max_trials=4, overwrite=True, directory="sizes", project_name="digits"
)
tuner.search(x[:640], y[:640], validation_data=(x[640:900], y[640:900]), callbacks=[Counts()])
tuner.results_summary(num_trials=2)

best_hps = tuner.get_best_hyperparameters()[0]
histories = [len(t.metrics.get_history("val_accuracy")) for t in tuner.oracle.trials.values()]
best = tuner.get_best_models()[0]
print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "score": tuner.oracle.get_best_trials(1)[0].score,
            "keys": sorted(best_hps.values),
            "steps_in_range": all(0 <= t.best_step < t.hyperparameters["epochs"] for t in tuner.oracle.trials.values()),
            "histories": sorted(set(histories)),
            "shape": list(best.predict(x[900:], verbose=0).shape),
        }
    )
)
