"""Maps a parameter to an axis of a plot: the positions of its values, and the labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hpo_core.space.configuration import Config, scalar_key
from hpo_core.space.parameters import Float, Int, Ordinal

TURNS = (math.sqrt(5) - 1) / 2, math.sqrt(2) - 1
"""Irrational steps, which spread the trials of one option evenly; one for each axis, so that no lines appear."""

EDGE = 0.02
"""The share of a continuous range, at either end, that counts as its edge."""

FEWEST_VALUES = 4
"""A range of fewer values has hardly anything but edges."""


def brief(value: float) -> float:
    """A position with the digits that a screen can show."""
    return float(f"{value:.7g}")


def short(text: object, length: int = 80) -> str:
    """A text of at most this many characters; of a long one both ends, since long names often begin alike.

    >>> short("encoder/convolution/width", 12)
    'encode…width'
    """
    plain = str(text)
    tail = (length - 1) // 2
    return plain if len(plain) <= length else f"{plain[: length - 1 - tail]}…{plain[len(plain) - tail :]}"


def plotly_text(text: object, length: int = 80) -> str:
    """Escape a text for plotly, which interprets some HTML tags in labels."""
    return short(text, length).replace("&", "&amp;").replace("<", "&lt;")


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
        return brief(self.at(config[self.name])) if self.name in config else None

    def spread(self, config: Config, number: int, which: int = 0) -> float | None:
        """As :meth:`of`, but trials with one option lie side by side, as their number and the axis say."""
        place = self.of(config)
        return place if place is None or self.numeric else brief(place + 0.5 * (number * TURNS[which] % 1 - 0.5))

    @property
    def range(self) -> tuple[float, float]:
        if self.numeric:
            return self.at(self.parameter.low), self.at(self.parameter.high)
        return -0.5, len(self.parameter.options) - 0.5

    @property
    def ticks(self) -> tuple[list[float], list[str]] | None:
        """Positions and labels, as plain text; None if plotly's own ticks suffice."""
        if not self.numeric:
            options = self.parameter.options
            return [float(i) for i in range(len(options))], [short(option, 14) for option in options]
        if not self.log:
            return None
        low, high = self.range
        whole = [float(k) for k in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
        places = whole if len(whole) > 1 else [low, high]
        return places, [f"{10**place:.3g}" for place in places]

    def layout(self) -> dict[str, Any]:
        """The axis in plotly's format, over the whole range of the parameter."""
        low, high = self.range
        margin = 0.04 * (high - low) if self.numeric else 0.0
        axis: dict[str, Any] = {"title": {"text": plotly_text(self.name, 32)}}
        if high > low:
            axis["range"] = [low - margin, high + margin]
        if self.ticks is not None:
            axis |= {"tickmode": "array", "tickvals": self.ticks[0]}
            axis["ticktext"] = [plotly_text(label) for label in self.ticks[1]]
        return axis

    def edge(self, config: Config) -> str:
        """``low`` or ``high`` if a configuration lies at that end of the range, else nothing.

        Only for parameters with an order and a few values.
        """
        ordered = self.numeric or (isinstance(self.parameter, Ordinal))
        if self.name not in config or not ordered or self.parameter.size < FEWEST_VALUES:
            return ""
        margin = EDGE if math.isinf(self.parameter.size) else min(EDGE, 0.9 / self.parameter.size)
        place, ends = self.parameter.encode(config[self.name]), [self.parameter.encode(v) for v in self._ends]
        if place <= min(ends) + margin:
            return "low"
        return "high" if place >= max(ends) - margin else ""

    @property
    def _ends(self) -> list[Any]:
        return [self.parameter.decode(0.0), self.parameter.decode(1.0)]
