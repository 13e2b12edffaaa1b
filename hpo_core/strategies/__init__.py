"""The registry: a new strategy is a file in this folder and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from hpo_core.errors import InputError
from hpo_core.strategies.auto import Auto
from hpo_core.strategies.base import Strategy
from hpo_core.strategies.bayesian import Bayesian
from hpo_core.strategies.grid import Grid
from hpo_core.strategies.quasi_random import QuasiRandom
from hpo_core.strategies.random import Random
from hpo_core.strategies.tpe import Tpe

STRATEGIES: dict[str, type[Strategy]] = {
    "auto": Auto,
    "bayesian": Bayesian,
    "grid": Grid,
    "random": Random,
    "quasi_random": QuasiRandom,
    "tpe": Tpe,
}

__all__ = ["STRATEGIES", "Strategy", "has_setting", "make_strategy"]


def _settings(name: str) -> list[str]:
    cls: Any = STRATEGIES[name]
    return [field.name for field in fields(cls) if field.init]


def has_setting(name: str, key: str) -> bool:
    """Whether a strategy of the registry has a setting of this name.

    >>> has_setting("auto", "budget"), has_setting("random", "budget")
    (True, False)
    """
    return key in _settings(name)


def make_strategy(name: str, settings: Mapping[str, Any] | None = None) -> Strategy:
    """The strategy of a name with the given settings.

    Raises:
        InputError: There is no such strategy or setting, or a setting has a value that it cannot have.

    >>> make_strategy("grid", {"steps": 3})
    Grid(steps=3, steps_by_name={})
    """
    if name not in STRATEGIES:
        near = get_close_matches(name, STRATEGIES, 1)
        raise InputError(
            "strategy.name",
            f"{name!r} is no strategy",
            f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(sorted(STRATEGIES))}",
        )
    cls: Any = STRATEGIES[name]
    known = _settings(name)
    for key in settings or {}:
        if key not in known:
            remedy = f"it has {', '.join(known)}" if known else "it has none"
            raise InputError(f"strategy.{key}", f"{name!r} has no setting {key!r}", remedy)
    try:
        strategy: Strategy = cls(**(settings or {}))
    except (TypeError, ValueError) as error:
        raise InputError("strategy", f"{name!r}: {error}", "correct the setting") from None
    return strategy
