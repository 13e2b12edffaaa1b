"""A program of one's own around an oracle: trials are asked for, trained and told by hand."""

import json

import keras
import keras_tuner as kt
from keras_tuner.engine.hyperparameters import HyperParameters
from keras_tuner.engine.trial import TrialStatus
from keras_tuner.oracles import RandomSearchOracle
from sklearn.datasets import load_iris

x, y = load_iris(return_X_y=True)

hp = HyperParameters()
hp.Int("units", 4, 16, step=4)
hp.Choice("activation", ["relu", "tanh"])
hp.Float("lr", 1e-3, 1e-1, sampling="log")


class ByHand(kt.Tuner):
    """Its search is what a user wrote around create_trial and end_trial."""

    def run_trial(self, trial, x, y, **kwargs):
        model = self.hypermodel.build(trial.hyperparameters)
        history = model.fit(x, y, validation_split=0.2, verbose=0, **kwargs)
        for epoch, value in enumerate(history.history["val_loss"]):
            self.oracle.update_trial(trial.trial_id, {"val_loss": value}, step=epoch)


def build_model(hp):
    model = keras.Sequential([keras.Input((4,))])
    model.add(keras.layers.Dense(hp.get("units"), activation=hp["activation"]))
    model.add(keras.layers.Dense(3, activation="softmax"))
    model.compile(keras.optimizers.Adam(hp.get("lr")), "sparse_categorical_crossentropy")
    return model


oracle = RandomSearchOracle(
    objective=kt.Objective("val_loss", direction="min"),
    max_trials=4,
    hyperparameters=hp,
    allow_new_entries=False,
    tune_new_entries=False,
    seed=8,
)
tuner = ByHand(oracle=oracle, hypermodel=build_model, directory="by_hand", project_name="iris", overwrite=True)
tuner.search(x, y, epochs=2)

statuses = {trial_id: trial.status for trial_id, trial in tuner.oracle.trials.items()}
best = oracle.get_best_trials(num_trials=2)
print(best[0].get_state()["hyperparameters"]["values"])
restored = HyperParameters.from_config(best[0].hyperparameters.get_config())
print(
    json.dumps(
        {
            "trials": len(oracle.trials),
            "score": best[0].score,
            "all_completed": set(statuses.values()) == {TrialStatus.COMPLETED},
            "sorted": bool(best[0].score <= best[1].score),
            "remaining": tuner.remaining_trials,
            "same_values": restored.values == best[0].hyperparameters.values,
            "keys": sorted(restored.values),
            "steps": len(best[0].metrics.get_history("val_loss")),
            "shape": list(tuner.hypermodel.build(restored).predict(x, verbose=0).shape),
        }
    )
)
