"""Defines the objective of a tuner: a metric's name and its direction, which most names imply."""

from __future__ import annotations

import re
from dataclasses import dataclass
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

    def better_than(self, a: float, b: float) -> bool:
        """Whether the value ``a`` is better than ``b``; NaN never is, and anything is better than NaN."""
        return (a > b if self.direction == "max" else a < b) or (b != b and a == a)

    @classmethod
    def of(cls, given: Any) -> Objective:
        """Make an objective of a name, with the direction that it implies, or of an object that has both.

        Raises:
            InputError: The name implies none.

        >>> Objective.of("val_loss").direction, Objective.of("val_sparse_categorical_accuracy").direction
        ('min', 'max')
        """
        if not isinstance(given, str):
            if hasattr(given, "name") and hasattr(given, "direction"):
                return cls(given.name, given.direction)
            raise InputError("objective", f"{given!r} is not an objective", "give a metric's name, or an Objective")
        bare = re.sub(r"_\d+$", "", given.lower().removeprefix("val_").removeprefix("weighted_"))
        implied = [name for name, pattern in (("max", _MAXIMISED), ("min", _MINIMISED)) if pattern.fullmatch(bare)]
        if len(implied) == 1:  # the loss of an output named "precision" implies both
            return cls(given, implied[0])
        raise InputError(
            "objective",
            f"whether {given!r} is better small or large cannot be told from its name",
            f"give Objective({given!r}, 'min') or Objective({given!r}, 'max')",
        )
