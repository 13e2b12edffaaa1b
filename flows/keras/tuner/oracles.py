"""The oracles that KerasTuner users know by name: each is an :class:`Oracle` with its own strategy."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import cached_property
from itertools import islice
from typing import Any

from hpo_core.base.errors import InputError
from hpo_core.history.fidelity import Fidelity
from hpo_core.history.history import History
from hpo_core.history.trial import Proposal, Trial
from hpo_flows.keras.space.exploration import Exploration
from hpo_flows.keras.space.hyperparameters import HyperParameters
from hpo_flows.keras.training.fit_arguments import at_least_one
from hpo_flows.keras.tuner.oracle import Oracle

log = logging.getLogger("hpo")

GRID_STEPS = 10
"""How many values grid search tries for a number without a step."""

COUNTED = 10_000
"""Up to this many combinations a grid is counted one by one; for a larger one the study gets an upper bound."""

ALPHA, BETA = 1e-4, 2.6
"""KerasTuner's defaults for the noise of its Gaussian process, and for the width of its confidence bound."""


class RandomSearchOracle(Oracle):
    """Tries random configurations. The arguments are those of :class:`Oracle`."""

    strategy = "random"

    def __init__(
        self,
        objective: Any = None,
        max_trials: int | None = 10,
        seed: int | None = None,
        hyperparameters: HyperParameters | None = None,
        allow_new_entries: bool = True,
        tune_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
        **settings: Any,
    ) -> None:
        super().__init__(
            objective, max_trials, hyperparameters, allow_new_entries, tune_new_entries, seed, max_retries_per_trial,
            max_consecutive_failed_trials, **settings,
        )  # fmt: skip


class BayesianOptimizationOracle(Oracle):
    """Fits a Gaussian process to all trials.

    Args:
        num_initial_points: How many random trials come first; by default the strategy's ``start``.
        alpha, beta: The noise and the exploration of KerasTuner's own process. This one learns the noise, and explores
            where it expects an improvement; other values than KerasTuner's defaults have no effect, and a warning says
            so.
    """

    strategy = "bayesian"

    def __init__(
        self,
        objective: Any = None,
        max_trials: int | None = 10,
        num_initial_points: int | None = None,
        alpha: float | None = ALPHA,
        beta: float | None = BETA,
        seed: int | None = None,
        hyperparameters: HyperParameters | None = None,
        allow_new_entries: bool = True,
        tune_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
        **settings: Any,
    ) -> None:
        for name, given, usual in (("alpha", alpha, ALPHA), ("beta", beta, BETA)):
            if given is not None and given != usual:
                log.warning("%s=%s has no effect: the noise is learned from the trials, as is where to explore",
                            name, given)  # fmt: skip
        if num_initial_points is not None:
            settings["strategy"] = settings.get("strategy") or {"name": self.strategy, "start": num_initial_points}
        super().__init__(
            objective, max_trials, hyperparameters, allow_new_entries, tune_new_entries, seed, max_retries_per_trial,
            max_consecutive_failed_trials, **settings,
        )  # fmt: skip


class GridSearchOracle(Oracle):
    """Tries every combination: all values of lists and of numbers with steps, ten values of other numbers."""

    strategy = "grid"

    def __init__(
        self,
        objective: Any = None,
        max_trials: int | None = None,
        seed: int | None = None,
        hyperparameters: HyperParameters | None = None,
        allow_new_entries: bool = True,
        tune_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
        **settings: Any,
    ) -> None:
        super().__init__(
            objective, max_trials, hyperparameters, allow_new_entries, tune_new_entries, seed, max_retries_per_trial,
            max_consecutive_failed_trials, **settings,
        )  # fmt: skip

    def _plan(self, found: Exploration) -> dict[str, Any]:
        strategy = self._strategy
        if len(strategy) == 1:
            sizes = {name: each.size for name, each in found.space.parameters.items() if _has_steps(each)}
            by_name = {name: int(size) for name, size in sizes.items() if size > GRID_STEPS}
            strategy = {**strategy, "steps": GRID_STEPS, "steps_by_name": by_name}
        first = _defaults(found)  # KerasTuner's grid begins with these, too; its other tuners do not
        trials = _grid_size(found, strategy, first) if self.max_trials is None else self.max_trials
        return {"strategy": strategy, "stop": {"trials": trials}, "first": first}


