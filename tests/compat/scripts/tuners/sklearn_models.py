"""scikit-learn's models, cross-validated by SklearnTuner."""

import json

import keras_tuner as kt
from sklearn import datasets, ensemble, linear_model, metrics, model_selection, pipeline, preprocessing


def build_model(hp):
    kind = hp.Choice("model_type", ["forest", "logistic"])
    if kind == "forest":
        with hp.conditional_scope("model_type", "forest"):
            return ensemble.RandomForestClassifier(
                n_estimators=hp.Int("n_estimators", 5, 25, step=5),
                max_depth=hp.Int("max_depth", 2, 8),
                random_state=0,
            )
    with hp.conditional_scope("model_type", "logistic"):
        c = hp.Float("C", 1e-3, 10, sampling="log")
        return pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression(C=c))


tuner = kt.tuners.SklearnTuner(
    oracle=kt.oracles.BayesianOptimizationOracle(objective=kt.Objective("score", "max"), max_trials=5, seed=1),
    hypermodel=build_model,
    scoring=metrics.make_scorer(metrics.accuracy_score),
    metrics=[metrics.f1_score],
    cv=model_selection.StratifiedKFold(4),
    directory="sk",
    project_name="cancer",
)

X, y = datasets.load_breast_cancer(return_X_y=True)
X_train, X_test, y_train, y_test = model_selection.train_test_split(X, y, test_size=0.2, random_state=0)
tuner.search(X_train, y_train)

best_model = tuner.get_best_models(num_models=1)[0]
best_model.fit(X_train, y_train)
trial = tuner.oracle.get_best_trials()[0]
print(
    json.dumps(
        {
            "trials": len(tuner.oracle.trials),
            "score": trial.score,
            "f1": trial.metrics.get_last_value("f1_score"),
            "test_score": float(best_model.score(X_test, y_test)),
            "kind_is_chosen": trial.hyperparameters.get("model_type") in ("forest", "logistic"),
            "shape": list(best_model.predict(X_test).shape),
        }
    )
)
