"""run_trial without Keras models: what is tuned is any function; files go to the trial's folder."""

import json
import os
import pickle

import keras_tuner
from sklearn.datasets import load_wine
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

x, y = load_wine(return_X_y=True)


class SVMTuner(keras_tuner.RandomSearch):
    def run_trial(self, trial, x, y, folds):
        hp = trial.hyperparameters
        model = SVC(C=hp.Float("C", 0.1, 100, sampling="log"), kernel=hp.Choice("kernel", ["linear", "rbf"]))
        scores = cross_val_score(model, x, y, cv=folds)
        self.save_model(trial.trial_id, model.fit(x, y))
        return {"accuracy": float(scores.mean()), "spread": float(scores.std())}

    def save_model(self, trial_id, model, step=0):
        path = os.path.join(self.get_trial_dir(trial_id), "model.pickle")
        with open(path, "wb") as file:
            pickle.dump(model, file)

    def load_model(self, trial):
        with open(os.path.join(self.get_trial_dir(trial.trial_id), "model.pickle"), "rb") as file:
            return pickle.load(file)


tuner = SVMTuner(
    objective=keras_tuner.Objective("accuracy", "max"),
    max_trials=5,
    directory="svm",
    project_name="wine",
    overwrite=True,
)
tuner.search(x, y, folds=3)
tuner.results_summary()

best = tuner.get_best_models(1)[0]
trial = tuner.oracle.get_best_trials()[0]
print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "score": trial.score,
            "spread": trial.metrics.get_last_value("spread"),
            "keys": sorted(trial.hyperparameters.values),
            "project_dir": os.path.isdir(tuner.project_dir),
            "shape": list(best.predict(x).shape),
        }
    )
)
