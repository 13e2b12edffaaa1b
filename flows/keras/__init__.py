"""Supports Keras in studies: objectives from ``build_model(hp)``, callbacks, and a ``Tuner`` like KerasTuner's.

Importing this package loads neither tensorflow nor keras; they are imported where a model is built.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hpo_core.base.extras import require
from hpo_flows.base import gpus

if TYPE_CHECKING:
    from hpo_flows.keras.space.hypermodel import HyperModel
    from hpo_flows.keras.space.hyperparameters import HyperParameters
    from hpo_flows.keras.space.objective import Objective
    from hpo_flows.keras.training.objective import keras_objective
    from hpo_flows.keras.training.reporter import callbacks
    from hpo_flows.keras.tuner.tuner import Tuner
    from hpo_flows.keras.tuner.tuners import BayesianOptimization, GridSearch, Hyperband, RandomSearch

gpus.share()  # as early as can be: TensorFlow reads it once, when a script makes its first tensor or data set

_HOMES = {
    "BayesianOptimization": "tuner.tuners",
    "GridSearch": "tuner.tuners",
    "Hyperband": "tuner.tuners",
    "HyperModel": "space.hypermodel",
    "HyperParameters": "space.hyperparameters",
    "Objective": "space.objective",
    "RandomSearch": "tuner.tuners",
    "Tuner": "tuner.tuner",
    "callbacks": "training.reporter",
    "keras_objective": "training.objective",
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
