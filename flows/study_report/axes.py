"""A parameter as an axis of a plot: what its values are there, and how the axis is labelled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hpo_core.configuration import Config, scalar_key
from hpo_core.space import Float, Int


@dataclass(frozen=True)
class ParameterAxis:
    """Numbers stand at their value, on a log axis at its logarithm to base 10; options at their position."""

    name: str
    parameter: Any

    @property
    def numeric(self) -> bool:
        return isinstance(self.parameter, Float | Int)

    @property
    def log(self) -> bool:
        return self.numeric and bool(self.parameter.log)

    @cached_property
    def _positions(self) -> dict[Any, int]:
        return {scalar_key(value): i for i, value in enumerate(self.parameter.options)}

    def at(self, value: Any) -> float:
        """Where a value stands."""
        if not self.numeric:
            return float(self._positions[scalar_key(value)])
        return math.log10(value) if self.log else float(value)

    def of(self, config: Config) -> float | None:
        """Where a configuration stands; None where the parameter is inactive."""
        return self.at(config[self.name]) if self.name in config else None

    @property
    def range(self) -> tuple[float, float]:
        if self.numeric:
            return self.at(self.parameter.low), self.at(self.parameter.high)
        return -0.5, len(self.parameter.options) - 0.5

    @property
    def ticks(self) -> tuple[list[float], list[str]] | None:
        """Positions and labels; None where the numbers speak for themselves."""
        if not self.numeric:
            return [float(i) for i in range(len(self.parameter.options))], [str(v) for v in self.parameter.options]
        if not self.log:
            return None
        low, high = self.range
        whole = [float(k) for k in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
        places = whole if len(whole) > 1 else [low, high]
        return places, [f"{10**place:.3g}" for place in places]

    def layout(self) -> dict[str, Any]:
        """The axis as plotly wants it."""
        axis: dict[str, Any] = {"title": {"text": self.name}}
        if self.ticks is not None:
            axis |= {"tickmode": "array", "tickvals": self.ticks[0], "ticktext": self.ticks[1]}
        return axis
