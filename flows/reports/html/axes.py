"""Maps a parameter to an axis of a plot: the positions of its values, and the labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hpo_core.space.configuration import Config, scalar_key
from hpo_core.space.parameters import Float, Int


def plotly_text(text: object) -> str:
    """Escape a text for plotly, which interprets some HTML tags in labels."""
    return str(text)[:80].replace("&", "&amp;").replace("<", "&lt;")


@dataclass(frozen=True)
class ParameterAxis:
    """A parameter's axis. Numbers are at their value, on a log axis at its base-10 logarithm; options at an index."""

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
        """The position of a value."""
        if not self.numeric:
            return float(self._positions[scalar_key(value)])
        return math.log10(value) if self.log else float(value)

    def of(self, config: Config) -> float | None:
        """The position of a configuration; None if the parameter is inactive."""
        return self.at(config[self.name]) if self.name in config else None

    @property
    def range(self) -> tuple[float, float]:
        if self.numeric:
            return self.at(self.parameter.low), self.at(self.parameter.high)
        return -0.5, len(self.parameter.options) - 0.5

    @property
    def ticks(self) -> tuple[list[float], list[str]] | None:
        """Positions and labels; None if plotly's own ticks suffice."""
        if not self.numeric:
            options = self.parameter.options
            return [float(i) for i in range(len(options))], [plotly_text(option) for option in options]
        if not self.log:
            return None
        low, high = self.range
        whole = [float(k) for k in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
        places = whole if len(whole) > 1 else [low, high]
        return places, [f"{10**place:.3g}" for place in places]

    def layout(self) -> dict[str, Any]:
        """The axis in plotly's format."""
        axis: dict[str, Any] = {"title": {"text": self.name}}
        if self.ticks is not None:
            axis |= {"tickmode": "array", "tickvals": self.ticks[0], "ticktext": self.ticks[1]}
        return axis
