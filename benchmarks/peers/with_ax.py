"""Ax's client with its default strategy, a Gaussian process of BoTorch; conditions as dependent parameters."""

from __future__ import annotations

import logging
from typing import Any

from ax.api.client import Client
from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig
from spaces import Parameter, Space, bounds, config_of, is_log, options

_KINDS = {bool: "bool", int: "int", float: "float", str: "str"}


def _children(space: Space, parent: str) -> dict[Any, list[str]]:
    """By value, the parameters that it switches on.

    Ax wants a tree, so a parameter hangs on the nearest parent that switches it on by a single value; where there is
    none, Ax proposes it always, and what is not active is ignored.
    """
    found: dict[Any, list[str]] = {}
    for key, p in space.items():
        single = [name for name, values in p["when"].items() if len(values) == 1]
        if single and parent == max(single, key=list(space).index):
            found.setdefault(p["when"][parent][0], []).append(key)
    return found


def _described(space: Space, key: str, p: Parameter) -> Any:
    if (listed := options(p)) is not None:
        kind: Any = _KINDS[type(listed[0])]
        return ChoiceParameterConfig(
            name=key,
            values=listed,
            parameter_type=kind,
            is_ordered=len(listed) == 2,
            dependent_parameters=_children(space, key) or None,
        )
    kind = "float" if p["type"] == "float" else "int"
    return RangeParameterConfig(
        name=key, bounds=bounds(p), parameter_type=kind, scaling="log" if is_log(p) else "linear"
    )


class Peer:
    def __init__(self, name: str, space: Space, seed: int, trials: int, objectives: int = 1) -> None:
        logging.disable(logging.ERROR)
        self.space = space
        self.client = Client(random_seed=seed)
        self.client.configure_experiment(parameters=[_described(space, key, p) for key, p in space.items()])
        self.names = ["loss", *(f"loss{i}" for i in range(2, objectives + 1))]
        self.client.configure_optimization(objective=", ".join(f"-{name}" for name in self.names))
        self.client.configure_generation_strategy(initialization_random_seed=seed)

    def ask(self, n: int) -> list[dict[str, Any]]:
        asked = self.client.get_next_trials(max_trials=n)
        self.indices = list(asked)
        return [config_of(self.space, proposed) for proposed in asked.values()]

    def tell(self, losses: list[float] | list[list[float]]) -> None:
        for index, loss in zip(self.indices, losses, strict=True):
            values = loss if isinstance(loss, list) else [loss]
            self.client.complete_trial(trial_index=index, raw_data=dict(zip(self.names, values, strict=True)))
