"""Two kinds of models, each with hyperparameters of its own; nested conditions."""

import json

import keras
import keras_tuner as kt
from sklearn.datasets import load_iris

x, y = load_iris(return_X_y=True)


def build_model(hp):
    model = keras.Sequential([keras.Input((4,))])
    model_type = hp.Choice("model_type", ["linear", "mlp"], default="mlp")
    with hp.conditional_scope("model_type", ["mlp"]):
        if model_type == "mlp":
            depth = hp.Int("depth", 1, 2)
            for i in range(2):
                with hp.conditional_scope("depth", list(range(i + 1, 3))):
                    if i < depth:
                        units = hp.Int(f"layer {i} (units)", 4, 16, step=4)
                        model.add(keras.layers.Dense(units, activation="relu"))
    with hp.conditional_scope("model_type", "linear"):
        if model_type == "linear" and hp.Boolean("l1"):
            model.add(keras.layers.ActivityRegularization(l1=1e-3))
    model.add(keras.layers.Dense(3, activation="softmax"))
    hp.Fixed("classes", 3)
    kind = hp.Choice("optimizer", ["sgd", "adam"])
    momentum = hp.Float("momentum", 0.1, 0.9, parent_name="optimizer", parent_values=["sgd"])
    optimizer = keras.optimizers.SGD(0.05, momentum=momentum) if kind == "sgd" else keras.optimizers.Adam(0.05)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


tuner = kt.RandomSearch(
    build_model, objective="accuracy", max_trials=5, seed=11, directory="d", project_name="iris/conditions"
)
tuner.search_space_summary(extended=True)
tuner.search(x, y, epochs=2, verbose=0)

problems = []
for trial in tuner.oracle.trials.values():
    hp = trial.hyperparameters
    if hp.get("optimizer") == "sgd" and not 0.1 <= hp.get("momentum") <= 0.9:
        problems.append("momentum")
    if hp.get("model_type") == "mlp" and "layer 0 (units)" not in hp.values:
        problems.append("units")
best = tuner.get_best_hyperparameters()[0]
print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "score": tuner.oracle.get_best_trials(1)[0].score,
            "problems": problems,
            "space": sorted({each.name for each in tuner.oracle.get_space().space}),
            "classes": best["classes"],
            "shape": list(tuner.get_best_models()[0].predict(x, verbose=0).shape),
        }
    )
)
