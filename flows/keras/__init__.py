"""Supports Keras in studies: objectives from ``build_model(hp)``, callbacks, and a ``Tuner`` like KerasTuner's.

Importing this package loads neither tensorflow nor keras; they are imported where a model is built.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hpo_core.base.extras import require

if TYPE_CHECKING:
    from hpo_flows.keras.hyperparameters import HyperParameters
    from hpo_flows.keras.metric import Objective
    from hpo_flows.keras.model import HyperModel
    from hpo_flows.keras.objective import keras_objective
    from hpo_flows.keras.reporter import callbacks
    from hpo_flows.keras.tuner import Tuner
    from hpo_flows.keras.tuners import BayesianOptimization, GridSearch, Hyperband, RandomSearch


_HOMES = {
    "BayesianOptimization": "tuners",
    "GridSearch": "tuners",
    "Hyperband": "tuners",
    "HyperModel": "model",
    "HyperParameters": "hyperparameters",
    "Objective": "metric",
    "RandomSearch": "tuners",
    "Tuner": "tuner",
    "callbacks": "reporter",
    "keras_objective": "objective",
}

__all__ = [
    "BayesianOptimization", "GridSearch", "HyperModel", "HyperParameters", "Hyperband", "Objective", "RandomSearch",
    "Tuner", "callbacks", "keras_objective",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        require("keras", f"hpo_flows.keras.{name}")
        return getattr(import_module(f"hpo_flows.keras.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
