"""Defines the objective of a tuner: a metric's name and its direction, which most names imply."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpo_core.base.errors import InputError

_MAXIMISED = re.compile(
    r"acc|\w*accuracy|auc|precision\w*|recall\w*|f1(_score)?|fbeta_score|\w*iou|r2_score|true_\w+|score"
    r"|\w+_at_(sensitivity|specificity|precision|recall)"
)

_MINIMISED = re.compile(
    r"(\w+_)?loss|ce|nll|\w*crossentropy|\w*hinge|\w*error|mse|mae|mape|msle|rmse|kld|\w*divergence|poisson|huber|log_?cosh"
    r"|false_\w+"
)


@dataclass(frozen=True)
class Objective:
    """A metric and whether smaller or larger values are better.

    Args:
        name: The metric as Keras logs it, such as ``val_accuracy``.
        direction: ``min`` or ``max``; ``minimize`` and ``maximize`` also work.

    Raises:
        InputError: The direction is neither.

    >>> Objective("val_f1", "maximize")
    Objective(name='val_f1', direction='max')
    """

    name: str
    direction: str

    def __post_init__(self) -> None:
        short = {"minimize": "min", "maximize": "max"}.get(self.direction, self.direction)
        if short not in ("min", "max"):
            raise InputError(
                "objective", f"the direction {self.direction!r} is neither min nor max", "give one of them"
            )
        object.__setattr__(self, "direction", short)

    def __str__(self) -> str:
        return f'{type(self).__name__}(name="{self.name}", direction="{self.direction}")'

    def has_value(self, logs: Mapping[str, float]) -> bool:
        """Whether metrics include it."""
        return self.name in logs

    def get_value(self, logs: Mapping[str, float]) -> float:
        """Its value among metrics.

        Raises:
            KeyError: They lack it.
        """
        return logs[self.name]

    def better_than(self, a: float, b: float) -> bool:
        """Whether the value ``a`` is better than ``b``; NaN never is, and anything is better than NaN."""
        return (a > b if self.direction == "max" else a < b) or (b != b and a == a)

    @classmethod
    def of(cls, given: Any) -> Objective:
        """Make an objective of a name, with the direction that it implies, of an object that has both, or of a list.

        None stands for what the user's own ``fit`` or ``run_trial`` returns as a number, to be minimised.

        Raises:
            InputError: The name implies no direction.

        >>> Objective.of("val_loss").direction, Objective.of("val_sparse_categorical_accuracy").direction
        ('min', 'max')
        >>> Objective.of(["val_loss", "val_auc"]).get_value({"val_loss": 0.5, "val_auc": 0.75})
        -0.25
        """
        if given is None:
            return DefaultObjective()
        if isinstance(given, Objective):
            return given
        if isinstance(given, list | tuple):
            return MultiObjective([cls.of(each) for each in given])
        if not isinstance(given, str):
            if hasattr(given, "name") and hasattr(given, "direction"):
                return cls(given.name, given.direction)
            raise InputError("objective", f"{given!r} is not an objective", "give a metric's name, or an Objective")
        if (direction := infer_metric_direction(given)) is not None:
            return cls(given, direction)
        raise InputError(
            "objective",
            f"whether {given!r} is better small or large cannot be told from its name",
            f"give Objective({given!r}, 'min') or Objective({given!r}, 'max')",
        )


@dataclass(frozen=True)
class DefaultObjective(Objective):
    """The number that a user's own ``fit`` or ``run_trial`` returns, where no objective is named."""

    name: str = "default_objective"
    direction: str = "min"


@dataclass(frozen=True)
class MultiObjective(Objective):
    """The sum of several objectives, to be minimised; those to be maximised are subtracted."""

    name: str = field(default="multi_objective", init=False)
    direction: str = field(default="min", init=False)
    objectives: Sequence[Objective] = ()

    def __init__(self, objectives: Sequence[Objective]) -> None:
        object.__setattr__(self, "objectives", tuple(objectives))
        if not objectives:
            raise InputError("objective", "the list is empty", "name at least one metric")

    def has_value(self, logs: Mapping[str, float]) -> bool:
        return all(each.has_value(logs) for each in self.objectives)

    def get_value(self, logs: Mapping[str, float]) -> float:
        return sum(
            each.get_value(logs) if each.direction == "min" else -each.get_value(logs) for each in self.objectives
        )


def create_objective(objective: Any) -> Objective:
    """As :meth:`Objective.of`."""
    return Objective.of(objective)


def infer_metric_direction(metric: Any) -> str | None:
    """Whether smaller or larger values of a metric are better: ``min``, ``max``, or None if its name does not say.

    Args:
        metric: Its name as Keras logs it, or a Keras metric, a loss, or a function.

    >>> infer_metric_direction("val_auc"), infer_metric_direction("loss"), infer_metric_direction("my_metric")
    ('max', 'min', None)
    """
    name: str = metric if isinstance(metric, str) else getattr(metric, "name", "") or getattr(metric, "__name__", "")
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.replace("IoU", "Iou"))  # of classes: MeanSquaredError
    bare = re.sub(r"_\d+$", "", snake.lower().removeprefix("val_").removeprefix("weighted_"))
    implied = [name for name, pattern in (("max", _MAXIMISED), ("min", _MINIMISED)) if pattern.fullmatch(bare)]
    return implied[0] if len(implied) == 1 else None  # the loss of an output named "precision" implies both
