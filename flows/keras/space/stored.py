"""Reads the declarations of a model's hyperparameters back from a stored search space, without building a model."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from hpo_core.space import parameters
from hpo_core.space.search_space import SearchSpace
from hpo_flows.keras.space.hyperparameters import HyperParameters


def declared_in(space: SearchSpace) -> Sequence[Any]:
    """The declarations that make a stored search space."""
    hp = HyperParameters()
    for name, each in space.parameters.items():
        with contextlib.ExitStack() as scopes:
            for parent, values in each.when.items():
                scopes.enter_context(hp.conditional_scope(parent, list(values)))
            _declare(hp, name, each)
    return hp.space


def _declare(hp: HyperParameters, name: str, parameter: Any) -> None:
    if isinstance(parameter, parameters.Fixed):
        hp.Fixed(name, parameter.value)
    elif isinstance(parameter, parameters.Boolean):
        hp.Boolean(name)
    elif isinstance(parameter, parameters.Int | parameters.Float):
        sampling = ("reverse_log" if parameter.reverse else "log") if parameter.log else "linear"
        add: Any = hp.Int if isinstance(parameter, parameters.Int) else hp.Float
        add(name, parameter.low, parameter.high, step=parameter.step, sampling=sampling)
    else:
        hp.Choice(name, list(parameter.choices), ordered=isinstance(parameter, parameters.Ordinal))
