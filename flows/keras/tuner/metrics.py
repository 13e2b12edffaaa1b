"""The metrics of a trial under KerasTuner's names: for each metric its values by step, one for each execution."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, median, pvariance
from typing import Any, Self

from hpo_core.base.errors import InputError
from hpo_flows.keras.space.objective import Objective


@dataclass
class MetricObservation:
    """What a metric was at one step.

    Args:
        value: The value of each execution; a single one may be given as a number.
        step: The step: an epoch, say.
    """

    value: list[float]
    step: int

    def __post_init__(self) -> None:
        self.value = list(self.value) if isinstance(self.value, list | tuple) else [self.value]

    def append(self, value: float | Sequence[float]) -> None:
        """Add the value of another execution, or of several."""
        self.value += [value] if isinstance(value, int | float) else value

    def mean(self) -> float:
        """The mean over the executions."""
        return fmean(self.value)

    def get_config(self) -> dict[str, Any]:
        """The observation as plain data."""
        return asdict(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The observation that :meth:`get_config` described."""
        return cls(**config)


class MetricHistory:
    """The observations of one metric, by step.

    Args:
        direction: ``min`` or ``max``: which value is the best.

    >>> history = MetricHistory("max")
    >>> for step, value in enumerate([0.5, 0.9, 0.7]):
    ...     history.update(value, step)
    >>> history.get_best_value(), history.get_best_step(), history.get_last_value()
    (0.9, 1, 0.7)
    """

    def __init__(self, direction: str = "min") -> None:
        if direction not in ("min", "max"):
            raise InputError("direction", f"{direction!r} is neither 'min' nor 'max'", "give one of them")
        self.direction = direction
        self._observations: dict[int, MetricObservation] = {}

    def update(self, value: float | Sequence[float], step: int) -> None:
        """Add a value; a second one at a step belongs to another execution."""
        self._observations.setdefault(step, MetricObservation([], step)).append(value)

    def get_history(self) -> list[MetricObservation]:
        """The observations in the order of their steps."""
        return sorted(self._observations.values(), key=lambda each: each.step)

    def set_history(self, observations: Iterable[MetricObservation]) -> None:
        """Add observations."""
        for each in observations:
            self.update(each.value, each.step)

    def _best(self) -> MetricObservation | None:
        numbers = [each for each in self.get_history() if not math.isnan(each.mean())]
        choose = min if self.direction == "min" else max
        return choose(numbers or self.get_history(), key=MetricObservation.mean, default=None)

    def get_best_value(self) -> float | None:
        """The best mean over executions; None without observations."""
        best = self._best()
        return None if best is None else best.mean()

    def get_best_step(self) -> int | None:
        """The step of the best value, the first if several have it; None without observations."""
        best = self._best()
        return None if best is None else best.step

    def get_last_value(self) -> float | None:
        """The value at the last step; None without observations."""
        history = self.get_history()
        return history[-1].mean() if history else None

    def get_statistics(self) -> dict[str, float]:
        """``min``, ``max``, ``mean``, ``median``, ``var`` and ``std`` over the steps; empty without observations."""
        values = [each.mean() for each in self.get_history()]
        values = [value for value in values if not math.isnan(value)]
        if not values:
            return {}
        variance = pvariance(values)
        facts = {"min": min(values), "max": max(values), "mean": fmean(values), "median": median(values)}
        return facts | {"var": variance, "std": math.sqrt(variance)}

    def get_config(self) -> dict[str, Any]:
        """The history as plain data."""
        return {"direction": self.direction, "observations": [each.get_config() for each in self.get_history()]}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The history that :meth:`get_config` described."""
        made = cls(config["direction"])
        made.set_history(MetricObservation.from_config(each) for each in config["observations"])
        return made


@dataclass
class MetricsTracker:
    """The histories of all metrics of a trial.

    Args:
        metrics: By name.
    """

    metrics: dict[str, MetricHistory] = field(default_factory=dict)

    def exists(self, name: str) -> bool:
        """Whether there is a metric of this name."""
        return name in self.metrics

    def register(self, name: str, direction: str | None = None) -> None:
        """Add a metric without values.

        Args:
            name: Its name.
            direction: By default what its name implies, and ``min`` if it implies none.

        Raises:
            InputError: There is one of this name.
        """
        if self.exists(name):
            raise InputError("metrics", f"there is a metric {name!r} already", "give the other one another name")
        self.metrics[name] = MetricHistory(direction or _direction(name))

    def update(self, name: str, value: float, step: int = 0) -> bool:
        """Add a value, and the metric if it is new; returns whether the best value is another one now."""
        if not self.exists(name):
            self.register(name)
        before = self.metrics[name].get_best_value()
        self.metrics[name].update(float(value), step)
        return self.metrics[name].get_best_value() != before

    def _history(self, name: str) -> MetricHistory:
        if name not in self.metrics:
            known = ", ".join(self.metrics) or "none"
            raise InputError("metrics", f"unknown metric {name!r}", f"there are: {known}")
        return self.metrics[name]

    def get_history(self, name: str) -> list[MetricObservation]:
        """The observations of a metric."""
        return self._history(name).get_history()

    def set_history(self, name: str, observations: Iterable[MetricObservation]) -> None:
        """Add observations of a metric."""
        if not self.exists(name):
            self.register(name)
        self._history(name).set_history(observations)

    def get_best_value(self, name: str) -> float | None:
        """The best value of a metric."""
        return self._history(name).get_best_value()

    def get_best_step(self, name: str) -> int | None:
        """The step of a metric's best value."""
        return self._history(name).get_best_step()

    def get_last_value(self, name: str) -> float | None:
        """The last value of a metric."""
        return self._history(name).get_last_value()

    def get_statistics(self, name: str) -> dict[str, float]:
        """The statistics of a metric over its steps."""
        return self._history(name).get_statistics()

    def get_direction(self, name: str) -> str:
        """Whether small or large values of a metric are good."""
        return self._history(name).direction

    def get_config(self) -> dict[str, Any]:
        """All histories as plain data."""
        return {"metrics": {name: history.get_config() for name, history in self.metrics.items()}}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The histories that :meth:`get_config` described."""
        return cls({name: MetricHistory.from_config(each) for name, each in config["metrics"].items()})


def _direction(name: str) -> str:
    try:
        return Objective.of(name).direction
    except InputError:
        return "min"
