"""SMAC3's facade for hyperparameters, a random forest, with conditions by ConfigSpace.

``smac`` has the facade's defaults: a new forest every eighth proposal, a quarter of the trials as initial design.
``smac_eager`` grows a forest for each proposal.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import ConfigSpace as cs
from smac import HyperparameterOptimizationFacade as Facade
from smac import Scenario
from smac.runhistory.dataclasses import TrialValue
from spaces import Parameter, Space, bounds, config_of, is_log, options


def _described(key: str, p: Parameter) -> Any:
    if (listed := options(p)) is not None:
        return cs.CategoricalHyperparameter(key, listed)
    low, high = bounds(p)
    if low == high:
        return cs.Constant(key, low)
    if p["type"] == "ordinal":
        return cs.OrdinalHyperparameter(key, list(range(high + 1)))
    kind = cs.UniformFloatHyperparameter if p["type"] == "float" else cs.UniformIntegerHyperparameter
    return kind(key, low, high, log=is_log(p))


def _configspace(space: Space, seed: int) -> cs.ConfigurationSpace:
    described = cs.ConfigurationSpace(seed=seed)
    described.add([_described(key, p) for key, p in space.items()])
    for key, p in space.items():
        parts = []
        for parent, values in p["when"].items():
            if space[parent]["type"] == "ordinal":
                values = [space[parent]["choices"].index(v) for v in values]
            parts.append(cs.InCondition(described[key], described[parent], values))
        if parts:
            described.add(parts[0] if len(parts) == 1 else cs.AndConjunction(*parts))
    return described


class Peer:
    def __init__(self, name: str, space: Space, seed: int, trials: int) -> None:
        self.space, self.folder = space, tempfile.TemporaryDirectory()
        scenario = Scenario(
            _configspace(space, seed),
            output_directory=Path(self.folder.name),
            deterministic=True,
            n_trials=trials,
            seed=seed,
        )
        selector = Facade.get_config_selector(scenario, retrain_after=1) if name == "smac_eager" else None
        self.facade = Facade(
            scenario, lambda config, seed=0: 0.0, config_selector=selector, logging_level=logging.ERROR, overwrite=True
        )

    def ask(self, n: int) -> list[dict[str, Any]]:
        self.infos = [self.facade.ask() for _ in range(n)]
        return [config_of(self.space, dict(info.config)) for info in self.infos]

    def tell(self, losses: list[float]) -> None:
        for info, loss in zip(self.infos, losses, strict=True):
            self.facade.tell(info, TrialValue(cost=loss), save=False)
