"""Derivatives of a validation loss with respect to hyperparameters, for Keras models.

Importing this package loads nothing; its names load TensorFlow when they are first used, and no other module of the
project does it for them. What needs no TensorFlow (ridge, kernel ridge, logistic regression) is in
:mod:`hpo_flows.hypergradient.closed_form`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hpo_core.base.extras import require

if TYPE_CHECKING:
    from hpo_flows.hypergradient.bilevel import Bilevel, State, cross_entropy, squared_error
    from hpo_flows.hypergradient.hyperparameters import (
        Hyperparameter,
        class_weights,
        contrast,
        dropout,
        example_weights,
        input_noise,
        inputs,
        l1,
        l2,
        label_smoothing,
        learning_rate,
        learning_rate_knots,
        loss_weight,
        momentum,
        penalty,
        shift,
        targets,
        variable,
    )
    from hpo_flows.hypergradient.layers import RelaxedDropout
    from hpo_flows.hypergradient.modes import Result, forward, implicit, reverse, train
    from hpo_flows.hypergradient.optimizers import SGD, Adam
    from hpo_flows.hypergradient.vectors import VectorAdam


_MODULES = ("bilevel", "hyperparameters", "layers", "modes", "optimizers", "vectors")

__all__ = [
    "Adam",
    "Bilevel",
    "class_weights",
    "contrast",
    "cross_entropy",
    "dropout",
    "example_weights",
    "forward",
    "Hyperparameter",
    "implicit",
    "input_noise",
    "inputs",
    "l1",
    "l2",
    "label_smoothing",
    "learning_rate",
    "learning_rate_knots",
    "loss_weight",
    "momentum",
    "penalty",
    "RelaxedDropout",
    "Result",
    "reverse",
    "SGD",
    "shift",
    "squared_error",
    "State",
    "targets",
    "train",
    "variable",
    "VectorAdam",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        require("tensorflow", f"hpo_flows.hypergradient.{name}")
    for module in _MODULES if name in __all__ else ():
        if hasattr(loaded := import_module(f"{__name__}.{module}"), name):
            return getattr(loaded, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
