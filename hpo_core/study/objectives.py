"""Defines what a study optimises: one metric, or two or three at once, and what goes with the latter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hpo_core.base.storable import bad_metric

Direction = Literal["minimize", "maximize"]

MOST = 3
"""How many objectives a study can have: up to here the improvement of a front is computed exactly."""


@dataclass(frozen=True)
class Objective:
    """A metric that a study optimises.

    >>> objective = Objective("val_accuracy", "maximize")
    >>> str(objective), objective.loss(0.9)
    ('maximize val_accuracy', -0.9)
    """

    metric: str
    direction: Direction

    def __str__(self) -> str:
        return f"{self.direction} {self.metric}"

    @property
    def sign(self) -> int:
        """+1 if the metric is minimised, -1 if it is maximised."""
        return 1 if self.direction == "minimize" else -1

    def loss(self, value: float) -> float:
        """The metric's value as something to be minimised."""
        return self.sign * value


def with_first(data: Any) -> Any:
    """What a study file says, with the first of several metrics where code wants one.

    Raises:
        ValueError: It names one metric twice, or too few, or too many; the message begins with the key.
    """
    if not isinstance(data, Mapping) or not (metrics := data.get("metrics")):
        return data
    if not isinstance(metrics, Mapping):
        given = metrics if isinstance(metrics, list | tuple) else [metrics]
        if all(isinstance(each, Mapping) for each in given):
            example = ", ".join(f"{name}: {direction}" for each in given for name, direction in each.items())
            raise ValueError(f"metrics: it is a list; write {{{example}}}")
        example = ", ".join(f"{name}: maximize" for name in given)
        raise ValueError(f"metrics: {metrics!r} has no directions; write {{{example}}}, say")
    if both := [key for key in ("metric", "direction") if data.get(key)]:
        raise ValueError(f"{both[0]}: it is given beside metrics; give metrics alone, or metric and direction")
    if len(metrics) == 1:
        ((name, direction),) = metrics.items()
        raise ValueError(f"metrics: it names one; write metric: {name} and direction: {direction}")
    if len(metrics) > MOST:
        raise ValueError(f"metrics: it names {len(metrics)}; keep two or three, and set limits on the others")
    first = next(iter(metrics))
    # What cannot be used is told of metrics alone.
    direction = metrics[first] if metrics[first] in ("minimize", "maximize") else "minimize"
    name = first if isinstance(first, str) and not bad_metric(first) else "metric"
    return {**data, "metric": name, "direction": direction}


def check_objectives(study: Any) -> None:
    """Check that nothing is asked for that the number of objectives does not allow.

    Raises:
        ValueError: It is; the message begins with the key.
    """
    target, wanted = study.stop.target, study.preference
    if not study.metrics:
        if isinstance(target, Mapping):
            raise ValueError(f"stop.target: the study has one metric, {study.metric}; give its value alone")
        return
    if study.early_stop is not None:
        raise ValueError(
            "early_stop: the study has several metrics, and its rules compare trials by one; with hyperband or asha, "
            "poor trials end early, too"
        )
    if study.final is not None and study.final.rule != "mean":
        raise ValueError(
            f"final.rule: the study has several metrics, and {study.final.rule} compares one; leave it out, and say in "
            "prefer which point of the front wins"
        )
    if study.champion is not None and (wanted is None or wanted.compared(study.objectives) is None):
        others = study.objectives[1:]
        example = ", ".join(f"{each.metric} {'<=' if each.sign > 0 else '>='} 10" for each in others)
        raise ValueError(
            "champion: the study has several metrics, and a champion is better or worse by one; leave that one free, "
            f"and say in prefer what the others must keep to, such as prefer: {example!r}"
        )
    if target is not None and not isinstance(target, Mapping):
        raise ValueError(f"stop.target: the study has several metrics; write {{{study.metric}: {target:g}, ...}}")
    for name in target or ():
        if name not in study.metrics:
            raise ValueError(f"stop.target.{name}: unknown metric; name one of {', '.join(study.metrics)}")
