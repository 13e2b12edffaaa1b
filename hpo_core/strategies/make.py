"""Registers the strategies and creates them by name. A new one is a file in ``algorithms`` and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from hpo_core.base.errors import InputError
from hpo_core.history.fidelity import Fidelity
from hpo_core.strategies.algorithms.asha import Asha
from hpo_core.strategies.algorithms.bayesian import Bayesian
from hpo_core.strategies.algorithms.gradient import Gradient
from hpo_core.strategies.algorithms.grid import Grid
from hpo_core.strategies.algorithms.hyperband import Hyperband, SuccessiveHalving
from hpo_core.strategies.algorithms.quasi_random import QuasiRandom
from hpo_core.strategies.algorithms.random import Random
from hpo_core.strategies.algorithms.tpe import Tpe
from hpo_core.strategies.auto import Auto
from hpo_core.strategies.base import Promoting, Strategy

STRATEGIES: dict[str, type[Strategy]] = {
    "asha": Asha,
    "auto": Auto,
    "bayesian": Bayesian,
    "gradient": Gradient,
    "grid": Grid,
    "hyperband": Hyperband,
    "random": Random,
    "quasi_random": QuasiRandom,
    "successive_halving": SuccessiveHalving,
    "tpe": Tpe,
}

SAMPLER, OUTER, FIDELITY = "sampler", "outer", "fidelity"
"""Settings that a strategy receives as objects: another strategy, given by name, and the study's fidelity."""

__all__ = ["STRATEGIES", "Promoting", "Strategy", "has_fidelity", "has_setting", "make_strategy"]


def _settings(name: str) -> list[str]:
    cls: Any = STRATEGIES[name]
    return [field.name for field in fields(cls) if field.init]


def has_setting(name: str, key: str) -> bool:
    """Whether a registered strategy has a setting with this name.

    >>> has_setting("auto", "budget"), has_setting("random", "budget")
    (True, False)
    """
    return key in _settings(name)


def make_strategy(
    name: str, settings: Mapping[str, Any] | None = None, fidelity: Fidelity | None = None, *, field: str = "strategy"
) -> Strategy:
    """Create a strategy from its name and settings.

    Args:
        name: One of :data:`STRATEGIES`.
        settings: Its settings. A setting that is itself a strategy (``sampler``, ``outer``) is a name, or a mapping
            with ``name`` and settings.
        fidelity: The study's fidelity, for a strategy that uses it.
        field: Where the study file defines the strategy, for messages.

    Raises:
        InputError: The strategy or a setting does not exist, or a setting has an invalid value.

    >>> make_strategy("grid", {"steps": 3})
    Grid(steps=3, steps_by_name={})
    >>> make_strategy("hyperband", {"sampler": "quasi_random"}, Fidelity("epochs", 1, 9)).sampler
    QuasiRandom()
    """
    if name not in STRATEGIES:
        near = get_close_matches(name, STRATEGIES, 1)
        raise InputError(
            f"{field}.name",
            f"{name!r} is not a strategy",
            f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(sorted(STRATEGIES))}",
        )
    cls: Any = STRATEGIES[name]
    known = [setting for setting in _settings(name) if setting != FIDELITY]
    given = dict(settings or {})
    for key in given:
        if key not in known:
            remedy = f"it has {', '.join(known)}" if known else "it has none"
            raise InputError(f"{field}.{key}", f"{name!r} has no setting {key!r}", remedy)
    if SAMPLER in known:
        given[SAMPLER] = _sampler(given.get(SAMPLER, "random"), f"{field}.{SAMPLER}")
    if given.get(OUTER) is not None:
        given[OUTER] = _sampler(given[OUTER], f"{field}.{OUTER}")
    if has_fidelity(name) and fidelity is not None:
        given[FIDELITY] = fidelity
    try:
        strategy: Strategy = cls(**given)
    except (TypeError, ValueError) as error:
        raise InputError(field, f"{name!r}: {error}", "correct the setting") from None
    return strategy


def has_fidelity(name: str) -> bool:
    """Whether a strategy chooses the fidelities of its proposals and promotes trials."""
    return name in STRATEGIES and has_setting(name, FIDELITY)


def _sampler(value: Any, field: str) -> Strategy:
    settings = dict(value) if isinstance(value, Mapping) else {"name": value}
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise InputError(field, f"{value!r} does not name a strategy", "write it as tpe, or as {name: tpe, start: 5}")
    if has_fidelity(name):
        raise InputError(field, f"{name!r} chooses fidelities itself", "give a strategy that does not, such as tpe")
    if issubclass(STRATEGIES.get(name, object), Promoting):
        raise InputError(field, f"{name!r} continues trials itself", "give a strategy that does not, such as tpe")
    return make_strategy(name, settings, field=field)
