"""The registry: a new strategy is a file in this folder and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from hpo_core.errors import InputError
from hpo_core.fidelity import Fidelity
from hpo_core.strategies.asha import Asha
from hpo_core.strategies.auto import Auto
from hpo_core.strategies.base import Promoting, Strategy
from hpo_core.strategies.bayesian import Bayesian
from hpo_core.strategies.gradient import Gradient
from hpo_core.strategies.grid import Grid
from hpo_core.strategies.hyperband import Hyperband
from hpo_core.strategies.quasi_random import QuasiRandom
from hpo_core.strategies.random import Random
from hpo_core.strategies.successive_halving import SuccessiveHalving
from hpo_core.strategies.tpe import Tpe

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
"""Settings that a strategy is handed ready made: another strategy, by its name, and the study's fidelity."""

__all__ = ["STRATEGIES", "Promoting", "Strategy", "has_fidelity", "has_setting", "make_strategy"]


def _settings(name: str) -> list[str]:
    cls: Any = STRATEGIES[name]
    return [field.name for field in fields(cls) if field.init]


def has_setting(name: str, key: str) -> bool:
    """Whether a strategy of the registry has a setting of this name.

    >>> has_setting("auto", "budget"), has_setting("random", "budget")
    (True, False)
    """
    return key in _settings(name)


def make_strategy(
    name: str, settings: Mapping[str, Any] | None = None, fidelity: Fidelity | None = None, *, field: str = "strategy"
) -> Strategy:
    """The strategy of a name with the given settings.

    Args:
        name: One of :data:`STRATEGIES`.
        settings: Its settings. One that is a strategy itself (``sampler``, ``outer``) is given as a name, or as a
            mapping with ``name`` and settings.
        fidelity: The study's, for a strategy that has use for it.
        field: Where the strategy stands in the study file, for messages.

    Raises:
        InputError: There is no such strategy or setting, or a setting has a value that it cannot have.

    >>> make_strategy("grid", {"steps": 3})
    Grid(steps=3, steps_by_name={})
    >>> make_strategy("hyperband", {"sampler": "quasi_random"}, Fidelity("epochs", 1, 9)).sampler
    QuasiRandom()
    """
    if name not in STRATEGIES:
        near = get_close_matches(name, STRATEGIES, 1)
        raise InputError(
            f"{field}.name",
            f"{name!r} is no strategy",
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
    """Whether a strategy chooses the fidelities of its proposals, and promotes."""
    return name in STRATEGIES and has_setting(name, FIDELITY)


def _sampler(value: Any, field: str) -> Strategy:
    settings = dict(value) if isinstance(value, Mapping) else {"name": value}
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise InputError(field, f"{value!r} names no strategy", "write it as tpe, or as {name: tpe, start: 5}")
    if has_fidelity(name):
        raise InputError(field, f"{name!r} chooses fidelities itself", "give a strategy that does not, such as tpe")
    if issubclass(STRATEGIES.get(name, object), Promoting):
        raise InputError(field, f"{name!r} goes on from trials itself", "give a strategy that does not, such as tpe")
    return make_strategy(name, settings, field=field)
