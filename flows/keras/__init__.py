"""Supports Keras in studies: objectives from ``build_model(hp)``, callbacks, and tuners like KerasTuner's.

Its modules have KerasTuner's paths as well (``hpo_flows.keras.tuners``, ``.engine.hyperparameters``, ...). Importing it
loads neither tensorflow nor keras; they are imported where a model is built.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo_flows.base import gpus
from hpo_flows.keras import modules

if TYPE_CHECKING:
    from hpo_flows.keras.space.hypermodel import HyperModel
    from hpo_flows.keras.space.hyperparameters import HyperParameters
    from hpo_flows.keras.space.objective import Objective
    from hpo_flows.keras.training.objective import keras_objective
    from hpo_flows.keras.training.reporter import callbacks
    from hpo_flows.keras.tuner.oracle import Oracle
    from hpo_flows.keras.tuner.sklearn_tuner import SklearnTuner
    from hpo_flows.keras.tuner.tuner import Tuner
    from hpo_flows.keras.tuner.tuners import BayesianOptimization, GridSearch, Hyperband, RandomSearch

__version__ = modules.VERSION

gpus.share()  # as early as can be: TensorFlow reads it once, when a script makes its first tensor or data set

__all__ = [
    "BayesianOptimization", "GridSearch", "HyperModel", "HyperParameters", "Hyperband", "Objective", "Oracle",
    "RandomSearch", "SklearnTuner", "Tuner", "callbacks", "keras_objective",
]  # fmt: skip

modules.install()

__getattr__ = modules.lookup(__name__, modules.TOP, modules.SUBMODULES)
