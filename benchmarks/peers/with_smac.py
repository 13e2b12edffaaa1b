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
from smac import MultiFidelityFacade, Scenario
from smac.runhistory.dataclasses import TrialValue
from spaces import Parameter, Scale, Space, bounds, config_of, is_log, options


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


class FidelityPeer:
    """The facade for several fidelities: Hyperband with a random forest. It trains each time from scratch."""

    def __init__(self, name: str, space: Space, seed: int, fidelity: dict[str, Any]) -> None:
        self.space, self.folder, self.scale = space, tempfile.TemporaryDirectory(), Scale(fidelity)
        scenario = Scenario(
            _configspace(space, seed),
            output_directory=Path(self.folder.name),
            deterministic=True,
            n_trials=100_000,
            min_budget=fidelity["levels"][0],
            max_budget=fidelity["max"],
            seed=seed,
        )
        intensifier = MultiFidelityFacade.get_intensifier(scenario, eta=int(fidelity["eta"]))
        self.facade = MultiFidelityFacade(
            scenario,
            lambda config, seed=0, budget=0.0: 0.0,
            # By default a tenth of n_trials, or ten a parameter, are random; as many as Hyperband's first bracket here.
            initial_design=MultiFidelityFacade.get_initial_design(scenario, n_configs=10),
            intensifier=intensifier,
            logging_level=logging.ERROR,
            overwrite=True,
        )
        self.running: dict[int, Any] = {}
        self.count = 0

    def job(self, _: None) -> dict[str, Any] | None:
        info = self.facade.ask()
        self.running[self.count] = info
        self.count += 1
        budget = float(round(info.budget)) if self.scale.whole else info.budget
        return {"id": self.count - 1, "config": config_of(self.space, dict(info.config)), "start": 0.0, "end": budget}

    def end(self, ended: tuple[int, float, float]) -> None:
        id, _, loss = ended
        self.facade.tell(self.running.pop(id), TrialValue(cost=loss), save=False)
