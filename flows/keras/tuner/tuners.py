"""The tuners that KerasTuner users know by name: each is a :class:`Tuner` with its own oracle."""

from __future__ import annotations

from typing import Any

from hpo_flows.keras.space.hyperparameters import HyperParameters
from hpo_flows.keras.tuner.oracles import (
    ALPHA,
    BETA,
    BayesianOptimizationOracle,
    GridSearchOracle,
    HyperbandOracle,
    RandomSearchOracle,
)
from hpo_flows.keras.tuner.tuner import Tuner


class RandomSearch(Tuner):
    """Tries random configurations.

    The further arguments are those of :class:`hpo_flows.keras.Oracle` and :class:`Tuner`, as for all tuners.
    """

    def __init__(
        self,
        hypermodel: Any = None,
        objective: Any = None,
        max_trials: int | None = 10,
        seed: int | None = None,
        hyperparameters: HyperParameters | None = None,
        tune_new_entries: bool = True,
        allow_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
        *,
        strategy: Any = None,
        **settings: Any,
    ) -> None:
        oracle = RandomSearchOracle(
            objective, max_trials, seed, hyperparameters, allow_new_entries, tune_new_entries, max_retries_per_trial,
            max_consecutive_failed_trials, strategy=strategy,
        )  # fmt: skip
        super().__init__(oracle, hypermodel, **settings)


class GridSearch(Tuner):
    """Tries every combination: all values of lists and of numbers with steps, ten values of other numbers."""

    def __init__(
        self,
        hypermodel: Any = None,
        objective: Any = None,
        max_trials: int | None = None,
        seed: int | None = None,
        hyperparameters: HyperParameters | None = None,
        tune_new_entries: bool = True,
        allow_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
        *,
        strategy: Any = None,
        **settings: Any,
    ) -> None:
        oracle = GridSearchOracle(
            objective, max_trials, seed, hyperparameters, allow_new_entries, tune_new_entries, max_retries_per_trial,
            max_consecutive_failed_trials, strategy=strategy,
        )  # fmt: skip
        super().__init__(oracle, hypermodel, **settings)


class BayesianOptimization(Tuner):
    """Fits a Gaussian process to all trials.

    ``num_initial_points`` is the strategy's ``start``. ``alpha`` and ``beta`` belong to KerasTuner's own process; other
    values than its defaults have no effect, and a warning says so.
    """

    def __init__(
        self,
        hypermodel: Any = None,
        objective: Any = None,
        max_trials: int | None = 10,
        num_initial_points: int | None = None,
        alpha: float | None = ALPHA,
        beta: float | None = BETA,
        seed: int | None = None,
        hyperparameters: HyperParameters | None = None,
        tune_new_entries: bool = True,
        allow_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
        *,
        strategy: Any = None,
        **settings: Any,
    ) -> None:
        oracle = BayesianOptimizationOracle(
            objective, max_trials, num_initial_points, alpha, beta, seed, hyperparameters, allow_new_entries,
            tune_new_entries, max_retries_per_trial, max_consecutive_failed_trials, strategy=strategy,
        )  # fmt: skip
        super().__init__(oracle, hypermodel, **settings)


class Hyperband(Tuner):
    """Runs many short trainings and resumes the best ones; ``sampler`` names the strategy that proposes them."""

    def __init__(
        self,
        hypermodel: Any = None,
        objective: Any = None,
        max_epochs: int = 100,
        factor: int = 3,
        hyperband_iterations: int = 1,
        seed: int | None = None,
        hyperparameters: HyperParameters | None = None,
        tune_new_entries: bool = True,
        allow_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
        *,
        max_trials: int | None = None,
        sampler: str = "random",
        strategy: Any = None,
        **settings: Any,
    ) -> None:
        oracle = HyperbandOracle(
            objective, max_epochs, factor, hyperband_iterations, seed, hyperparameters, allow_new_entries,
            tune_new_entries, max_retries_per_trial, max_consecutive_failed_trials, max_trials=max_trials,
            sampler=sampler, strategy=strategy,
        )  # fmt: skip
        super().__init__(oracle, hypermodel, **settings)
