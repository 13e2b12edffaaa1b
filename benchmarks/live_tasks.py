"""The live tasks: a few scikit-learn models on its bundled data, and what there is to tune of each.

Those at even positions are for decisions, the others confirm them, as in the suite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sklearn import ensemble, neighbors, neural_network, svm, tree
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from hpo_core.space.parameters import Boolean, Choice, Float, Int, Ordinal
from hpo_core.space.search_space import SearchSpace

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Task:
    """A model to tune.

    Args:
        data: Which of scikit-learn's bundled data.
        rows: How many of its rows; 0 for all.
        loss: ``error``, ``log_loss`` or ``unexplained`` (1 - R2).
        space: Its search space.
        model: The estimator of a configuration and a seed.
    """

    data: str
    rows: int
    loss: str
    space: SearchSpace
    model: Callable[[Config, int], Any]


def _svm_space(low: float, high: float) -> SearchSpace:
    curved = ["rbf", "poly", "sigmoid"]
    return SearchSpace(
        {
            "kernel": Choice(choices=["linear", *curved]),
            "C": Float(low=low, high=high, log=True),
            "gamma": Float(low=1e-5, high=10.0, log=True, when={"kernel": curved}),
            "degree": Int(low=2, high=5, when={"kernel": ["poly"]}),
            "coef0": Float(low=-1.0, high=1.0, when={"kernel": ["poly", "sigmoid"]}),
        }
    )


def _svc(config: Config, seed: int) -> Any:
    return make_pipeline(StandardScaler(), svm.SVC(**config, max_iter=20_000))


def _svr(config: Config, seed: int) -> Any:
    return make_pipeline(StandardScaler(), svm.SVR(**config, max_iter=20_000))


def _knn_space(features: int) -> SearchSpace:
    return SearchSpace(
        {
            "scale": Choice(choices=["standard", "range", "none"]),
            "components": Int(low=1, high=features),
            "n_neighbors": Int(low=1, high=100, log=True),
            "weights": Choice(choices=["uniform", "distance"]),
            "p": Float(low=1.0, high=5.0),
        }
    )


_TREE = SearchSpace(
    {
        "criterion": Choice(choices=["gini", "entropy", "log_loss"]),
        "splitter": Choice(choices=["best", "random"]),
        "max_depth": Int(low=1, high=20),
        "min_samples_split": Int(low=2, high=60, log=True),
        "min_samples_leaf": Int(low=1, high=60, log=True),
        "max_features": Float(low=0.05, high=1.0),
        "ccp_alpha": Float(low=1e-5, high=0.1, log=True),
    }
)
_FOREST = SearchSpace(
    {
        "n_estimators": Int(low=3, high=40, log=True),
        "max_features": Float(low=0.02, high=1.0, log=True),
        "max_depth": Int(low=2, high=20),
        "min_samples_leaf": Int(low=1, high=20, log=True),
        "bootstrap": Boolean(),
        "max_samples": Float(low=0.1, high=1.0, when={"bootstrap": [True]}),
    }
)
_BOOSTING = SearchSpace(
    {
        "learning_rate": Float(low=0.005, high=1.0, log=True),
        "n_estimators": Int(low=5, high=80, log=True),
        "max_depth": Int(low=1, high=5),
        "subsample": Float(low=0.3, high=1.0),
        "max_features": Float(low=0.1, high=1.0),
        "min_samples_leaf": Int(low=1, high=30, log=True),
    }
)
_HIST_BOOSTING = SearchSpace(
    {
        "learning_rate": Float(low=0.01, high=1.0, log=True),
        "max_iter": Int(low=3, high=40, log=True),
        "max_leaf_nodes": Int(low=2, high=31, log=True),
        "min_samples_leaf": Int(low=1, high=50, log=True),
        "l2_regularization": Float(low=1e-6, high=100.0, log=True),
        "max_features": Float(low=0.05, high=1.0),
        "max_bins": Ordinal(choices=[4, 8, 16, 32, 64, 128, 255]),
    }
)
_MLP = SearchSpace(
    {
        "solver": Choice(choices=["adam", "sgd"]),
        "activation": Choice(choices=["relu", "tanh", "logistic"]),
        "layers": Int(low=1, high=2),
        "units": Int(low=4, high=48, log=True),
        "alpha": Float(low=1e-6, high=1.0, log=True),
        "learning_rate_init": Float(low=1e-4, high=0.3, log=True),
        "batch_size": Ordinal(choices=[8, 16, 32, 64]),
        "momentum": Float(low=0.0, high=0.99, when={"solver": ["sgd"]}),
    }
)


def _knn(kind: Any) -> Callable[[Config, int], Any]:
    def model(config: Config, seed: int) -> Any:
        scaler: Any = {"standard": StandardScaler(), "range": MinMaxScaler(), "none": "passthrough"}[config["scale"]]
        kept = {key: config[key] for key in ("n_neighbors", "weights", "p")}
        return make_pipeline(scaler, PCA(config["components"]), kind(**kept))

    return model


def _network(config: Config, seed: int, kind: Any, epochs: int) -> Any:
    rest = {key: value for key, value in config.items() if key not in ("layers", "units")}
    shape = (config["units"],) * config["layers"]
    network = kind(hidden_layer_sizes=shape, **rest, max_iter=epochs, random_state=seed)
    return make_pipeline(StandardScaler(), network)


def _mlp(epochs: int) -> Callable[[Config, int], Any]:
    return lambda config, seed: _network(config, seed, neural_network.MLPClassifier, epochs)


def _mlp_regressor(config: Config, seed: int) -> Any:
    network = _network(config, seed, neural_network.MLPRegressor, 15)
    return TransformedTargetRegressor(network, transformer=StandardScaler())


def _seeded(kind: Any) -> Callable[[Config, int], Any]:
    return lambda config, seed: kind(**config, random_state=seed)


TASKS = {
    "wine_svm": Task("wine", 0, "error", _svm_space(1e-3, 1e3), _svc),
    "breast_cancer_tree": Task("breast_cancer", 0, "log_loss", _TREE, _seeded(tree.DecisionTreeClassifier)),
    "digits_forest": Task("digits", 300, "log_loss", _FOREST, _seeded(ensemble.RandomForestClassifier)),
    "diabetes_forest": Task("diabetes", 0, "unexplained", _FOREST, _seeded(ensemble.RandomForestRegressor)),
    "iris_mlp": Task("iris", 0, "log_loss", _MLP, _mlp(20)),
    "digits_mlp": Task("digits", 300, "log_loss", _MLP, _mlp(12)),
    "breast_cancer_boosting": Task(
        "breast_cancer", 0, "log_loss", _HIST_BOOSTING, _seeded(ensemble.HistGradientBoostingClassifier)
    ),
    "diabetes_boosting": Task("diabetes", 0, "unexplained", _BOOSTING, _seeded(ensemble.GradientBoostingRegressor)),
    "wine_knn": Task("wine", 0, "error", _knn_space(13), _knn(neighbors.KNeighborsClassifier)),
    "diabetes_knn": Task("diabetes", 0, "unexplained", _knn_space(10), _knn(neighbors.KNeighborsRegressor)),
    "diabetes_svm": Task("diabetes", 0, "unexplained", _svm_space(1e-2, 1e4), _svr),
    "diabetes_mlp": Task("diabetes", 0, "unexplained", _MLP, _mlp_regressor),
}
