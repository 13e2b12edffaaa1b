"""Rare positives: class weights, several metrics, and the area under the curve as the objective."""

import json

import keras
import keras_tuner as kt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight

X, y = load_breast_cancer(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, stratify=y, random_state=0)
scaler = StandardScaler().fit(X_train)
X_train, X_test = scaler.transform(X_train), scaler.transform(X_test)

weights = compute_class_weight("balanced", classes=np.unique(y_train), y=y_train)
class_weight = dict(enumerate(weights))

METRICS = [
    keras.metrics.BinaryAccuracy(name="accuracy"),
    keras.metrics.Precision(name="precision"),
    keras.metrics.Recall(name="recall"),
    keras.metrics.AUC(name="auc"),
]


def build_model(hp):
    model = keras.Sequential([keras.Input((X_train.shape[1],))])
    for i in range(hp.Int("num_layers", 1, 2)):
        with hp.conditional_scope("num_layers", list(range(i + 1, 2 + 1))):
            model.add(
                keras.layers.Dense(
                    units=hp.Int("units_" + str(i), min_value=8, max_value=32, step=8),
                    activation=hp.Choice("act_" + str(i), ["relu", "elu"]),
                    kernel_regularizer=keras.regularizers.l2(hp.Float("l2_" + str(i), 1e-5, 1e-2, sampling="log")),
                )
            )
    model.add(keras.layers.Dense(1, activation="sigmoid"))
    model.compile(optimizer="adam", loss="binary_crossentropy", metrics=METRICS)
    return model


tuner = kt.RandomSearch(
    build_model,
    objective=kt.Objective("val_auc", direction="max"),
    max_trials=3,
    executions_per_trial=2,
    directory="cancer",
    project_name="weights",
    seed=5,
)
tuner.search(X_train, y_train, epochs=2, validation_data=(X_test, y_test), class_weight=class_weight, verbose=0)

trial = tuner.oracle.get_best_trials(1)[0]
best_model = tuner.hypermodel.build(trial.hyperparameters)
best_model.fit(X_train, y_train, epochs=2, class_weight=class_weight, verbose=0)
print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "status": sorted({each.status for each in tuner.oracle.trials.values()}),
            "score": trial.score,
            "recall": trial.metrics.get_last_value("val_recall"),
            "metrics": sorted(
                name for name in ("val_auc", "val_precision", "recall", "loss") if trial.metrics.exists(name)
            ),
            "shape": list(best_model.predict(X_test, verbose=0).shape),
        }
    )
)
