"""A space as the peers get it: parameters by name, each the JSON of ours. Ordered lists become indices, so that a peer
learns the order, as it would from a user who cares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Parameter = dict[str, Any]
Space = dict[str, Parameter]


def options(parameter: Parameter) -> list[Any] | None:
    """The values of a listed parameter without order; None for others."""
    if parameter["type"] == "boolean":
        return [False, True]
    return parameter["choices"] if parameter["type"] == "choice" else None


def bounds(parameter: Parameter) -> tuple[Any, Any]:
    """The lowest and the highest number of a parameter; of an ordered list, the first and the last index."""
    if parameter["type"] == "ordinal":
        return 0, len(parameter["choices"]) - 1
    return parameter["low"], parameter["high"]


def is_log(parameter: Parameter) -> bool:
    """Whether its scale is logarithmic; where there is one value, no scale is."""
    return bool(parameter.get("log")) and parameter["low"] < parameter["high"]


def active(parameter: Parameter, config: Mapping[str, Any]) -> bool:
    """Whether a parameter is active beside those declared before it."""
    return all(parent in config and config[parent] in values for parent, values in parameter["when"].items())


def value(parameter: Parameter, proposed: Any) -> Any:
    """The value that a peer proposed, as plain Python; a number that rounding put outside is put on the bound."""
    if (listed := options(parameter)) is not None:
        return next(option for option in listed if option == proposed)
    low, high = bounds(parameter)
    number = min(max(float(proposed), low), high)
    if parameter["type"] == "ordinal":
        return parameter["choices"][round(number)]
    return round(number) if parameter["type"] == "int" else number


def config_of(space: Space, proposed: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of the active parameters alone, from a peer that proposes all or the active ones."""
    config: dict[str, Any] = {}
    for key, p in space.items():
        if active(p, config):
            config[key] = value(p, proposed[key])
    return config


class Scale:
    """A fidelity as whole steps, which some peers want: epochs as they are, a share in steps of the least one."""

    def __init__(self, fidelity: Mapping[str, Any]) -> None:
        self.unit = 1.0 if fidelity["min"] >= 1 else fidelity["levels"][0]
        self.least, self.most = self.steps(fidelity["levels"][0]), self.steps(fidelity["max"])
        self.levels = list(fidelity["levels"])
        self.whole = self.unit == 1.0

    def steps(self, fidelity: float) -> int:
        return round(fidelity / self.unit)

    def fidelity(self, steps: float) -> float:
        return round(steps) * self.unit if self.whole else min(steps * self.unit, self.levels[-1])

    def reports(self) -> list[float]:
        """Where a training is looked at: after each epoch, or at the levels of a share."""
        return [float(step) for step in range(1, self.most + 1)] if self.whole else self.levels
