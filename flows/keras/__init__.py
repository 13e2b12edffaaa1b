"""Keras in studies: objectives from ``build_model(hp)``, callbacks, and a ``Tuner`` for scripts written for KerasTuner.

Importing this package loads neither tensorflow nor keras; they are imported where a model is built.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.keras.goal import Objective
    from flows.keras.hyperparameters import HyperParameters
    from flows.keras.model import HyperModel
    from flows.keras.objective import keras_objective
    from flows.keras.tuner import BayesianOptimization, GridSearch, Hyperband, RandomSearch, Tuner
    from flows.keras.watch import callbacks

_HOMES = {
    "BayesianOptimization": "tuner",
    "GridSearch": "tuner",
    "Hyperband": "tuner",
    "HyperModel": "model",
    "HyperParameters": "hyperparameters",
    "Objective": "goal",
    "RandomSearch": "tuner",
    "Tuner": "tuner",
    "callbacks": "watch",
    "keras_objective": "objective",
}

__all__ = [
    "BayesianOptimization", "GridSearch", "HyperModel", "HyperParameters", "Hyperband", "Objective", "RandomSearch",
    "Tuner", "callbacks", "keras_objective",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"flows.keras.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