class HyperbandOracle(Oracle):
    """Runs many short trainings and resumes the best ones.

    Args:
        max_epochs: The epochs of a full training.
        factor: The ratio of two rungs.
        hyperband_iterations: How often all brackets are run.
        max_trials: The total number of trials; by default those of all brackets.
        sampler: The name of the strategy that proposes configurations.
    """

    strategy = "hyperband"

    def __init__(
        self,
        objective: Any = None,
        max_epochs: int = 100,
        factor: int = 3,
        hyperband_iterations: int = 1,
        seed: int | None = None,
        hyperparameters: HyperParameters | None = None,
        allow_new_entries: bool = True,
        tune_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
        *,
        max_trials: int | None = None,
        sampler: str = "random",
        strategy: str | Mapping[str, Any] | None = None,
    ) -> None:
        if strategy is None:
            strategy = {"name": self.strategy, "sampler": sampler}
        super().__init__(
            objective, max_trials, hyperparameters, allow_new_entries, tune_new_entries, seed, max_retries_per_trial,
            max_consecutive_failed_trials, strategy=strategy,
        )  # fmt: skip
        self.max_epochs = at_least_one("max_epochs", max_epochs)
        self.hyperband_iterations = at_least_one("hyperband_iterations", hyperband_iterations)
        self.factor, self.min_epochs = factor, 1

    @cached_property
    def _scale(self) -> Fidelity:
        try:
            return Fidelity("epochs", min=self.min_epochs, max=self.max_epochs, eta=self.factor)
        except ValueError as error:
            raise InputError("factor" if str(error).startswith("eta") else "max_epochs", str(error)) from None

    def _plan(self, found: Exploration) -> dict[str, Any]:
        trials = self.max_trials
        if trials is None and self._strategy["name"] != "hyperband":
            raise InputError("max_trials", "is missing", "give the total number of trials")
        if trials is None:
            trials = self.hyperband_iterations * sum(
                sum(self._scale.bracket(s)) for s in range(len(self._scale.levels))
            )
        fidelity = {"name": "epochs", "min": self.min_epochs, "max": self.max_epochs, "eta": self.factor}
        return {"strategy": self._strategy, "stop": {"trials": trials}, "fidelity": fidelity}

    def _extra_values(self, recorded: Trial, history: History) -> dict[str, Any]:
        """What KerasTuner's Hyperband tells a trial: how far to train, and which trial it continues."""
        by_number = {each.number: each for each in history}
        chain = [recorded]
        while chain[-1].parent is not None:
            chain.append(by_number[chain[-1].parent])
        epochs = [round(each.requested_fidelity or self.max_epochs) for each in chain]
        levels = [round(level) for level in self._scale.levels]
        below_top = levels.index(epochs[-1]) if epochs[-1] in levels else 0
        values = {
            "tuner/epochs": epochs[0],
            "tuner/initial_epoch": epochs[1] if len(epochs) > 1 else 0,
            "tuner/bracket": len(levels) - 1 - below_top,
            "tuner/round": len(chain) - 1,
        }
        return values | ({} if recorded.parent is None else {"tuner/trial_id": self.trial_id(recorded.parent)})


HALVING = ("hyperband", "successive_halving", "asha")
"""The strategies that choose how many epochs a trial trains."""


def oracle_for(
    strategy: str | Mapping[str, Any],
    *,
    max_epochs: int = 100,
    factor: int = 3,
    hyperband_iterations: int = 1,
    **settings: Any,
) -> Oracle:
    """The oracle of a strategy, given by its name or with its settings as in a study file."""
    name = strategy if isinstance(strategy, str) else strategy.get("name")
    if name in HALVING:
        return HyperbandOracle(
            max_epochs=max_epochs, factor=factor, hyperband_iterations=hyperband_iterations, strategy=strategy,
            **settings,
        )  # fmt: skip
    return (GridSearchOracle if name == "grid" else Oracle)(strategy=strategy, **settings)


def _has_steps(parameter: Any) -> bool:
    return getattr(parameter, "step", None) is not None or (parameter.type == "int" and not parameter.log)


def _defaults(found: Exploration) -> list[dict[str, Any]]:
    """The configuration of the parameters' defaults; empty if one of them lies between two steps."""
    config = dict[str, Any]()
    for declared in found.declared:
        if found.space.active(declared.name, config):
            config[declared.name] = declared.default
    try:
        return [found.space.validated(config)]
    except ValueError:
        return []


def _grid_size(found: Exploration, strategy: Mapping[str, Any], first: list[dict[str, Any]]) -> int:
    """The number of configurations of the grid, with those of ``first`` that lie off it."""
    steps, by_name = strategy.get("steps", GRID_STEPS), strategy.get("steps_by_name", {})
    levels = {name: by_name.get(name, steps) for name in found.space.parameters}
    before = {Proposal(config).identity for config in first}
    grid = [Proposal(config).identity for config in islice(found.space.enumerate(levels), COUNTED + 1)]
    if len(grid) > COUNTED:  # no search gets to its end, and counting would take hours
        return math.prod(len(each.values(levels[name])) for name, each in found.space.parameters.items())
    return max(1, len(before) + sum(identity not in before for identity in grid))
