"""Defines the tuners that KerasTuner users know by name: each is a :class:`Tuner` with its own strategy."""

from __future__ import annotations

from typing import Any

from hpo_flows.keras.tuner.tuner import Tuner


class RandomSearch(Tuner):
    """Tries random configurations."""

    strategy = "random"

    def __init__(self, hypermodel: Any, objective: Any = None, max_trials: int | None = 10, **settings: Any) -> None:
        super().__init__(hypermodel, objective, max_trials, **settings)


class GridSearch(Tuner):
    """Tries every combination: all values of lists and of numbers with steps, ten values of other numbers."""

    strategy = "grid"


class BayesianOptimization(Tuner):
    """Fits a Gaussian process to all trials.

    ``num_initial_points`` is the strategy's ``start``. ``alpha`` and ``beta`` belong to KerasTuner's own process and
    acquisition; they are accepted and ignored.
    """

    strategy = "bayesian"

    def __init__(
        self,
        hypermodel: Any,
        objective: Any = None,
        max_trials: int | None = 10,
        num_initial_points: int | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        **settings: Any,
    ) -> None:
        if num_initial_points is not None:
            settings.setdefault("strategy", {"name": self.strategy, "start": num_initial_points})
        super().__init__(hypermodel, objective, max_trials, **settings)


class Hyperband(Tuner):
    """Runs many short trainings and resumes the best ones; ``sampler`` names the strategy that proposes them."""

    strategy = "hyperband"

    def __init__(
        self,
        hypermodel: Any,
        objective: Any = None,
        max_epochs: int = 100,
        factor: int = 3,
        hyperband_iterations: int = 1,
        sampler: str = "random",
        **settings: Any,
    ) -> None:
        settings.setdefault("strategy", {"name": self.strategy, "sampler": sampler})
        super().__init__(
            hypermodel,
            objective,
            max_epochs=max_epochs,
            factor=factor,
            hyperband_iterations=hyperband_iterations,
            **settings,
        )
